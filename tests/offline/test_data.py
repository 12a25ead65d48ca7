"""Datasets of other makes, recorded splits, and what the policy sees of its own commands."""

import json
import re

import numpy as np
import pytest
import yaml

pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
h5py = pytest.importorskip("h5py", reason="the offline side needs h5py: make setup-train")

from srdp_controller import cli  # noqa: E402
from srdp_controller.engines.bundle import load_bundle  # noqa: E402
from srdp_controller.errors import DatasetError, SpecError, SrdpError  # noqa: E402
from srdp_controller.offline.check import check, remarks  # noqa: E402
from srdp_controller.offline.dataset import (  # noqa: E402
    Trajectory,
    dataset_digest,
    full_observations,
    load_d4rl,
    load_trajectories,
    read_minari,
    samples,
)
from srdp_controller.offline.pipeline import Pipeline  # noqa: E402
from srdp_controller.offline.recipe import Recipe, load_recipe  # noqa: E402
from srdp_controller.offline.train_teacher import build_teacher  # noqa: E402
from srdp_controller.spec import load_spec  # noqa: E402
from srdp_controller.tasks.pushing.spec import pushing_spec  # noqa: E402


def write_d4rl(path, **changes):
    rng = np.random.default_rng(0)
    fields = {
        "observations": rng.standard_normal((12, 8)).astype(np.float32),
        "actions": rng.standard_normal((12, 2)).astype(np.float32),
        "rewards": np.arange(12, dtype=np.float32),
        "terminals": np.isin(np.arange(12), [4]),
        "timeouts": np.isin(np.arange(12), [8]),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            if values is not None:
                file[name] = values
    return path


def test_a_d4rl_file_is_cut_at_terminals_and_timeouts(tmp_path):
    found = load_d4rl(write_d4rl(tmp_path / "d.hdf5"), pushing_spec())
    assert [len(trajectory.action) for trajectory in found] == [5, 4, 3]
    assert [trajectory.terminated for trajectory in found] == [True, False, False]
    assert found[1].reward.tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": None}, "no field 'actions'"),
        ({"actions": np.zeros((11, 2), np.float32)}, "unequal lengths"),
        ({"observations": np.zeros((12, 7), np.float32)}, r"episode 0 .*expected \(n, 8\)"),
        ({"observations": np.full((12, 8), np.nan, np.float32)}, "NaN"),
    ],
)
def test_a_bad_d4rl_file_is_one_clear_error(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        load_d4rl(write_d4rl(tmp_path / "d.hdf5", **changes), pushing_spec())


def test_a_file_that_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "d.hdf5").write_text("no")
    with pytest.raises(DatasetError, match="not a readable HDF5"):
        load_d4rl(tmp_path / "d.hdf5", pushing_spec())


def test_a_minari_dataset_that_is_not_there_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(DatasetError, match=r"data\.download"):
        load_trajectories(None, "nobody/nothing-v0", pushing_spec())


def test_past_commands_are_those_that_were_executed():
    spec = pushing_spec().extended(commands=2, prefix=0)
    action = np.arange(8, dtype=np.float32).reshape(4, 2)
    observation = np.zeros((4, 8), np.float32)
    full = full_observations(Trajectory(observation, action, executed=action + 100), spec)
    np.testing.assert_allclose(full[:, 8:10], [[0, 0], [100, 101], [102, 103], [104, 105], [106, 107]])
    np.testing.assert_allclose(full[:, 10:12], [[0, 0], [0, 0], [100, 101], [102, 103], [104, 105]])


def test_past_observations_of_the_first_steps_are_like_the_first():
    spec = pushing_spec().extended(observations=2)
    observation = np.tile(np.arange(4, dtype=np.float32)[:, None], (1, 8))
    full = full_observations(Trajectory(observation, np.zeros((4, 2), np.float32)), spec)
    assert full[:, 8].tolist() == [0, 0, 1, 2, 3] and full[:, 16].tolist() == [0, 0, 0, 1, 2]


