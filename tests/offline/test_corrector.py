"""The correction head of late chunks: its data, what it learns, its stage of the pipeline, its place in a bundle."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

from srdp_controller.engines.bundle import corrector_shapes, load_bundle  # noqa: E402
from srdp_controller.engines.corrector import CorrectorEngine  # noqa: E402
from srdp_controller.errors import BundleError  # noqa: E402
from srdp_controller.offline.dataset import Trajectory, samples  # noqa: E402
from srdp_controller.offline.pipeline import Pipeline  # noqa: E402
from srdp_controller.offline.recipe import CorrectorRecipe, Recipe  # noqa: E402
from srdp_controller.offline.train_corrector import LateChunks, plan_chunks, train_corrector  # noqa: E402
from srdp_controller.tasks.pushing.spec import pushing_spec  # noqa: E402

SPEC = pushing_spec()
LENGTHS = [40, 25, 60]


@pytest.fixture(scope="module")
def demonstrations():
    """The expert's action follows from what is observed now; nobody could have known that earlier."""
    rng = np.random.default_rng(0)
    trajectories = []
    for length in LENGTHS:
        observation = 0.1 * rng.standard_normal((length, SPEC.obs_dim)).astype(np.float32)
        trajectories.append(Trajectory(observation, observation[:, :2].copy()))
    return samples(trajectories, SPEC)


def test_it_learns_what_a_late_action_lacks_and_never_looks_past_an_episodes_end(demonstrations, tmp_path):
    data = demonstrations
    following = torch.cat([torch.arange(length - 1, -1, -1) for length in LENGTHS])
    rows = torch.arange(len(following))
    late = LateChunks(rows, torch.from_numpy(data.observation), torch.zeros(len(following), SPEC.horizon, 2), following)
    recipe = CorrectorRecipe(policies=("teacher",), hidden=(64, 64), steps=600, batch=128, ema_decay=0.9)
    head = train_corrector(recipe, data, late, SPEC, 0, tmp_path, "corrector", lambda *_: None)
    now, then = torch.from_numpy(data.observation[5:25]), torch.from_numpy(data.observation[2:22])
    with torch.no_grad():
        found = head(now, torch.zeros(20, 2), then, torch.full((20, 1), 3 / SPEC.horizon))
    wanted = torch.from_numpy(data.action[5:25, :2])
    assert float((found - wanted).square().mean()) < 0.1 * float(wanted.square().mean())


class TwoWays:
    """Goes left or right, as its noise says."""

    action_dim, diffusion_steps, given = 32, 10, slice(None)

    def sample(self, observation, noise, steps):
        return torch.sign(noise[:, :1]).expand(-1, 32), []


def test_the_chunk_that_is_corrected_went_the_demonstrated_way(demonstrations):
    ways = np.where(np.arange(len(demonstrations.action)) % 2, 1.0, -1.0)[:, None]
    data = replace(demonstrations, action=(0.5 * ways * np.ones(32)).astype(np.float32))

    def shares(candidates):
        recipe = CorrectorRecipe(candidates=candidates)
        late = plan_chunks(recipe, TwoWays(), data, LENGTHS, SPEC, 0, lambda *_: None)
        return float((late.chunk[:, 0, 0].numpy() == ways[:, 0]).mean())

    assert 0.3 < shares(1) < 0.7 and shares(16) == 1.0


def test_chunks_are_planned_at_as_many_states_as_the_recipe_says(demonstrations):
    recipe = CorrectorRecipe(candidates=1, states=30)
    late = plan_chunks(recipe, TwoWays(), demonstrations, LENGTHS, SPEC, 0, lambda *_: None)
    assert len(late.row) == len(late.row.unique()) == len(late.chunk) == 30
    assert torch.equal(late.observation, torch.from_numpy(demonstrations.observation)[late.row])
    ends = torch.cumsum(torch.tensor(LENGTHS), 0)
    assert all(int(row + after) + 1 in ends for row, after in zip(late.row, late.following, strict=True))


RECIPE = {
    "task": "pushing",
    "collect": {"episodes": 10, "disturbance": 0.5, "processes": 1},
    "teacher": {
        "steps": 30,
        "diffusion_steps": 10,
        "network": {"trunk": [16], "latent": 8, "head": [16, 16], "time_features": 8},
    },
    "distill": {"students": [1], "steps": 10, "queries": 300, "batch": 32, "processes": 1},
    "corrector": {"policies": ["teacher", "student_k1"], "hidden": [16], "steps": 20},
    "split": {"calibration_share": 0.4},
    "calibrate": {"alphas": [0.25]},
}


def test_the_recipe_puts_heads_into_the_bundle_and_without_it_nothing_changes(tmp_path):
    pytest.importorskip("pybullet", reason="needs the simulation: make setup")
    run, target = tmp_path / "run", tmp_path / "bundle"
    Pipeline(Recipe.model_validate(RECIPE), run, target).run()
    bundle = load_bundle(target)
    assert set(bundle.content.correctors) == {"teacher", "student_k1"}
    assert {"corrector_teacher.onnx", "corrector_student_k1.onnx"} <= set(bundle.read_all())
    head = CorrectorEngine(bundle, "student_k1")
    head.observation[:] = 0.01
    head.run()
    assert head.correction.shape == corrector_shapes(bundle.spec)["correction"] and np.any(head.correction)
    with pytest.raises(BundleError, match=r"corrector\.policies=\[student_k2\]"):
        CorrectorEngine(bundle, "student_k2")
    plain = Recipe.model_validate({**RECIPE, "corrector": {}})
    skipped = []
    Pipeline(plain, run, target, lambda *said: skipped.append(said)).run()
    without = load_bundle(target)
    assert "correctors" not in without.raw.decode() and not without.content.correctors
    redone = {said[0] for said in skipped if said[1:] == (1, 1, "unchanged, skipped")}
    assert {"collect", "data", "teacher", "queries", "distill", "calibrate"} == redone
