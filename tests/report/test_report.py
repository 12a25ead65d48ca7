import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="the command line needs tyro: pip install 'srdp_controller[cli]'")

from srdp_controller.report.run import by_engine, judge
from srdp_controller.report.tables import (
    SECTIONS,
    by_task,
    closed_loop,
    deployment,
    label,
    results,
    section,
    table,
    write_tables,
)

ROOT = Path(__file__).resolve().parents[2]


def sound(**changes):
    modes = {"STUDENT": 90, "TEACHER": 5, "HOLD": 5, "STOP": 0}
    run = {
        "cycles": 100,
        "commands": 100,
        "limit_violations": 0,
        "bad_commands": 0,
        "rejected_messages": 0,
        "modes": modes,
    }
    return run | changes


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, None),
        (
            {"failure": "the bundle is damaged", "cycles": 0, "commands": 0},
            "the controller failed: the bundle is damaged",
        ),
        ({"modes": {"STUDENT": 0, "TEACHER": 0, "HOLD": 100}, "rejected_messages": 7}, "7 messages were refused"),
        ({"commands": 95, "cycles_before_ready": 5}, None),  # nothing to command until it was measured
        ({"commands": 95}, "100 cycles but 95 commands"),
        ({"commands": 101}, "100 cycles but 101 commands"),
        ({"limit_violations": 2}, "2 commands outside the limits left the filter"),
        ({"bad_commands": 3}, "the robot refused 3 commands"),
    ],
)
def test_a_run_is_judged_with_its_cause(changes, cause):
    problems = judge(sound(**changes))
    assert problems[0].find(cause) >= 0 if cause else problems == [], problems


def test_an_episode_is_that_of_the_engine_that_drove_all_of_it():
    engines = [{"since_s": 0.0, "engine": "teacher"}, {"since_s": 10.0, "engine": "student_k1"}]
    times = [(1.0, 4.0, False), (5.0, 9.0, True), (9.5, 12.0, True), (12.5, 14.0, True)]
    outcomes = [{"begun_s": begun, "ended_s": ended, "success": success} for begun, ended, success in times]
    assert by_engine(outcomes, engines) == {
        "teacher": {"episodes": 2, "successes": 1},
        "student_k1": {"episodes": 1, "successes": 1},  # the third saw both
    }


def test_a_table_has_its_columns_and_a_line_a_row():
    text = table([{"x": 1, "y": {"z": 0.5}}], "a: {x} | b: {y[z]:.0%} | c: {twice}", twice=lambda row: 2 * row["x"])
    assert text.splitlines() == ["| a | b | c |", "| --- | --- | --- |", "| 1 | 50% | 2 |"]
    assert section("one", "", "two") == "one\n\ntwo"


def test_only_a_column_that_may_be_empty_is_left_empty():
    rows = [{"x": 1.0, "y": None}, {"x": 2.0}]
    assert table(rows, "a: {x:.0f} | b: ?{y:.1f} s | c: ?{z[p50]}").splitlines()[2:] == ["| 1 |  |  |", "| 2 |  |  |"]
    with pytest.raises(KeyError, match="y"):
        table(rows[1:], "b: {y}")


def test_a_sampler_says_its_starting_level():
    assert label("ddim_k4@60") == "DDIM, K = 4 from level 60"
    assert label("student_k2") == "student, K = 2" and label("teacher") == "teacher"
    assert label("zero_snr_k2") == "v-prediction, zero terminal SNR, K = 2" and label("bc").startswith("BC")


def row(policy, scenario, ways):
    return {
        "policy": policy,
        "scenario": scenario,
        "episodes": 200,
        "successes": 150,
        "success_rate": 0.75,
        "success_interval": [0.68, 0.81],
        "mean_episode_s": 6.0,
        "metrics": {"ways": ways, "post_contacts": 7},
        "commit": "0123456789ab",
    }