def test_a_prefix_is_made_of_what_was_sent_and_the_target_of_what_the_expert_wanted():
    spec = pushing_spec()
    action = np.arange(20, dtype=np.float32).reshape(10, 2) / 100
    found = samples([Trajectory(np.zeros((10, 8), np.float32), action, executed=action + 0.5)], spec)
    scale = spec.action_normalisation()[1][0]
    np.testing.assert_allclose(found.action[0, :4], action[:2].ravel() / scale, rtol=1e-5)
    np.testing.assert_allclose(found.committed[0, :4], (action[:2].ravel() + 0.5) / scale, rtol=1e-5)


def test_chunk_returns_are_discounted_and_end_with_the_episode():
    spec = pushing_spec()
    trajectory = Trajectory(
        np.zeros((20, 8), np.float32),
        np.zeros((20, 2), np.float32),
        reward=np.ones(20, np.float32),
        terminated=True,
    )
    found = samples([trajectory], spec, discount=0.5)
    assert found.chunk_return[0] == pytest.approx(sum(0.5**i for i in range(spec.horizon)))
    assert found.chunk_return[19] == 1.0
    assert found.later_discount[0] == pytest.approx(0.5**spec.horizon)
    assert (found.later_discount[4:] == 0).all()


TINY = {
    "task": "pushing",
    "split": {"calibration_share": 0.34, "test_share": 0.33},
    "teacher": {
        "steps": 2,
        "diffusion_steps": 4,
        "network": {"trunk": [8], "latent": 4, "head": [8], "time_features": 4},
    },
    "distill": {"students": [1], "steps": 2, "queries": 20, "processes": 1},
    "calibrate": {"alphas": [0.5]},
}


def recipe_on(path, **changes):
    return Recipe.model_validate({**TINY, "data": {"source": "d4rl", "dataset": str(path)}, **changes})


def completed(recipe, folder, last="teacher"):
    said = []
    pipeline = Pipeline(recipe, folder, report=lambda *a: said.append(a)).run(last)
    return pipeline, {stage for stage, *_, text in said if text.startswith("done")}


def test_a_dataset_that_changed_behind_its_name_is_trained_on_again(tmp_path):
    path = write_d4rl(tmp_path / "d.hdf5")
    pipeline, done = completed(recipe_on(path), tmp_path / "run")
    assert done == {"data", "teacher"}
    recorded = json.loads((tmp_path / "run/split.json").read_text())
    assert {name: len(part) for name, part in recorded.items()} == {"train": 1, "calibration": 1, "test": 1}
    assert completed(recipe_on(path), tmp_path / "run")[1] == set()
    weights = (tmp_path / "run/teacher.pt").read_bytes()
    write_d4rl(path, actions=np.ones((12, 2), np.float32))
    again, done = completed(recipe_on(path), tmp_path / "run")
    assert done == {"data", "teacher"} and (tmp_path / "run/teacher.pt").read_bytes() != weights
    assert again.record()["data"]["facts"]["sha256"] != pipeline.trajectories[0].digest()
    # the content counts, not the name
    path.rename(tmp_path / "renamed.hdf5")
    assert completed(recipe_on(tmp_path / "renamed.hdf5"), tmp_path / "run")[1] == set()


def test_a_stage_that_the_recipe_does_not_have_is_refused(tmp_path):
    path = write_d4rl(tmp_path / "d.hdf5")
    with pytest.raises(SrdpError, match=r"no stage 'collect'.*choose one of: data, "):
        completed(recipe_on(path), tmp_path / "run", "collect")
    assert not (tmp_path / "run").exists()


def test_rewards_alone_are_a_change_too(tmp_path):
    path = write_d4rl(tmp_path / "d.hdf5")
    before = dataset_digest(load_d4rl(path, pushing_spec()))
    write_d4rl(path, rewards=np.zeros(12, np.float32))
    assert dataset_digest(load_d4rl(path, pushing_spec())) != before


