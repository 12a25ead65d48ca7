"""The SRDP teacher: trunk, diffusion head and reconstruction head (eq. 1 to 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from srdp_controller.policy.denoiser import DiffusionTeacher, ForwardProcess, Prediction
from srdp_controller.policy.networks import ActionTimeTrunk, DiffusionHead, PrefixColumns, SrdpNetwork, Trunk, mlp
from srdp_controller.policy.noise_schedule import SCHEDULES
from srdp_controller.policy.samplers import CLIP
from srdp_controller.policy.unet import UnetHead

TrunkInput = Literal["state", "state_action_time"]


class SrdpTeacher(SrdpNetwork, DiffusionTeacher):
    """Diffusion policy with a shared trunk and a reconstruction head.

    Observations (B, obs_dim) and action chunks (B, A = horizon * act_dim) are normalised. The trunk is
    z = f(s), once per action, or with ``trunk_input = "state_action_time"`` the original SRDP's
    z = f(a_t, t, s), at every step. With ``unet`` (channels of its levels) the diffusion head is a conditional
    U-Net over the horizon of actions of ``act_dim`` numbers.
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
        prediction: Prediction = "epsilon",
        trunk_input: TrunkInput = "state",
        prefix: PrefixColumns | None = None,
        unet: Sequence[int] = (),
        act_dim: int = 1,
    ) -> None:
        super().__init__()
        self.obs_dim, self.action_dim, self.latent_dim = obs_dim, action, latent
        self.prefix = prefix
        if trunk_input == "state":
            self.trunk = Trunk(obs_dim, trunk, latent)
        else:
            self.trunk = ActionTimeTrunk(obs_dim, action, trunk, latent, time_features)
        if unet:
            self.head = UnetHead(act_dim, latent, unet, head[0], time_features)
        else:
            self.head = DiffusionHead(action, latent, head, time_features)
        self.reconstruction = mlp([latent, head[0], obs_dim])
        self.process = ForwardProcess(SCHEDULES[schedule](diffusion_steps), prediction)

    def loss(
        self,
        observation: Tensor,
        action: Tensor,
        reconstruction_weight: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Eq. 4: denoising loss (eq. 3) plus ``reconstruction_weight`` times the reconstruction loss.

        Given entries of the chunk count neither as noisy nor as wrong.
        Returns the loss, its parts, and the clean action estimate (B, A) that a critic may judge.
        """
        batch = len(observation)
        t = torch.randint(1, self.diffusion_steps + 1, (batch,), generator=generator)
        epsilon = torch.randn(action.shape, generator=generator)
        noisy = self.process.noisy(action, epsilon, t)
        target = self.process.target(action, epsilon, t)
        if isinstance(self.trunk, ActionTimeTrunk):
            context = self.context(observation)
            given, share = self.inpaint(noisy, context)
            latent = self.trunk(given, share, self.trunk.from_time(t))
            predicted = self.head(given, self.head.from_latent(latent), self.head.from_time(t))
        else:
            latent = self.trunk(observation)
            context = self.context_of_latent(latent, observation)
            predicted = self.predict(noisy, context, self.time_features(t))
        error = (predicted - target).square()
        mask = self.mask(context)
        denoising = error.mean() if mask is None else (error * mask).sum() / mask.sum().clamp(min=1.0)
        reconstruction = (self.reconstruction(latent) - observation).square().mean()
        total = denoising + reconstruction_weight * reconstruction
        signal, noise = self.process.rates(t)
        if self.process.prediction == "epsilon":
            clean = (noisy - noise * predicted) / signal.clamp(min=1e-6)
        else:
            clean = signal * noisy - noise * predicted
        parts = {"denoising": denoising, "reconstruction": reconstruction}
        return total, parts, self.with_prefix(clean.clamp(-CLIP, CLIP), context)
