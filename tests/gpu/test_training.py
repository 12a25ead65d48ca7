"""Training on a GPU; runs where PyTorch finds one."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

from box import box_spec  # noqa: E402

from srdp_controller.offline.dataset import Samples  # noqa: E402
from srdp_controller.offline.distill import distill  # noqa: E402
from srdp_controller.offline.queries import query_teacher  # noqa: E402
from srdp_controller.offline.recipe import DistillRecipe, TeacherRecipe  # noqa: E402
from srdp_controller.offline.train_teacher import train_teacher  # noqa: E402

pytestmark = pytest.mark.gpu


def quiet(*_):
    """No progress."""


def test_teacher_and_student_are_trained_on_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU here")
    rng = np.random.default_rng(0)
    observation = rng.standard_normal((500, 8)).astype(np.float32)
    action = np.tile(0.5 * observation[:, :1], (1, 16))
    nothing = np.zeros(500, np.float32)
    data = Samples(observation, action, action, nothing, observation, nothing)
    teacher_recipe = TeacherRecipe(steps=300, diffusion_steps=16, prediction="v", ema_decay=0.9)
    recipe = DistillRecipe(students=(1,), queries=500, steps=300, ema_decay=0.9)
    with torch.device("cuda"):
        teacher = train_teacher(teacher_recipe, box_spec(), data, 0, tmp_path, quiet)
        student = distill(teacher, 1, query_teacher(teacher, data, recipe, 0, quiet), recipe, 0, tmp_path, quiet)
    chunk, _ = student.cpu()(torch.from_numpy(observation), torch.randn(500, 16))
    assert float((chunk - torch.from_numpy(action)).square().mean()) < 0.05
