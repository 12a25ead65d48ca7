import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from srdp_controller.engines.bundle import load_bundle, write_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.closed_loop import closed_loop
from srdp_controller.evaluation.latency_budget import budget, crossing
from srdp_controller.evaluation.rollout import Driver, rollout
from srdp_controller.tasks.task import find_task

DELAYS_S = np.array([0.0, 0.05, 0.1, 0.2])


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([1.0, 1.0, 0.8, 0.0], 0.075),  # halfway between 50 and 100 ms it is 0.9
        ([0.5, 0.5, 0.5, 0.4], 0.15),  # of its own value without delay
        ([1.0, 0.95, 1.0, 0.95], 0.2),  # never: the longest that was tried
        ([1.0, 0.8, 1.0, 1.0], 0.025),  # what comes after is chance
    ],
)
def test_the_budget_is_where_success_falls_below_nine_tenths(rates, expected):
    assert crossing(DELAYS_S, np.array(rates)[:, None]) == pytest.approx(expected)


def test_added_delay_is_the_drives_and_ages_no_observation(bundle):
    task = find_task("pushing")
    assert task.scenario("delayed").delayed(0.1).actuation.delay_s == pytest.approx(0.15)
    from srdp_controller.evaluation.policies import bundled

    driver = Driver(bundled(bundle, "student_k1"))
    one, other = (
        rollout(task, "nominal", driver, [5], spec=bundle.spec, added_delay_s=delay)[0] for delay in (0.0, 0.2)
    )
    assert one.command_age_s == pytest.approx(other.command_age_s, abs=0.01)
    assert 0.0 < one.command_age_s < 0.1
    assert not np.array_equal(one.commands[:200], other.commands[:200])


def easy(folder):
    """A scenario whose goal begins where the box stands: a push in its direction is enough, at any delay."""
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump({"name": "short", "time_limit_s": 6.0, "success_radius_m": 0.25}))
    return path


def test_no_delay_is_tried_beyond_one_that_halves_success(model_dir, tmp_path):
    found = budget(Path(model_dir), scenario=str(easy(tmp_path)), delays=(0.0, 7000.0, 8000.0), episodes=1, processes=1)
    assert [row["successes"] for row in found["table"]] == [1, 0]
    assert found["longest_s"] == 7.0


def test_a_stored_budget_is_in_the_bundle_and_its_graphs_stay(model_dir, tmp_path, capsys):
    folder = tmp_path / "bundle"
    shutil.copytree(model_dir, folder)
    write_bundle(folder, load_bundle(folder).content)  # in today's schema
    before = load_bundle(folder).identity
    short = easy(tmp_path)
    found = budget(folder, scenario=str(short), delays=(0.0, 100.0), episodes=2, processes=1, store=True)
    stored = load_bundle(folder)
    assert [row["successes"] for row in found["table"]] == [2, 2]
    assert stored.content.latency_budget is not None
    assert stored.content.latency_budget.delay_s == found["delay_s"] == 0.1
    assert stored.identity == before  # results of before the budget are still this bundle's
    assert "at least 100 ms" in capsys.readouterr().out


def test_where_nothing_succeeds_there_is_no_budget(model_dir, tmp_path):
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"name": "brief", "time_limit_s": 0.2}))
    with pytest.raises(SrdpError, match="never succeeds"):
        budget(Path(model_dir), scenario=str(brief), delays=(0.0, 50.0), episodes=2, processes=1)


def test_delays_rise_from_zero(model_dir):
    with pytest.raises(SrdpError, match="from 0 up"):
        budget(Path(model_dir), delays=(50.0, 0.0))


def test_closed_loop_takes_an_added_delay(model_dir, tmp_path):
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"name": "brief", "time_limit_s": 0.2}))
    found = closed_loop(
        Path(model_dir), policy="student_k1", scenario=str(brief), episodes=1, added_delay=40.0, processes=1
    )
    assert found["added_delay_ms"] == 40.0