def test_all_problems_are_said_at_once_and_before_the_first_training_step(tmp_path):
    spec = pushing_spec().model_dump(mode="json")
    spec["observation"][0]["source"] = {
        "kind": "topic",
        "topic": "/tip",
        "type": "geometry_msgs/msg/PoseStamped",
        "field": "pose.positon.x",
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    recipe = Recipe.model_validate(
        {
            "task": "pushing",
            "collect": {"episodes": 40, "scenario": "nowhere_to_be_found"},
            "data": {"spec": str(tmp_path / "spec.json")},
            "distill": {"students": [1, 200]},
        }
    )
    with pytest.raises(SrdpError) as caught:
        Pipeline(recipe, tmp_path / "run").run()
    text = str(caught.value)
    assert "positon" in text
    assert "nowhere_to_be_found" in text
    assert "0.01 needs 99 calibration trajectories" in text and "of 40 gives 6" in text
    assert "distill.students: 200" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"source": "d4rl", "dataset": "missing.hdf5"}}, "missing.hdf5: not a readable HDF5"),
        ({"data": {"source": "minari", "dataset": "nobody/nothing-v0"}}, "no readable Minari dataset"),
        ({"calibrate": {"alphas": [0.2]}}, r"needs 4 calibration trajectories.* of 3 gives 1.*below 0\.5"),
        ({"distill": {"students": [1, 1]}}, "must stand there once"),
        ({"observation": {"action_prefix": 16}}, "fewer than the horizon"),
        ({"task": "juggling"}, "no task 'juggling'"),
    ],
)
def test_a_contradiction_is_found_before_training(tmp_path, monkeypatch, changes, message):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recipe = recipe_on(write_d4rl(tmp_path / "d.hdf5"), **changes)
    problems = check(Pipeline(recipe, tmp_path / "run"))
    assert len(problems) == 1
    assert re.search(message, problems[0])


def test_an_alpha_that_the_node_will_not_find_is_remarked(tmp_path):
    recipe = recipe_on(write_d4rl(tmp_path / "d.hdf5"))
    (text,) = remarks(Pipeline(recipe, tmp_path / "run"))
    assert "abstain.alpha" in text and "0.5" in text
    plenty = recipe.model_copy(update={"calibrate": recipe.calibrate.model_copy(update={"alphas": (0.01,)})})
    assert remarks(Pipeline(plenty, tmp_path / "run")) == []


def test_a_teacher_of_other_sizes_is_refused(tmp_path):
    path = write_d4rl(tmp_path / "d.hdf5")
    recipe = recipe_on(path)
    wide = build_teacher(recipe.teacher, pushing_spec().extended(commands=1))
    (text,) = check(Pipeline(recipe, tmp_path / "run", own_teacher=wide))
    assert text == "the teacher's observations have 10 values, the spec's 8"


def test_scales_of_the_data_take_the_place_of_the_specs(tmp_path):
    observations = np.random.default_rng(0).normal(3.0, 0.2, (12, 8)).astype(np.float32)
    observations[:, 5] = 0.25
    actions = np.zeros((12, 2), np.float32)
    actions[3, 0], actions[:, 1] = 0.2, np.linspace(-0.1, 0.1, 12)
    path = write_d4rl(tmp_path / "d.hdf5", observations=observations, actions=actions, terminals=np.arange(12) % 4 == 3)
    recipe = recipe_on(
        path,
        data={"source": "d4rl", "dataset": str(path), "normalise": "data"},
        observation={"command_history": 1, "observation_history": 1, "action_prefix": 2},
    )
    pipeline, _ = completed(recipe, tmp_path / "run", last="data")
    spec, train = pipeline.spec, pipeline.split().train
    first = np.concatenate([trajectory.observation[:, 0] for trajectory in train])
    assert spec.observation[0].centre == pytest.approx(first.mean(), rel=1e-5)
    assert spec.observation[0].scale == pytest.approx(first.std(), rel=1e-4)
    assert (spec.observation[5].centre, spec.observation[5].scale) == (0.25, 1.0)  # never changes
    found = samples(pipeline.trajectories[:1], spec)
    assert np.isfinite(found.observation).all()
    assert np.abs(samples(train, spec).action).max() <= 3.0 + 1e-4  # within what samplers clip at
    for index, component, _ in spec.history_columns():
        assert spec.observation[index].scale == spec.action[component].scale
    for index, component, _ in spec.observation_history_columns():
        assert spec.observation[index].centre == spec.observation[component].centre


