"""The teacher that goes on from the chunk in force, and DDIM with a warm start: what binds them and what does not."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
onnxruntime = pytest.importorskip("onnxruntime")

from box import box_spec  # noqa: E402

from srdp_controller.control.planner import soft_mask  # noqa: E402
from srdp_controller.errors import SrdpError  # noqa: E402
from srdp_controller.evaluation.baselines import load_policy, with_level  # noqa: E402
from srdp_controller.offline.export.graphs import export_inpainting  # noqa: E402
from srdp_controller.offline.export.inpainting import FIRST_LEVEL, InpaintingGraph, _towards_input, inpaint  # noqa: E402
from srdp_controller.offline.export.teacher_graph import levels  # noqa: E402
from srdp_controller.offline.recipe import TeacherRecipe  # noqa: E402
from srdp_controller.offline.train_teacher import build_teacher  # noqa: E402
from srdp_controller.policy.samplers import CLIP, ddim  # noqa: E402

SPEC = box_spec()
STEPS = 5


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    network = {"trunk": [16], "latent": 8, "head": [16, 16], "time_features": 8}
    recipe = TeacherRecipe.model_validate({"network": network, "diffusion_steps": 40, "prediction": "v"})
    return build_teacher(recipe, SPEC).eval().requires_grad_(False)


def guided(teacher, weights, previous, noise):
    return inpaint(teacher, torch.zeros(len(noise), SPEC.obs_dim), noise, previous, weights, STEPS, 5.0)


def test_without_weights_it_is_plain_ddim(teacher):
    noise = torch.randn(3, 16)
    found = guided(teacher, torch.zeros(3, 16), torch.ones(3, 16), noise)
    tau = [0, *reversed(levels(STEPS, round(FIRST_LEVEL * 40)))]
    context, rates = teacher.context(torch.zeros(3, SPEC.obs_dim)), teacher.alpha_bar.tolist()

    def epsilon(a, t):
        predicted = teacher.predict(a, context, teacher.time_features(torch.tensor([t]))[0])
        return teacher.process.epsilon(a, predicted, rates[t] ** 0.5, (1.0 - rates[t]) ** 0.5)

    expected, _ = ddim(epsilon, noise, rates, tau)
    torch.testing.assert_close(found, expected.clamp(-CLIP, CLIP), atol=1e-4, rtol=1e-4)


def test_what_binds_is_kept_nearly_and_what_is_free_is_not(teacher):
    noise, previous = torch.randn(64, 16), torch.randn(64, 16)
    weights = torch.from_numpy(soft_mask(committed=3, left=5, horizon=8)).repeat_interleave(2).repeat(64, 1)
    free = guided(teacher, torch.zeros(64, 16), previous, noise)
    found = guided(teacher, weights, previous, noise)
    before, after = (free - previous).abs().mean(dim=0), (found - previous).abs().mean(dim=0)
    assert float((after[:6] / before[:6]).max()) < 0.3  # three committed actions of two entries
    assert float((after[10:] / before[10:]).min()) > 0.7


def test_the_graph_holds_the_backward_pass_and_takes_any_batch(teacher):
    session = onnxruntime.InferenceSession(export_inpainting(teacher, SPEC, 2, 5.0))
    rng = np.random.default_rng(0)
    shapes = {"observation": (8,), "noise": (1, 8, 2), "previous": (8, 2), "weights": (8,)}
    values = {name: 0.1 * rng.random((5, *shape), dtype=np.float32) for name, shape in shapes.items()}
    expected = InpaintingGraph(teacher, SPEC, 2, 5.0)(*(torch.from_numpy(value) for value in values.values()))
    for found, wanted in zip(session.run(None, values), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_a_warm_start_from_a_low_level_stays_at_the_chunk_and_begins_afresh_without_one(bundle):
    policy, rng = load_policy(bundle, "warm_k1@3"), np.random.default_rng(0)
    centre, _ = bundle.spec.observation_normalisation()
    observation = np.tile(centre, (2, 1))
    noise = rng.standard_normal((2, *policy.noise_shape)).astype(np.float32)
    previous = np.full((2, 8, 2), 0.05, np.float32)
    weights = np.array([[1.0] * 8, [0.0] * 8], np.float32)
    going_on, fresh = policy.actions(observation, noise, previous, weights)
    np.testing.assert_allclose(going_on, previous[0], atol=0.03)
    teacher = load_policy(bundle, "teacher").actions(observation[1:], noise[1:])
    np.testing.assert_allclose(fresh, teacher[0], atol=1e-6)
    with pytest.raises(SrdpError, match="warm_k1@LEVEL"):
        with_level(bundle, None, "warm_k1", None, None)


@pytest.mark.parametrize(
    ("transposed", "kernel", "stride", "padding", "length"),
    [(False, 5, 1, 2, 16), (False, 3, 2, 1, 16), (False, 3, 2, 1, 15), (True, 4, 2, 1, 8)],
)
def test_a_u_nets_convolutions_are_gone_through_backwards(transposed, kernel, stride, padding, length):
    value, weight = torch.randn(2, 3, length), torch.randn(*((3, 5) if transposed else (5, 3)), kernel)
    settings = ([stride], [padding], [1], transposed, [0], 1)
    answer = torch.ops.aten.convolution(value, weight, None, *settings)
    given = (torch.randn_like(answer), value, weight, None, *settings, [True, False, False])
    expected = torch.ops.aten.convolution_backward(*given)[0]
    torch.testing.assert_close(_towards_input(*given)[0], expected, atol=1e-5, rtol=1e-5)
