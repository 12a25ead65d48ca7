"""Experiments at toy size: real processes, real trainings."""

import json

import numpy as np
import pytest
import yaml

pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
pytest.importorskip("joblib", reason="the offline side needs joblib: make setup-train")

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.evaluation.closed_loop import Job
from srdp_controller.experiments.ablations import ABLATIONS, FULL, ablations, summarise, t_interval
from srdp_controller.experiments.cells import graphs
from srdp_controller.experiments.commitment import commitment
from srdp_controller.experiments.futures import apart, futures
from srdp_controller.experiments.latency import latency
from srdp_controller.experiments.sheaf import sheaf
from srdp_controller.experiments.spread import spread
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.pipeline import Pipeline
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.report.commitment_figure import commitment_figure
from srdp_controller.report.delay_figure import delay_figure

RECIPE = {
    "task": "pushing",
    "collect": {"episodes": 10, "processes": 1},
    "split": {"calibration_share": 0.4},
    "teacher": {
        "steps": 30,
        "diffusion_steps": 10,
        "network": {"trunk": [16], "latent": 8, "head": [16, 16], "time_features": 8},
    },
    "distill": {"steps": 10, "queries": 300, "students": [1], "batch": 32, "processes": 1},
    "calibrate": {"alphas": [0.25, 0.5]},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def base(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    return Pipeline(load_recipe(recipe), folder).run("distill").folder


@pytest.mark.timeout(400)
def test_quick_ablations_have_the_contracts_keys_and_a_figure(recipe, base, tmp_path):
    result = ablations(recipe, quick=True, run_folder=base, picture=tmp_path / "a.png", processes=1)
    assert result["quick"] and {"checks", "table", "figures"} <= set(result)
    assert {line["variant"] for line in result["table"]} == {"full", "no_alignment", "direct"}
    assert all({"name", "passed", "value", "bound"} <= set(check) for check in result["checks"])
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len(result["rows"]) == 6


def row(variant, seed, ratio):
    metrics = {"ratio_to_floor": ratio, "matched_noise_rmse": ratio, "latent_distance": None}
    metrics |= {"tv_lower": 0.0, "mode_coverage": None}
    states = dict.fromkeys(("test", "shifted", "augmented", "far"), metrics)
    return {
        "variant": variant,
        "seed": seed,
        "K": 1,
        "states": states,
        "success_rate": {"nominal": 1.0, "shifted": 1.0},
    }


def test_differences_to_the_full_recipe_are_paired_by_seed():
    rows = [row("full", seed, 1.0 + seed) for seed in range(3)] + [row("other", seed, 1.5 + seed) for seed in range(3)]
    line = next(line for line in summarise(rows) if line["variant"] == "other")
    entry = line["states"]["test"]["ratio_to_floor"]
    assert entry["mean"] == pytest.approx(2.5) and entry["difference_to_full"] == pytest.approx(0.5)
    assert entry["difference_interval"] == pytest.approx([0.5, 0.5])
    assert entry["interval"][1] - entry["interval"][0] > 2.0


def test_the_t_interval_is_students():
    low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (high - low) / 2 == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)


def test_every_ablation_of_section_8_is_there():
    names = {ablation.name for ablation in ABLATIONS}
    assert {"no_alignment", "terminal_only", "direct", "frozen_trunk", "consistency"} <= names
    assert set(FULL.variants) == names and FULL.seeds >= 3


def test_tasks_run_in_other_processes():
    import os

    pids = set(run_parallel([os.getpid] * 4, 2))
    assert os.getpid() not in pids


def test_a_baseline_that_was_trained_again_is_another_graph(model_dir, tmp_path):
    job = Job(model_dir, "bc", "pushing", "nominal", {"planning.mode": "every_cycle"}, baselines=tmp_path)
    keys = []
    for content in (b"first", b"second"):
        (tmp_path / "bc.onnx").write_bytes(content)
        keys.append(graphs(load_bundle(model_dir), job))
    assert keys[0] != keys[1]


def test_latency_drives_each_policy_at_each_delay_once(model_dir, tmp_path, capsys):
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"name": "brief", "time_limit_s": 0.3}))

    def found(lost=-1.0, only=("in the loop", "newest chunk")):
        return latency(
            model_dir,
            policies=("student_k1",),
            delays=(0.0, 50.0),
            only=only,
            scenario=str(brief),
            inference=40.0,
            lost=lost,
            episodes=1,
            processes=1,
            run_folder=tmp_path / "runs",
        )

    first = found()
    rows = [(row["policy"], row["way"], row["added_delay_ms"]) for row in first["table"]]
    ways = [("teacher", "in the loop"), ("teacher", "newest chunk"), ("student_k1", "in the loop")]
    assert rows == [(*way, delay) for delay in (0.0, 50.0) for way in ways]
    by_row = dict(zip(rows, first["table"], strict=True))
    # 40 ms are four periods: the loop waits through three of them, the planner through none
    assert by_row["teacher", "in the loop", 0.0]["missed_cycles"] > 15
    assert by_row["teacher", "newest chunk", 0.0]["missed_cycles"] == 0
    assert "| student, K = 1, in the loop |" in capsys.readouterr().out
    picture = tmp_path / "latency.png"
    (tmp_path / "found.json").write_text(json.dumps(first))
    assert delay_figure((tmp_path / "found.json",), picture)["tasks"] == ["pushing"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert found()["table"] == first["table"]
    assert found(only=("student_k1",))["table"] == [row for row in first["table"] if row["policy"] == "student_k1"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == written
    # nothing succeeds within 0.3 s, so nothing is driven with more delay
    assert [row["added_delay_ms"] for row in found(0.0)["table"]] == [0.0] * 3


def test_commitment_drives_each_way_at_each_rate_once(model_dir, tmp_path, capsys):
    brief = tmp_path / "brief.yaml"
    brief.write_text(yaml.safe_dump({"name": "brief", "time_limit_s": 0.3}))

    def found():
        return commitment(
            model_dir,
            rates=(20.0, 100.0),
            held=(0.2,),
            chunks=(0.1,),
            candidates=(4,),
            scenario=str(brief),
            measured=True,
            episodes=1,
            processes=1,
            run_folder=tmp_path / "runs",
        )

    first = found()
    rows = [(row["way"], row["update_rate_hz"]) for row in first["table"]]
    assert rows == [(way, rate) for way in ("fresh", "held 0.2 s", "chunks 0.1 s", "coherent 4") for rate in (20, 100)]
    assert "| student, K = 1, coherent 4 |" in capsys.readouterr().out
    (tmp_path / "found.json").write_text(json.dumps(first))
    commitment_figure((tmp_path / "found.json",), tmp_path / "commitment.png")
    assert (tmp_path / "commitment.png").read_bytes().startswith(b"\x89PNG")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert found()["table"] == first["table"] and len(written) == len(rows) + 1  # and how long an evaluation takes
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == written


def test_futures_are_drawn_at_states_where_the_teacher_is_undecided(model_dir, tmp_path):
    picture = tmp_path / "futures.png"
    found = futures(model_dir, policies=("student_k1",), states=2, samples=8, picture=picture)
    assert found["policies"] == ["student_k1"] and picture.read_bytes().startswith(b"\x89PNG")


def test_the_sheaf_of_an_episode_is_drawn_with_what_was_driven(model_dir, tmp_path):
    found = sheaf(model_dir, candidates=(1, 3), moments=2, picture=tmp_path / "sheaf.png")
    assert set(found["succeeded"]) == {"1", "3"} and (tmp_path / "sheaf.png").read_bytes().startswith(b"\x89PNG")


def test_the_spread_of_chunks_stands_beside_the_latent_distance(model_dir, capsys):
    found = spread(model_dir, candidates=4, states=12)
    assert [row["score"] for row in found["table"]] == ["spread", "latent_distance"]
    for row in found["table"]:
        low, high = row["auroc_augmented_interval"]
        assert 0.0 <= low <= row["auroc_augmented"] <= high <= 1.0
    assert "latent_distance: rank correlation" in capsys.readouterr().out


def test_chosen_states_are_of_the_largest_values_and_apart():
    values = np.array([9.0, 8.9, 8.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    places = np.array([[0.0], [0.01], [1.0], [5.0]] + [[9.0]] * 8)
    assert apart(values, places, 2) == [0, 2]
    assert apart(values[:2], places[:2], 3) == [0, 1]