def test_a_spec_from_a_file_is_read_and_a_wrong_one_refused_with_all_its_faults(tmp_path, model_dir):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(pushing_spec().model_dump(mode="json")))
    assert load_spec(path) == pushing_spec()
    path.write_text(json.dumps(json.loads((model_dir / "bundle.json").read_text())["spec"]))  # schema 1
    assert load_spec(path) == load_bundle(model_dir).spec
    path.write_text('{"task": "x"}')
    with pytest.raises(SpecError, match=r"field observation: .*field action_groups: .*field horizon"):
        load_spec(path)
    with pytest.raises(SpecError, match="no readable spec"):
        load_spec(tmp_path / "none.yaml")


@pytest.fixture
def keyed(tmp_path, monkeypatch):
    """A Minari dataset whose observations have keys, as those of robots with a goal have."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    def box(*shape):
        return Box(-10.0, 10.0, shape, np.float32)

    rng = np.random.default_rng(0)

    def walk(size):
        return np.cumsum(0.1 * rng.standard_normal((21, size)), axis=0).astype(np.float32)

    minari.create_dataset_from_buffers(
        dataset_id="keyed-v0",
        buffer=[
            EpisodeBuffer(
                id=number,
                observations={
                    "observation": walk(4),
                    "achieved_goal": walk(2),
                    "desired_goal": walk(2),
                    "front": np.zeros((21, 8, 8, 3), np.float32),
                },
                actions=rng.uniform(-1, 1, (20, 2)).astype(np.float32),
                rewards=[0.0] * 20,
                terminations=[False] * 20,
                truncations=[False] * 19 + [True],
            )
            for number in range(30)
        ],
        observation_space=Dict(
            {"observation": box(4), "achieved_goal": box(2), "desired_goal": box(2), "front": box(8, 8, 3)}
        ),
        action_space=box(2),
    )
    return tmp_path


def test_observations_with_keys_are_those_that_were_named_in_that_order(keyed):
    episodes, names = read_minari(None, "keyed-v0", keys=("desired_goal", "observation"))
    assert names == ["desired_goal_0", "desired_goal_1", *(f"observation_{place}" for place in range(4))]
    assert episodes[0]["observation"].shape == (21, 6)
    again, _ = read_minari(None, "keyed-v0", keys=("observation", "desired_goal"))
    np.testing.assert_array_equal(again[3]["observation"], np.roll(episodes[3]["observation"], 4, axis=1))
    with pytest.raises(DatasetError, match=r"'front' is Box.*name the others in data.keys: achieved_goal"):
        read_minari(None, "keyed-v0")
    with pytest.raises(DatasetError, match="no observations under 'goal'; there are achieved_goal"):
        read_minari(None, "keyed-v0", keys=("goal",))


def test_a_dataset_with_keys_is_drafted_checked_and_read_by_them(keyed, monkeypatch, capsys):
    monkeypatch.chdir(keyed)
    assert cli.main(["init", "reach", "--minari", "keyed-v0", "--keys", "observation", "desired_goal"]) == 0
    assert cli.main(["check", "reach/recipe.yaml"]) == 0, capsys.readouterr()
    recipe = load_recipe(keyed / "reach" / "recipe.yaml")
    assert recipe.data.keys == ("observation", "desired_goal")
    pipeline = Pipeline(recipe, keyed / "run")
    assert pipeline.trajectories[0].observation.shape == (20, 6)
    assert [one.name for one in pipeline.task_spec.observation][4:] == ["desired_goal_0", "desired_goal_1"]
