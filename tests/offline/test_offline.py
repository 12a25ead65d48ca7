"""The offline pipeline on a tiny recipe: real simulation, real training, real export."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
pytest.importorskip("minari", reason="the offline side needs minari: make setup-train")

from srdp_controller.engines.bundle import load_bundle, write_bundle  # noqa: E402
from srdp_controller.engines.providers import load_engine  # noqa: E402
from srdp_controller.errors import DatasetError, SrdpError  # noqa: E402
from srdp_controller.evaluation.demonstrations import demonstrations  # noqa: E402
from srdp_controller.evaluation.replay import replay  # noqa: E402
from srdp_controller.offline.dataset import Trajectory, load_trajectories, samples, split_indices  # noqa: E402
from srdp_controller.offline.pipeline import Pipeline  # noqa: E402
from srdp_controller.offline.recipe import Recipe, load_recipe  # noqa: E402
from srdp_controller.offline.training import fit  # noqa: E402
from srdp_controller.report.replay_figure import replay_figure  # noqa: E402
from srdp_controller.tasks.pushing.spec import pushing_spec  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe.model_validate(
    {
        "task": "pushing",
        "collect": {"episodes": 10, "disturbance": 0.5, "processes": 1},  # to start others takes longer
        "split": {"calibration_share": 0.4},
        "teacher": {
            "steps": 30,
            "diffusion_steps": 10,
            "network": {"trunk": [16], "latent": 8, "head": [16, 16], "time_features": 8},
        },
        "distill": {"steps": 10, "queries": 300, "students": [1, 2], "batch": 32, "processes": 1},
        "calibrate": {"alphas": [0.25, 0.5]},
    }
)


DATASET = "pushing/expert-v1"


def run_pipeline(recipe, folder, target=None, report=lambda *_: None, last="export"):
    # networks this small only lose by more threads, the more so beside other work
    return Pipeline(recipe, folder, target, report).run(last)


def stages_run(recipe, folder, target):
    """The stages that were not skipped."""
    said = []
    pipeline = run_pipeline(recipe, folder, target, lambda *a: said.append(a))
    return [name for name in pipeline.stages if (name, 1, 1, "unchanged, skipped") not in said]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    said = []
    content = RECIPE.model_dump(mode="json")
    for section in ("collect", "distill"):
        content[section]["processes"] = 2
    run_pipeline(Recipe.model_validate(content), folder / "run", folder / "bundle", lambda *a: said.append(a))
    return folder, said


def test_demonstrations_that_were_held_out_judge_a_bundles_policies(finished, capsys):
    folder, _ = finished
    ask = partial(demonstrations, folder / "bundle", run_folder=folder / "run", baselines=folder, states=3, samples=8)
    found = ask()
    assert [row["policy"] for row in found["table"]] == ["student_k1", "student_k2"]
    first, second = found["table"]
    assert first["interval"][0] <= first["energy_score"] <= first["interval"][1] and first["ratio"] == 1.0
    assert second["ratio"] == pytest.approx(second["energy_score"] / first["energy_score"])
    assert found["states"] == 3 * found["trajectories"] > 0 and "student_k2" in capsys.readouterr().out
    assert ask(policies=("teacher",))["table"][0]["energy_score"] > 0.0
    with pytest.raises(SrdpError, match="--samples 1: expected at least one policy, one state and two samples"):
        ask(samples=1)


def test_chunks_are_compared_with_what_was_recorded_by_component_and_step(finished, tmp_path, capsys):
    folder, _ = finished
    found = replay(folder / "bundle", run_folder=folder / "run", states=3, samples=4)
    (tmp_path / "replay.json").write_text(json.dumps(found))
    replay_figure(tmp_path / "replay.json", tmp_path / "replay.png")
    by_policy = {(row["policy"], row["action"]): row for row in found["table"]}
    assert {policy for policy, _ in by_policy} == {"teacher", "student_k1", "student_k2"}
    for (policy, _), row in by_policy.items():
        assert len(row["error_by_step"]) == len(row["from_teacher_by_step"]) == pushing_spec().horizon
        assert row["error"] == pytest.approx(np.mean(row["error_by_step"]), rel=0.2)
        assert (row["from_teacher"] == 0.0) == (policy == "teacher")
        assert row["latency_ms"]["p50"] > 0.0
    with pytest.raises(SrdpError, match="not of `srdp eval replay`"):
        replay_figure(tmp_path / "nowhere.json")
    assert (tmp_path / "replay.png").stat().st_size > 1000
    assert "student_k2: " in capsys.readouterr().out


def test_demonstrations_of_another_dataset_judge_nobody(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(SrdpError, match="no run of the pipeline"):
        demonstrations(folder / "bundle", run_folder=tmp_path)
    shutil.copy(folder / "run" / "recipe.json", tmp_path)
    with pytest.raises(SrdpError, match=r"Name a run folder with the bundle's dataset"):
        demonstrations(folder / "bundle", run_folder=tmp_path)
    with pytest.raises(SrdpError, match="that nobody learned from"):
        demonstrations(folder / "bundle", run_folder=folder / "run", fresh=True)


def test_all_of_a_fresh_collection_judges(finished, tmp_path):
    folder, _ = finished
    run_pipeline(RECIPE.model_copy(update={"seed": 5}), tmp_path, tmp_path / "bundle", last="data")
    found = demonstrations(folder / "bundle", run_folder=tmp_path, baselines=folder, fresh=True, states=2, samples=4)
    assert found["fresh"] and found["trajectories"] == RECIPE.collect.episodes


def test_the_pipeline_ends_in_a_bundle_that_loads_and_answers(finished):
    folder, _ = finished
    bundle = load_bundle(folder / "bundle")
    assert set(bundle.content.policies) == {"teacher", "student_k1", "student_k2"}
    for name in bundle.content.policies:
        assert np.isfinite(load_engine(bundle, name, "cpu").action).all()


def test_the_bundle_says_what_it_was_made_from(finished):
    folder, _ = finished
    provenance = load_bundle(folder / "bundle").content.provenance
    assert {"dataset", "recipe", "seed", "versions", "metrics", "stages"} <= set(provenance)
    assert provenance["metrics"]["teacher"]["step"] == RECIPE.teacher.steps


def test_the_dataset_carries_its_seed_and_recipe(finished, monkeypatch):
    import minari

    folder, _ = finished
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "run" / "dataset"))
    metadata = minari.load_dataset(DATASET).storage.metadata
    assert metadata["seed"] == RECIPE.seed
    assert json.loads(metadata["recipe"])["episodes"] == RECIPE.collect.episodes


def test_unchanged_stages_are_skipped(finished):
    folder, _ = finished
    assert stages_run(RECIPE, folder / "run", folder / "bundle") == []


@pytest.mark.parametrize(
    ("changes", "run"),
    [
        ({"calibrate": {"alphas": [0.5]}}, ["calibrate", "export"]),
        ({"distill": {"latent_weight": 0.2}}, ["distill", "calibrate", "export"]),
        ({"distill": {"queries": 200}}, ["queries", "distill", "calibrate", "export"]),
        ({"distill": {"processes": 2}, "collect": {"processes": 2}}, []),
        ({"observation": {"history_dropout": 0.1}}, ["data", "teacher", "queries", "distill", "calibrate", "export"]),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows_only(finished, tmp_path, changes, run):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "copy")
    content = RECIPE.model_dump(mode="json")
    for section, values in changes.items():
        content[section].update(values)
    # the bundle's folder is part of its key
    assert stages_run(RECIPE, tmp_path / "copy/run", tmp_path / "copy/bundle") == ["export"]
    assert stages_run(Recipe.model_validate(content), tmp_path / "copy/run", tmp_path / "copy/bundle") == run


def test_what_was_completed_elsewhere_for_the_same_keys_is_taken_over(finished, tmp_path):
    folder, _ = finished
    changed = RECIPE.model_copy(update={"distill": RECIPE.distill.model_copy(update={"latent_weight": 0.2})})
    pipeline = Pipeline(changed, tmp_path / "run")
    assert pipeline.take_over(folder / "run") == ["collect", "data", "teacher", "queries"]
    assert (tmp_path / "run/teacher.pt").samefile(folder / "run/teacher.pt")
    before = (folder / "run/student_k1.pt").read_bytes()
    pipeline.run("distill")
    assert (folder / "run/student_k1.pt").read_bytes() == before != (tmp_path / "run/student_k1.pt").read_bytes()


def test_the_recorded_command_is_the_experts_and_the_executed_one_differs(finished):
    folder, _ = finished
    trajectories = load_trajectories(folder / "run" / "dataset", DATASET, pushing_spec())
    assert len(trajectories) == 10
    speeds = np.concatenate([np.linalg.norm(trajectory.action, axis=1) for trajectory in trajectories])
    assert speeds.max() <= 0.36 + 1e-6  # the expert's own limit, which the disturbed command breaks
    for trajectory in trajectories:
        assert trajectory.executed.shape == trajectory.action.shape
        assert 0.01 < float(np.abs(trajectory.executed - trajectory.action).mean()) < 0.1


def test_chunks_repeat_the_last_action_past_the_end():
    spec = pushing_spec()
    action = np.arange(6, dtype=np.float32).reshape(3, 2) / 10
    chunk = samples([Trajectory(np.zeros((3, 8), np.float32), action)], spec).action
    scale = spec.action_normalisation()[1][0]
    last = chunk[2].reshape(spec.horizon, 2)
    assert np.allclose(last, action[2] / scale)
    assert np.allclose(chunk[0].reshape(spec.horizon, 2)[:3], action / scale)


def test_splits_are_disjoint_and_whole():
    parts = split_indices(20, 0.2, 0.1, 0)
    assert sorted(index for part in parts.values() for index in part) == list(range(20))
    assert (len(parts["calibration"]), len(parts["test"])) == (4, 2)


def test_a_missing_dataset_is_one_clear_error(tmp_path):
    with pytest.raises(DatasetError, match="srdp collect"):
        load_trajectories(tmp_path, DATASET, pushing_spec())


def test_a_nan_in_the_dataset_names_the_episode(finished, tmp_path):
    import h5py

    folder, _ = finished
    shutil.copytree(folder / "run" / "dataset", tmp_path / "dataset")
    with h5py.File(tmp_path / "dataset" / DATASET / "data" / "main_data.hdf5", "r+") as file:
        file["episode_3"]["actions"][1, 0] = np.nan
    with pytest.raises(DatasetError, match="episode 3: contains NaN"):
        load_trajectories(tmp_path / "dataset", DATASET, pushing_spec())


def fit_line(model, loss, folder, steps):
    settings = {"learning_rate": 1e-2, "ema_decay": 0.9, "seed": 1, "checkpoint_every": 10}
    return fit(model, loss, folder=folder, name="line", steps=steps, progress=lambda *a: None, **settings)


def test_an_interrupted_training_ends_in_the_same_weights(tmp_path):
    class InterruptedRunError(Exception):
        pass

    def run(folder, interrupt_at=None):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)

        def loss(step, generator, average):
            if step == interrupt_at:
                raise InterruptedRunError
            x = torch.randn(8, 3, generator=generator)
            return (model(x) - x[:, :2]).square().mean(), {}

        return fit_line(model, loss, folder, 40)

    whole = run(tmp_path / "a")
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "b", interrupt_at=25)
    resumed = run(tmp_path / "b")
    assert torch.equal(whole.weight, resumed.weight)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.steps=0", "teacher.steps"),
        ("teacher.stepz=3", "teacher.stepz"),
        ("teacher.steps", "section.key=value"),
    ],
)
def test_a_wrong_override_names_the_field(override, message):
    with pytest.raises(SrdpError, match=message):
        load_recipe(ROOT / "export" / "pushing.yaml", [override])


def test_a_checkpoint_of_another_device_is_one_clear_error(tmp_path):
    state = {"generator": torch.zeros(16, dtype=torch.uint8)}  # a GPU's generator has a state of 16 bytes
    torch.save(state, tmp_path / "line.checkpoint")
    with pytest.raises(SrdpError, match="begun on another --device"):
        fit_line(torch.nn.Linear(3, 2), lambda *_: (torch.zeros(()), {}), tmp_path, 1)


def test_a_gpu_that_is_not_there_is_one_clear_error(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(SrdpError, match="leave --device out"):
        Pipeline(RECIPE, tmp_path, device="cuda")


@pytest.mark.timeout(400)
def test_a_pipeline_killed_in_every_stage_ends_in_the_same_bundle(finished, tmp_path):
    folder, _ = finished
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    command = [sys.executable, "-m", "srdp_controller.cli", "pipeline", str(recipe)]
    command += ["--run-folder", "run", "--output", "bundle"]  # relative, as `make bundle` has them
    place = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    stages = tmp_path / "run" / "stages.json"

    def kill_when(condition):
        running = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **place
        )
        give_up = time.monotonic() + 60
        while not condition() and time.monotonic() < give_up and running.poll() is None:
            time.sleep(0.005)
        assert running.poll() is None, "the pipeline ended before it could be killed"
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    kill_when(lambda: (tmp_path / "run" / "dataset" / "pushing").exists())  # amid collecting
    assert not stages.exists()
    for stage in ("collect", "teacher", "queries", "distill", "calibrate"):  # amid the stage after each
        kill_when(lambda stage=stage: stages.exists() and f'"{stage}"' in stages.read_text())
        assert not (tmp_path / "bundle").exists()
    last = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **place)
    assert last.returncode == 0, last.stderr
    assert "unchanged, skipped" in last.stderr
    found = load_bundle(tmp_path / "bundle")
    assert found.identity == load_bundle(folder / "bundle").identity
    assert found.identity in last.stdout


def test_the_identity_is_of_what_acts_and_not_of_its_history(finished, tmp_path):
    folder, _ = finished
    loaded = load_bundle(folder / "bundle")
    for changes, same in (({"provenance": {}}, True), ({"task": "pulling"}, False)):
        write_bundle(tmp_path, loaded.content.model_copy(update=changes))
        assert (load_bundle(tmp_path).identity == loaded.identity) is same


def test_the_run_folder_holds_the_recorded_split_and_the_losses(finished):
    folder, _ = finished
    split = json.loads((folder / "run" / "split.json").read_text())
    assert sorted(entry["episode"] for part in split.values() for entry in part) == list(range(10))
    for name in ("teacher", "student_k1"):
        last = json.loads((folder / "run" / f"{name}.jsonl").read_text().splitlines()[-1])
        assert last["held_out"] > 0.0


def test_weights_that_are_stored_in_half_are_rounded_before_anybody_learns_from_them(finished):
    folder, _ = finished
    content = RECIPE.model_dump(mode="json")
    exact = Pipeline(Recipe.model_validate(content), folder / "run").teacher()
    content["teacher"]["storage"] = "float16"
    rounded = Pipeline(Recipe.model_validate(content), folder / "run").teacher()
    changed = 0
    for weights, stored in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(weights.half().float(), stored)
        changed += int((weights != stored).sum())
    assert changed > 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "changes",
    [
        {"observation": {"observation_history": 1, "command_history": 2, "action_prefix": 3}},
        {"teacher": {"prediction": "v", "trunk_input": "state_action_time"}},
        {
            "teacher": {
                "critic": {"enabled": True, "guidance_weight": 0.5, "best_of": 2, "steps": 20, "policy_steps": 20}
            }
        },
        {"distill": {"method": "consistency", "trunk": "frozen"}},
    ],
)
def test_every_kind_of_recipe_ends_in_a_bundle(finished, tmp_path, changes):
    folder, _ = finished
    content = RECIPE.model_dump(mode="json")
    for section, values in changes.items():
        content[section].update(values)
    pipeline = Pipeline(Recipe.model_validate(content), tmp_path / "run", tmp_path / "bundle")
    assert pipeline.take_over(folder / "run")[0] == "collect"
    pipeline.run()
    bundle = load_bundle(tmp_path / "bundle")
    for name in bundle.content.policies:
        engine = load_engine(bundle, name, "cpu")
        assert engine.observation.shape == (1, bundle.spec.obs_dim)
