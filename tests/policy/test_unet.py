"""The conditional U-Net as denoiser: in the teacher's place, in the bundle, and distilled into an MLP."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, load_from_string

from srdp_controller.errors import SrdpError
from srdp_controller.offline.distill import build_student
from srdp_controller.offline.export.graphs import export_student, export_teacher
from srdp_controller.offline.recipe import DistillRecipe, NetworkRecipe, TeacherRecipe
from srdp_controller.offline.train_teacher import build_teacher
from srdp_controller.policy.networks import DiffusionHead
from srdp_controller.policy.unet import UnetHead
from srdp_controller.tasks.pushing.spec import pushing_spec

SPEC = pushing_spec()
NETWORK = NetworkRecipe(trunk=(16,), latent=8, head=(24,), unet=(8, 16), time_features=8)
RECIPE = TeacherRecipe(network=NETWORK, prediction="v", diffusion_steps=6)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return build_teacher(RECIPE, SPEC).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def exported(teacher):
    return export_teacher(teacher, SPEC)


def run(graph: bytes, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    observation = rng.standard_normal((batch, SPEC.obs_dim)).astype(np.float32) * 0.1
    noise = rng.standard_normal((batch, 1, SPEC.horizon, SPEC.act_dim)).astype(np.float32)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return observation, noise, session.run(["action"], {"observation": observation, "noise": noise})[0]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_exported_teacher_is_the_trained_one_for_any_batch(teacher, exported, batch):
    observation, noise, action = run(exported, batch)
    centre, scale = SPEC.observation_normalisation()
    action_centre, action_scale = SPEC.action_normalisation()
    normalised = torch.from_numpy((observation - centre) / scale)
    expected, _ = teacher.sample(normalised, torch.from_numpy(noise.reshape(batch, -1)))
    chunk = expected.clamp(-4.0, 4.0).numpy().reshape(action.shape) * action_scale + action_centre
    assert action == pytest.approx(chunk, abs=1e-5)


def test_an_action_depends_on_its_neighbours_the_state_and_the_level(teacher):
    a = torch.zeros(1, SPEC.horizon * SPEC.act_dim)
    context, level = teacher.context(torch.zeros(1, SPEC.obs_dim)), teacher.time_features(torch.tensor([3]))
    first = teacher.predict(a, context, level)
    moved = a.clone()
    moved[0, -1] = 1.0
    assert (teacher.predict(moved, context, level) - first)[0, 0].abs() > 1e-6
    assert not torch.equal(teacher.predict(a, teacher.context(torch.ones(1, SPEC.obs_dim)), level), first)
    assert not torch.equal(teacher.predict(a, context, teacher.time_features(torch.tensor([4]))), first)


def test_rounded_weights_take_half_the_space_and_give_the_same_actions(teacher, exported):
    rounded = copy.deepcopy(teacher)
    for weights in rounded.parameters():
        weights.copy_(weights.half())
    graph = export_teacher(rounded, SPEC)
    stored = [
        sum(i.data_type == TensorProto.FLOAT16 for i in load_from_string(g).graph.initializer)
        for g in (exported, graph)
    ]
    assert stored[0] == 0 and stored[1] > 5
    assert len(graph) < 0.95 * len(exported)
    assert run(graph, 2)[2] == pytest.approx(run(exported, 2)[2], abs=5e-3)


def test_its_student_is_a_u_net_unless_a_network_is_named(teacher):
    assert isinstance(build_student(teacher, 2, DistillRecipe()).head, UnetHead)
    small = build_student(teacher, 2, DistillRecipe(network=NetworkRecipe(head=(32,))))
    assert isinstance(small.head, DiffusionHead)
    _, _, action = run(export_student(small.eval(), teacher, SPEC), 3)
    assert action.shape == (3, SPEC.horizon, SPEC.act_dim) and np.isfinite(action).all()


def test_a_small_student_may_share_the_trunk_of_its_u_net_teacher(teacher):
    recipe = DistillRecipe(network=NetworkRecipe(trunk=(7,), head=(32,), latent=teacher.latent_dim), trunk="frozen")
    student = build_student(teacher, 1, recipe)
    states = torch.randn(3, SPEC.obs_dim)
    assert torch.equal(student.latent(states), teacher.latent(states))
    assert not any(weights.requires_grad for weights in student.trunk.parameters())
    assert all(weights.requires_grad for weights in student.head.parameters())
    other = recipe.network.model_copy(update={"latent": teacher.latent_dim + 1})
    with pytest.raises(SrdpError, match=f"distill.network.latent is {teacher.latent_dim + 1}"):
        build_student(teacher, 1, recipe.model_copy(update={"network": other}))


def test_a_u_net_is_not_made_for_students():
    with pytest.raises(ValueError, match="leave network out"):
        DistillRecipe(network=NETWORK)
