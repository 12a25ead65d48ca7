"""SRDP's networks: shared trunk z = f(s), diffusion head, reconstruction head (section 2).

Activations are SiLU: in ONNX Runtime it is one fused node and takes 0.4 of Mish's time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given sizes with SiLU between them (none after the last)."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(fan_in, fan_out))
        if index < len(sizes) - 2:
            layers.append(nn.SiLU())
    return nn.Sequential(*layers)


class Trunk(nn.Module):
    """z = f_phi(s): normalised observation (B, obs_dim) -> latent (B, latent)."""

    def __init__(self, obs_dim: int, hidden: Sequence[int], latent: int) -> None:
        super().__init__()
        self.layers = mlp([obs_dim, *hidden, latent])

    def forward(self, observation: Tensor) -> Tensor:
        """Latent (B, latent) of a normalised observation (B, obs_dim)."""
        return self.layers(observation)


class DiffusionHead(nn.Module):
    """f_theta(a_t, z, t): noisy action (B, A), latent and timestep -> prediction (B, A).

    The first layer is linear in its three inputs, so that the latent's share is computed once per
    action (``condition``) and the timestep's share is a constant of the exported graph.
    """

    def __init__(self, action: int, latent: int, hidden: Sequence[int], time_features: int) -> None:
        super().__init__()
        self.from_action = nn.Linear(action, hidden[0])
        self.from_latent = nn.Linear(latent, hidden[0], bias=False)
        self.from_time = nn.Sequential(
            nn.Linear(time_features, time_features), nn.SiLU(), nn.Linear(time_features, hidden[0])
        )
        self.layers = nn.Sequential(nn.SiLU(), mlp([*hidden, action]))
        half = time_features // 2
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / half))

    def time_bias(self, t: Tensor) -> Tensor:
        """Share (B, hidden) of timesteps t (B,) in the first layer."""
        angles = t.float()[:, None] * self.frequencies[None, :]  # type: ignore[index]
        return self.from_time(torch.cat([angles.sin(), angles.cos()], dim=-1))

    def condition(self, latent: Tensor) -> Tensor:
        """Share (B, hidden) of the latent (B, latent) in the first layer."""
        return self.from_latent(latent)

    def forward(self, noisy_action: Tensor, condition: Tensor, time_bias: Tensor) -> Tensor:
        """Prediction (B, A) for a noisy action (B, A)."""
        return self.layers(self.from_action(noisy_action) + condition + time_bias)
