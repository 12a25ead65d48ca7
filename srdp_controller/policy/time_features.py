"""A timestep as features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeFeatures(nn.Module):
    """Sines and cosines of a timestep, then two layers: t (n,) -> (n, size)."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, size))
        half = features // 2
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / half))

    def forward(self, t: Tensor) -> Tensor:
        """Features (n, size) of timesteps (n,)."""
        angles = t.float()[:, None] * self.frequencies[None, :]  # type: ignore[index]
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=-1))