def test_the_results_table_says_each_policys_level_and_counts_ways_that_were_not_taken():
    rows = [row("ddim_k2@70", "nominal", {"left": 3}), row("teacher", "nominal", {"left": 2, "right": 1})]
    rows.append(row("teacher", "shifted", {"stuck": 1}))
    distances = {"policies": {}, "baselines": {"ddim_k2@70": {"ratio_to_floor": 1.5}}}
    lines = results({"rows": rows}, distances).splitlines()
    assert lines[0].startswith("| policy | episodes | nominal | 95 % interval | left / right / stuck |")
    assert lines[2] == "| DDIM, K = 2 from level 70 | 200 | 75.0% | 68.0% to 81.0% | 3 / 0 / 0 |  |  | 1.50 |"
    assert lines[3] == "| teacher | 200 | 75.0% | 68.0% to 81.0% | 2 / 1 / 0 |  | 75.0% | 1.00 |"
    line = closed_loop({"rows": rows}).splitlines()[3]
    assert line.startswith("| nominal | teacher | 150 of 200 (75.0%) | 68.0% to 81.0% | 2 / 1 / 0 | post contacts 7 |")


def test_ways_to_run_a_policy_stand_by_rate_and_those_with_other_settings_apart():
    usual = {
        "label": "student",
        "slower": 1.0,
        "blend_s": 0.0,
        "noise_hold_s": 0.0,
        "episodes": 40,
        "success_rate": 0.5,
    }
    usual |= {"command_jerk": 2.0, "age_ms": {"p50": 10.0}}
    table_rows = [usual | {"update_rate_hz": rate} for rate in (20.0, 100.0)]
    table_rows.append(usual | {"update_rate_hz": 100.0, "blend_s": 0.1})
    last = deployment({"table": table_rows}).splitlines()[-1]
    assert last == "| student | 100 Hz | 1 | 0.1 s | 0.0 s | 50% / 2.0 / 10 ms |"


def test_success_stands_by_policy_and_task_where_no_delay_is_added():
    def result(task, level, **rates):
        rows = [
            {"policy": policy, "way": "in the loop", "added_delay_ms": delay, "success_rate": rate}
            for policy, rate in rates.items()
            for delay in (0.0, 100.0)
        ]
        rows.append({"policy": f"ddim_k1@{level}", "way": "in the loop", "added_delay_ms": 0.0, "success_rate": 0.5})
        return {"task": task, "inference_us": {}, "table": [{**row, "success_interval": (0.25, 0.75)} for row in rows]}

    later = {**result("pushing", 90), "table": result("pushing", 90, gmm=0.8)["table"][:1]}
    text = by_task(result("pushing", 90, student_k1=1.0), result("metaworld:sweep", 60, bc=0.9, student_k1=0.0), later)
    assert text.splitlines() == [
        "| policy, way | pushing | sweep |",
        "| --- | --- | --- |",
        "| student, K = 1, in the loop | 100% (25% to 75%) | 0% (25% to 75%) |",
        "| DDIM, K = 1, in the loop | 50% (25% to 75%) | 50% (25% to 75%) |",
        "| BC, mixture of Gaussians, in the loop | 80% (25% to 75%) |  |",
        "| BC, mean square error, in the loop |  | 90% (25% to 75%) |",
    ]


def test_only_marked_sections_of_the_documents_change(tmp_path, monkeypatch):
    for name in ("results", "docs", "models"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/bench/swap.json").unlink()
    demo = json.loads((tmp_path / "results/demo/demo.json").read_text())
    (tmp_path / "results/demo/demo.json").write_text(json.dumps(demo | {"commit": "0123456789ab"}))
    before = (ROOT / "README.md").read_text()
    result = write_tables()
    assert "docs/real_time.md: swap" in result["left_out"] and "README.md: demo" in result["written"]
    after = (tmp_path / "README.md").read_text()
    assert "0123456789ab" in after
    assert before[: before.index("<!-- demo")] == after[: after.index("<!-- demo")]
    assert all(
        (tmp_path / document).read_text().count("<!-- end of") >= len(makers) for document, makers in SECTIONS.items()
    )
