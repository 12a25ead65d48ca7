"""The SRDP teacher: trunk, diffusion head and reconstruction head (eq. 1 to 7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from srdp_controller.policy.networks import DiffusionHead, Trunk, mlp
from srdp_controller.policy.noise_schedule import SCHEDULES, skipped_steps
from srdp_controller.policy.samplers import ddim


class SrdpTeacher(nn.Module):
    """Epsilon-predicting diffusion policy with a shared trunk z = f(s) and a reconstruction head.

    Observations (B, obs_dim) and action chunks (B, A = horizon * act_dim) are normalised.
    As shipped the teacher samples with all T deterministic steps (eta = 0), so the one Gaussian draw
    a_T is its whole randomness and couples it to its students sample by sample.
    """

    def __init__(
        self,
        obs_dim: int,
        action: int,
        trunk: Sequence[int],
        latent: int,
        head: Sequence[int],
        time_features: int,
        schedule: str,
        diffusion_steps: int,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(obs_dim, trunk, latent)
        self.head = DiffusionHead(action, latent, head, time_features)
        self.reconstruction = mlp([latent, head[0], obs_dim])
        self.diffusion_steps = diffusion_steps
        self.alpha_bar: np.ndarray = SCHEDULES[schedule](diffusion_steps)
        self.register_buffer("_alpha_bar", torch.tensor(self.alpha_bar, dtype=torch.float32), persistent=False)

    def loss(
        self, observation: Tensor, action: Tensor, reconstruction_weight: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Eq. 4: denoising loss (eq. 3) plus ``reconstruction_weight`` times the reconstruction loss."""
        batch = len(observation)
        t = torch.randint(1, self.diffusion_steps + 1, (batch,), generator=generator)
        epsilon = torch.randn(action.shape, generator=generator)
        alpha_bar = self._alpha_bar[t][:, None]  # type: ignore[index]
        noisy = alpha_bar.sqrt() * action + (1.0 - alpha_bar).sqrt() * epsilon
        latent = self.trunk(observation)
        predicted = self.head(noisy, self.head.condition(latent), self.head.time_bias(t))
        denoising = (predicted - epsilon).square().mean()
        reconstruction = (self.reconstruction(latent) - observation).square().mean()
        total = denoising + reconstruction_weight * reconstruction
        return total, {"denoising": float(denoising.detach()), "reconstruction": float(reconstruction.detach())}

    @torch.no_grad()
    def sample(
        self, observation: Tensor, noise: Tensor, steps: int | None = None, keep: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Run ``steps`` DDIM steps (default all T) from noise (B, A).

        Returns the clean chunk (B, A) and the intermediate states at timesteps ``keep``.
        """
        tau = skipped_steps(self.diffusion_steps, steps or self.diffusion_steps)
        condition = self.head.condition(self.trunk(observation))
        bias = self.head.time_bias(torch.tensor(tau))

        def predict(a: Tensor, t: int) -> Tensor:
            return self.head(a, condition, bias[tau.index(t)])

        return ddim(predict, noise, self.alpha_bar.tolist(), tau, keep)
