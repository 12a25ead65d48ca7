"""K-step student: K evaluations of its own head on its own trunk, latent aligned to the teacher's."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from srdp_controller.errors import SrdpError
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import SrdpNetwork
from srdp_controller.policy.noise_schedule import skipped_steps
from srdp_controller.policy.samplers import CLIP, ddim_step


def alignment_map(student_latent: int, teacher_latent: int) -> nn.Linear:
    """Build h of section 4 (c): student latent (B, z_K) -> teacher latent (B, z_T); starts as the identity."""
    linear = nn.Linear(student_latent, teacher_latent)
    if student_latent == teacher_latent:
        with torch.no_grad():
            linear.weight.copy_(torch.eye(teacher_latent))
            linear.bias.zero_()
    return linear


class Student(SrdpNetwork):
    """A K-step sampler (eq. 8) over the teacher's noise levels tau(K) > ... > tau(0) = 0.

    Its head predicts the clean action that carries a deterministic step from level tau(k) to
    tau(k - 1) exactly where the teacher's many steps go, so K = 1 is a direct map from noise to action.
    With ``resample`` it is a consistency model instead: every prediction is the end of the teacher's
    path, and fresh noise carries it to the next level (noise (B, K, A) in place of (B, 1, A)).
    ``alignment`` is h of section 4 (c): student latent -> teacher latent.
    """

    def __init__(
        self,
        teacher: DiffusionTeacher,
        steps: int,
        *,
        network: SrdpNetwork | None = None,
        resample: bool = False,
    ) -> None:
        super().__init__()
        source = network if network is not None else teacher
        if not isinstance(source, SrdpNetwork):
            raise SrdpError("a teacher with a network of its own make: give its students one, --set distill.network={}")
        self.steps = steps
        self.resample = resample
        self.tau = skipped_steps(teacher.diffusion_steps, steps)
        self.alpha_bar = [float(teacher.alpha_bar[t]) for t in self.tau]
        self.obs_dim, self.action_dim, self.latent_dim = teacher.obs_dim, teacher.action_dim, teacher.latent_dim
        self.given = teacher.given
        self.prefix = source.prefix
        self.trunk = copy.deepcopy(source.trunk)
        self.head = copy.deepcopy(source.head)
        self.alignment = alignment_map(self.head.from_latent.in_features, teacher.latent_dim)
        self.requires_grad_(True)  # the copies of a frozen teacher are not

    @property
    def draws(self) -> int:
        """Gaussian draws (of a whole chunk) that one action takes."""
        return self.steps if self.resample else 1

    def time_biases(self) -> Tensor:
        """Time features (K + 1, F) of the student's levels."""
        return self.time_features(torch.tensor(self.tau))

    def step(self, a: Tensor, a_0: Tensor, k: int, noise: Tensor | None = None) -> Tensor:
        """Move a (B, A) from level k to level k - 1 given the clean estimate a_0 (B, A)."""
        if k == 1:
            return a_0
        if noise is not None:
            rate = self.alpha_bar[k - 1]
            return rate**0.5 * a_0 + (1.0 - rate) ** 0.5 * noise
        return ddim_step(a, a_0, self.alpha_bar[k], self.alpha_bar[k - 1])

    def chain(self, noise: Tensor, context: Tensor, biases: Tensor) -> Tensor:
        """All K steps: noise (B, A) or (B, K, A) -> a_0 (B, A), not clipped."""
        a = noise[:, 0] if noise.dim() == 3 else noise
        for k in range(self.steps, 0, -1):
            fresh = noise[:, self.steps - k + 1] if self.resample and k > 1 else None
            a = self.step(a, self.predict(a, context, biases[k]), k, fresh)
        return self.with_prefix(a, context)

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Chunk (B, A) and latent in the teacher's space (B, latent), all normalised."""
        a = self.chain(noise, self.context(observation), self.time_biases())
        return a.clamp(-CLIP, CLIP), self.aligned(observation)

    def aligned(self, observation: Tensor) -> Tensor:
        """h(z_K(s)) (B, teacher latent)."""
        return self.alignment(self.latent(observation))


def fresh_trunk(network: SrdpNetwork) -> None:
    """Give a network a newly initialised trunk (it then acts like random network distillation)."""
    for module in network.trunk.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
