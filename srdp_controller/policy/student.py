"""K-step student: K evaluations of its own head on its own trunk, latent aligned to the teacher's."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from srdp_controller.policy.noise_schedule import skipped_steps
from srdp_controller.policy.samplers import CLIP, ddim_step
from srdp_controller.policy.teacher import SrdpTeacher


class Student(nn.Module):
    """A K-step sampler (eq. 8) over the teacher's noise levels tau(K) > ... > tau(0) = 0.

    Its head predicts the clean action that carries a deterministic step from level tau(k) to
    tau(k - 1) exactly where the teacher's many steps go, so K = 1 is a direct map from noise to action.
    ``alignment`` is h of section 4 (c): student latent -> teacher latent.
    """

    def __init__(self, teacher: SrdpTeacher, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.tau = skipped_steps(teacher.diffusion_steps, steps)
        self.alpha_bar = [float(teacher.alpha_bar[t]) for t in self.tau]
        self.trunk = copy.deepcopy(teacher.trunk)
        self.head = copy.deepcopy(teacher.head)
        latent = self.head.from_latent.in_features
        self.alignment = nn.Linear(latent, latent)
        with torch.no_grad():
            self.alignment.weight.copy_(torch.eye(latent))
            self.alignment.bias.zero_()
        self.requires_grad_(True)  # the copies of a frozen teacher are not

    def clean(self, a: Tensor, condition: Tensor, time_bias: Tensor) -> Tensor:
        """Head's clean action (B, A) at one level."""
        return self.head(a, condition, time_bias)

    def time_biases(self) -> Tensor:
        """Shares (K + 1, hidden) of the student's levels in the head's first layer."""
        return self.head.time_bias(torch.tensor(self.tau))

    def step(self, a: Tensor, a_0: Tensor, k: int) -> Tensor:
        """Move a (B, A) from level k to level k - 1 given the clean estimate a_0 (B, A)."""
        if k == 1:
            return a_0
        return ddim_step(a, a_0, self.alpha_bar[k], self.alpha_bar[k - 1])

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Chunk (B, A) and latent in the teacher's space (B, latent), all normalised."""
        latent = self.trunk(observation)
        condition = self.head.condition(latent)
        biases = self.time_biases()
        a = noise
        for k in range(self.steps, 0, -1):
            a = self.step(a, self.clean(a, condition, biases[k]), k)
        return a.clamp(-CLIP, CLIP), self.alignment(latent)
