"""What a policy with an action prefix learns from it: where the world will be, not what the expert is about to do."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

from box import box_spec  # noqa: E402

from srdp_controller.offline.dataset import Trajectory, samples  # noqa: E402
from srdp_controller.offline.recipe import ObservationRecipe, TeacherRecipe  # noqa: E402
from srdp_controller.offline.train_teacher import CommandInputs, train_teacher  # noqa: E402

PREFIX = 2
SPEC = box_spec().extended(prefix=PREFIX)
GAIN = 4.0  # of the expert [1/s]


@pytest.fixture(scope="module")
def recorded():
    """A point that the expert brings to rest while a disturbance, slow as in the collector, is added to its command."""
    rng, trajectories = np.random.default_rng(0), []
    for _ in range(60):
        position, disturbance = 0.1 * rng.standard_normal(2), 0.1 * rng.standard_normal(2)
        rows = []
        for _ in range(40):
            command = -GAIN * position
            disturbance = 0.9 * disturbance + 0.44 * 0.1 * rng.standard_normal(2)
            rows.append((position.copy(), command, command + disturbance))
            position = position + SPEC.step_s * rows[-1][2]
        seen, wanted, sent = (np.array(column, np.float32) for column in zip(*rows, strict=True))
        observation = np.zeros((len(seen), 8), np.float32)
        observation[:, :2] = seen
        trajectories.append(Trajectory(observation, wanted, executed=sent))
    return samples(trajectories, SPEC)


def answer_to_the_prefix(data, folder):
    """How much the first action that is free changes with the committed ones, which were shifted by 1 unit."""
    network = {"trunk": [64], "latent": 32, "head": [64, 64], "time_features": 8}
    settings = {"network": network, "steps": 700, "batch": 128, "diffusion_steps": 20, "reconstruction_weight": 0.0}
    recipe = TeacherRecipe.model_validate({**settings, "prediction": "v", "ema_decay": 0.98})
    inputs = CommandInputs(SPEC, ObservationRecipe(action_prefix=PREFIX))
    teacher = train_teacher(recipe, SPEC, data, 0, folder, lambda *_: None, inputs=inputs)
    state = torch.from_numpy(data.observation[::20]).clone()
    state[:, -1] = PREFIX
    noise = torch.randn(len(state), teacher.action_dim, generator=torch.Generator().manual_seed(1))
    free = slice(2 * PREFIX, 2 * PREFIX + 2)
    answers = []
    for shift in (-0.5, 0.5):
        state[:, 8 : 8 + 2 * PREFIX] = shift
        answers.append(teacher.sample(state, noise)[0][:, free])
    return float((answers[1] - answers[0]).mean())


def test_a_prefix_of_what_was_sent_is_answered_and_one_of_the_experts_own_commands_is_copied(recorded, tmp_path):
    (tmp_path / "sent").mkdir()
    (tmp_path / "own").mkdir()
    sent = answer_to_the_prefix(recorded, tmp_path / "sent")
    own = answer_to_the_prefix(replace(recorded, committed=recorded.action), tmp_path / "own")
    # two steps with one unit more of speed are answered by the expert with 4 / s x 0.1 s less
    assert sent == pytest.approx(-GAIN * PREFIX * SPEC.step_s, abs=0.25)
    assert own > 0.2
