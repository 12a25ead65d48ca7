import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")

from box import box_spec  # noqa: E402

from srdp_controller.offline.export.graphs import export_student, export_teacher  # noqa: E402
from srdp_controller.offline.recipe import NetworkRecipe, TeacherRecipe  # noqa: E402
from srdp_controller.offline.train_teacher import build_teacher  # noqa: E402
from srdp_controller.policy.noise_schedule import SCHEDULES, skipped_steps  # noqa: E402
from srdp_controller.policy.samplers import ddim, ddim_step  # noqa: E402
from srdp_controller.policy.student import Student  # noqa: E402

SMALL = NetworkRecipe(trunk=(16,), latent=8, head=(16, 16), time_features=8)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return build_teacher(TeacherRecipe(network=SMALL, diffusion_steps=20), box_spec()).eval()


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_fall_from_one_towards_zero(name):
    alpha_bar = SCHEDULES[name](100)
    assert len(alpha_bar) == 101 and alpha_bar[0] == 1.0
    assert np.all(np.diff(alpha_bar) < 0) and 0 < alpha_bar[-1] < 0.05


@pytest.mark.parametrize("few", [1, 2, 4, 8, 100])
def test_skipped_steps_are_monotone_from_zero_to_total(few):
    tau = skipped_steps(100, few)
    assert tau[0] == 0 and tau[-1] == 100 and len(tau) == few + 1
    assert all(low < high for low, high in itertools.pairwise(tau))


def gaussian_noise_prediction(alpha_bar, mean, std):
    """Exact noise prediction for a Gaussian action distribution."""

    def predict(a, t):
        ab = alpha_bar[t]
        variance = ab * std**2 + 1 - ab
        return (1 - ab) ** 0.5 * (a - ab**0.5 * mean) / variance

    return predict


def test_ddim_with_the_exact_score_reproduces_a_gaussian():
    alpha_bar = SCHEDULES["cosine"](200).tolist()
    a, _ = ddim(
        gaussian_noise_prediction(alpha_bar, 0.7, 0.3), torch.randn(20000, 1), alpha_bar, skipped_steps(200, 200)
    )
    assert float(a.mean()) == pytest.approx(0.7, abs=0.02) and float(a.std()) == pytest.approx(0.3, abs=0.02)


def test_a_ddim_step_keeps_the_forward_relation():
    a_0, epsilon = torch.randn(5, 3), torch.randn(5, 3)
    here = 0.3**0.5 * a_0 + 0.7**0.5 * epsilon
    there = ddim_step(here, a_0, 0.3, 0.8)
    torch.testing.assert_close(there, 0.8**0.5 * a_0 + 0.2**0.5 * epsilon)


def test_sampling_keeps_the_states_that_were_asked_for(teacher):
    noise = torch.randn(3, 16)
    clean, kept = teacher.sample(torch.zeros(3, 8), noise, keep=[20, 10, 0])
    assert len(kept) == 3
    assert torch.equal(kept[0], noise) and torch.equal(kept[-1], clean)


def test_the_loss_is_that_of_equation_4(teacher):
    generator = torch.Generator().manual_seed(0)
    total, parts, _ = teacher.loss(torch.randn(64, 8), torch.randn(64, 16), 0.5, generator)
    torch.testing.assert_close(total, parts["denoising"] + 0.5 * parts["reconstruction"])


def test_a_students_parameters_are_trainable_although_its_teachers_are_frozen(teacher):
    frozen = build_teacher(TeacherRecipe(network=SMALL, diffusion_steps=20), box_spec()).requires_grad_(False)
    assert all(parameter.requires_grad for parameter in Student(frozen, 2).parameters())


def test_a_fresh_students_latent_is_its_teachers(teacher):
    _, latent = Student(teacher, 2)(torch.ones(2, 8), torch.randn(2, 16))
    torch.testing.assert_close(latent, teacher.trunk(torch.ones(2, 8)))


def run_graph(data, observation, noise):
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["action", "latent", "teacher_latent"], {"observation": observation, "noise": noise})


@pytest.mark.parametrize("kind", ["teacher", 1, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_exported_graphs_compute_what_torch_computes(teacher, kind, batch):
    spec = box_spec()
    rng = np.random.default_rng(1)
    centre, scale = spec.observation_normalisation()
    observation = (centre + scale * rng.standard_normal((batch, 8))).astype(np.float32)
    noise = rng.standard_normal((batch, 1, 8, 2)).astype(np.float32)
    normalised = torch.from_numpy((observation - centre) / scale)
    flat = torch.from_numpy(noise.reshape(batch, -1))
    with torch.no_grad():
        if kind == "teacher":
            data, expected, latent = export_teacher(teacher, spec), teacher.sample(normalised, flat)[0], None
        else:
            student = Student(teacher, kind)
            data = export_student(student, teacher, spec)
            expected, latent = student(normalised, flat)
        action, got_latent, teacher_latent = run_graph(data, observation, noise)
        np.testing.assert_allclose(action, expected.reshape(batch, 8, 2).numpy() * 0.1, atol=2e-5)
        np.testing.assert_allclose(teacher_latent, teacher.trunk(normalised).numpy(), atol=1e-5)
        if latent is not None:
            np.testing.assert_allclose(got_latent, latent.numpy(), atol=1e-5)


def test_the_skipped_teacher_graph_is_plain_ddim(teacher):
    import onnx

    from srdp_controller.offline.export.teacher_graph import skip_steps

    spec = box_spec()
    noise = np.random.default_rng(0).standard_normal((4, 1, 8, 2)).astype(np.float32)
    observation = np.tile(spec.observation_normalisation()[0], (4, 1))
    model = skip_steps(onnx.load_from_string(export_teacher(teacher, spec)), 4)
    action, _, _ = run_graph(model.SerializeToString(), observation, noise)
    expected, _ = teacher.sample(torch.zeros(4, 8), torch.from_numpy(noise.reshape(4, -1)), steps=4)
    np.testing.assert_allclose(action, expected.reshape(4, 8, 2).numpy() * 0.1, atol=1e-4)
