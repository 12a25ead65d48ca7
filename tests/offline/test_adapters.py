"""Teachers trained elsewhere, through the pipeline."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the offline side needs torch: make setup-train")
diffusers = pytest.importorskip("diffusers", reason="the offline side needs diffusers: make setup-train")

from srdp_controller.engines.bundle import load_bundle  # noqa: E402
from srdp_controller.engines.onnx_engine import BatchedPolicy  # noqa: E402
from srdp_controller.offline.pipeline import Pipeline  # noqa: E402
from srdp_controller.offline.recipe import Recipe  # noqa: E402
from srdp_controller.policy.adapters import from_diffusers  # noqa: E402

RECIPE = {
    "task": "pushing",
    "collect": {"episodes": 10, "processes": 1},
    "split": {"calibration_share": 0.4},
    "distill": {
        "steps": 10,
        "queries": 300,
        "students": [1],
        "batch": 32,
        "processes": 1,
        "network": {"trunk": [16], "latent": 8, "head": [16, 16], "time_features": 8},
    },
    "calibrate": {"alphas": [0.25, 0.5]},
}


class Convolutional(torch.nn.Module):
    """A denoiser of another make: a convolution over the chunk."""

    def __init__(self, condition):
        super().__init__()
        self.take = torch.nn.Conv1d(2, 16, 3, padding=1)
        self.condition = torch.nn.Linear(condition + 1, 16)
        self.give = torch.nn.Conv1d(16, 2, 3, padding=1)

    def forward(self, noisy, timestep, state):
        extra = self.condition(torch.cat([state, timestep[:, None] / 20], dim=1))
        return self.give(torch.tanh(self.take(noisy.transpose(1, 2)) + extra[:, :, None])).transpose(1, 2)


def teacher(prediction="epsilon", encode=None):
    torch.manual_seed(0)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=20,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        clip_sample_range=4.0,
        set_alpha_to_one=True,
    )
    network = Convolutional(8 if encode is None else encode.out_features).eval()
    return from_diffusers(network, scheduler, obs_dim=8, horizon=16, act_dim=2, encode=encode), network, scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_sampling_is_that_of_diffusers_own_ddim(prediction):
    adapted, network, scheduler = teacher(prediction)
    state, noise = torch.randn(5, 8), torch.randn(5, 32)
    scheduler.set_timesteps(20)
    a = noise.reshape(5, 16, 2)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = network(a, t.expand(5).float(), state)
            a = scheduler.step(output, t, a).prev_sample
    ours, _ = adapted.sample(state, noise)
    torch.testing.assert_close(ours.reshape(5, 16, 2), a, atol=2e-4, rtol=1e-3)


def test_a_scheduler_that_is_no_diffusion_is_refused():
    with pytest.raises(ValueError, match="alphas_cumprod"):
        from_diffusers(Convolutional(8), diffusers.FlowMatchEulerDiscreteScheduler(), obs_dim=8, horizon=8, act_dim=2)


def test_the_pipeline_distils_and_exports_a_teacher_of_another_make(tmp_path):
    adapted, _, _ = teacher(encode=torch.nn.Linear(8, 12))
    Pipeline(Recipe.model_validate(RECIPE), tmp_path / "run", tmp_path / "bundle", own_teacher=adapted).run()
    bundle = load_bundle(tmp_path / "bundle")
    assert set(bundle.content.policies) == {"teacher", "student_k1"}
    entry = bundle.policy("student_k1")
    assert entry.latent_dim == 12
    noise = np.random.default_rng(0).standard_normal((3, *entry.noise_shape)).astype(np.float32)
    observation = np.tile(bundle.spec.observation_normalisation()[0], (3, 1))
    action, latent, teacher_latent = BatchedPolicy(bundle, "student_k1").all(observation, noise)
    assert action.shape == (3, 16, 2) and latent.shape == teacher_latent.shape == (3, 12)
