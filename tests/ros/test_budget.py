"""A bundle says how late commands may be; the node compares that with what it measures."""

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from srdp_controller.engines.bundle import LatencyBudget, load_bundle, write_bundle

pytestmark = pytest.mark.ros


def with_budget(folder, delay_s, undelayed_age_s=0.0):
    budget = LatencyBudget(
        policy="student_k1",
        scenario="nominal",
        update_rate_hz=100.0,
        episodes=100,
        share=0.9,
        delay_s=delay_s,
        interval_s=(delay_s, delay_s),
        undelayed_age_s=undelayed_age_s,
        longest_s=0.3,
    )
    write_bundle(folder, load_bundle(folder).content.model_copy(update={"latency_budget": budget}))
    return str(folder)


def test_older_commands_than_the_budget_allows_are_a_warning(start, bench, bundle_copy):
    statuses: list[DiagnosticStatus] = []
    bench.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: statuses.extend(m.status), 10)
    model = with_budget(bundle_copy, 0.0005)  # what it observes comes every 10 ms
    controller = start("controller_node", engine="student_k1", model_dir=model)
    assert bench.until("STUDENT"), controller.output
    bench.run(2.5)
    assert bench.mode == "STUDENT"
    warned = [status for status in statuses if "latency budget of 0 ms" in status.message]
    assert warned and all(status.level == DiagnosticStatus.WARN for status in warned)


def test_enforced_it_holds_instead(start, bench, bundle_copy):
    model = with_budget(bundle_copy, 0.0005)
    controller = start("controller_node", engine="student_k1", model_dir=model, **{"latency.enforce": True})
    assert bench.until("STOP"), controller.output
    assert "STUDENT" not in bench.modes[-2:]


def test_enforced_it_refuses_an_engine_that_takes_longer(start, bundle_copy):
    model = with_budget(bundle_copy, 1e-6, undelayed_age_s=0.2)
    controller = start("controller_node", engine="student_k1", model_dir=model, **{"latency.enforce": True})
    assert controller.wait() == 2
    assert "by which commands may be late" in controller.output and "Traceback" not in controller.output


def test_a_bundle_without_a_budget_has_none_to_enforce(start):
    controller = start("controller_node", **{"latency.enforce": True})
    assert controller.wait() == 2
    assert "srdp eval budget" in controller.output
