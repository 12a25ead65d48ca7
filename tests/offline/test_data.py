"""Datasets of other makes, recorded splits, and what the policy sees of its own commands."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
h5py = pytest.importorskip("h5py", reason="the offline side needs h5py: make setup-train")

from srdp_controller.errors import DatasetError, SrdpError  # noqa: E402
from srdp_controller.offline.dataset import (  # noqa: E402
    Trajectory,
    full_observations,
    load_d4rl,
    load_trajectories,
    samples,
    split_trajectories,
)
from srdp_controller.offline.pipeline import Run  # noqa: E402
from srdp_controller.offline.recipe import Recipe, load_spec  # noqa: E402
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


def trajectories(count=20):
    return [Trajectory(np.full((4, 8), i, np.float32), np.zeros((4, 2), np.float32)) for i in range(count)]


def test_a_split_is_made_once_and_recorded_with_hashes(tmp_path):
    record = tmp_path / "split.json"
    first = split_trajectories(trajectories(), 0.2, 0.1, 0, record)
    content = json.loads(record.read_text())
    assert {name: len(part) for name, part in content.items()} == {"train": 14, "calibration": 4, "test": 2}
    assert len({entry["sha256"] for part in content.values() for entry in part}) == 20
    again = split_trajectories(trajectories(), 0.2, 0.1, 0, record)
    assert [t.digest() for t in again.test] == [t.digest() for t in first.test]


def test_a_split_of_other_data_is_refused(tmp_path):
    record = tmp_path / "split.json"
    split_trajectories(trajectories(), 0.2, 0.1, 0, record)
    changed = [*trajectories(19), Trajectory(np.full((4, 8), 0.5, np.float32), np.zeros((4, 2), np.float32))]
    with pytest.raises(DatasetError, match="other data"):
        split_trajectories(changed, 0.2, 0.1, 0, record)


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
    np.testing.assert_allclose(found.action[0, :4], action[:2].ravel() / 0.1, rtol=1e-5)
    np.testing.assert_allclose(found.committed[0, :4], (action[:2].ravel() + 0.5) / 0.1, rtol=1e-5)


def test_chunk_returns_are_discounted_and_end_with_the_episode():
    spec = pushing_spec()
    trajectory = Trajectory(
        np.zeros((10, 8), np.float32),
        np.zeros((10, 2), np.float32),
        reward=np.ones(10, np.float32),
        terminated=True,
    )
    found = samples([trajectory], spec, discount=0.5)
    assert found.chunk_return[0] == pytest.approx(sum(0.5**i for i in range(8)))
    assert found.chunk_return[9] == 1.0
    assert found.later_discount[0] == pytest.approx(0.5**8)
    assert (found.later_discount[2:] == 0).all()


def test_a_pipeline_on_a_d4rl_file_uses_its_trajectories(tmp_path):
    path = write_d4rl(tmp_path / "d.hdf5")
    recipe = Recipe.model_validate(
        {
            "task": "pushing",
            "data": {"source": "d4rl", "dataset": str(path)},
            "collect": {"calibration_share": 0.34, "test_share": 0.33},
        }
    )
    run = Run(recipe, tmp_path / "run", lambda *_: None)
    run.collect()
    assert sum(len(part) for part in (run.split().train, run.split().calibration, run.split().test)) == 3


def test_a_spec_from_a_file_is_read_and_a_wrong_one_refused(tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(pushing_spec().model_dump_json())
    assert load_spec(path) == pushing_spec()
    path.write_text('{"task": "x"}')
    with pytest.raises(SrdpError, match="field observation"):
        load_spec(path)
