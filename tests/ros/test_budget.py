"""A bundle says how late commands may be; the node compares that with what it measures."""

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from srdp_controller.engines.bundle import load_bundle, write_bundle

pytestmark = pytest.mark.ros


@pytest.fixture
def with_budget(bundle_copy, make_budget):
    def write(delay_s, undelayed_age_s=0.0):
        budget = make_budget(delay_s, undelayed_age_s)
        write_bundle(bundle_copy, load_bundle(bundle_copy).content.model_copy(update={"latency_budget": budget}))
        return str(bundle_copy)

    return write


def test_older_commands_than_the_budget_allows_are_a_warning(start, bench, with_budget):
    statuses: list[DiagnosticStatus] = []
    bench.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: statuses.extend(m.status), 10)
    bench.age_ns, model = 40_000_000, with_budget(0.02)
    controller = start("controller_node", engine="student_k1", model_dir=model)
    assert bench.until("STUDENT"), controller.output
    bench.run(2.5)
    assert bench.mode == "STUDENT"
    warned = [status for status in statuses if "latency budget of 20 ms" in status.message]
    assert warned and all(status.level == DiagnosticStatus.WARN for status in warned)


def test_enforced_it_holds_instead(start, bench, with_budget):
    bench.age_ns, model = 40_000_000, with_budget(0.02)
    controller = start("controller_node", engine="student_k1", model_dir=model, **{"latency.enforce": True})
    assert bench.until("STOP"), controller.output
    assert "STUDENT" not in bench.modes[-2:]


def test_enforced_it_refuses_an_engine_that_takes_longer(start, with_budget):
    model = with_budget(1e-6, undelayed_age_s=0.2)
    controller = start("controller_node", engine="student_k1", model_dir=model, **{"latency.enforce": True})
    assert controller.wait() == 2
    assert "by which commands may be late" in controller.output and "Traceback" not in controller.output


def test_a_bundle_without_a_budget_has_none_to_enforce(start, bundle_copy):
    write_bundle(bundle_copy, load_bundle(bundle_copy).content.model_copy(update={"latency_budget": None}))
    controller = start("controller_node", model_dir=str(bundle_copy), **{"latency.enforce": True})
    assert controller.wait() == 2
    assert "srdp eval budget" in controller.output
