"""A conditional U-Net over the horizon as diffusion head (Chi et al., 2023, as Diffusion Policy and LeRobot have it).

It takes the place of ``DiffusionHead``: the latent's and the timestep's shares are added to one condition, which scales
and shifts the channels of every block (FiLM; Perez et al., 2018). SiLU stands for Mish.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from srdp_controller.policy.time_features import TimeFeatures

KERNEL, GROUPS = 5, 8


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(channels_in, channels_out, KERNEL, padding=KERNEL // 2), nn.GroupNorm(GROUPS, channels_out), nn.SiLU()
    )


class ResidualBlock(nn.Module):
    """Two convolutions with FiLM between them, and a way past them: (B, C, H) -> (B, C', H)."""

    def __init__(self, channels_in: int, channels_out: int, condition: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels_out)
        self.second = _convolution(channels_out, channels_out)
        self.film = nn.Linear(condition, 2 * channels_out)
        self.past = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features (B, C', H) of x (B, C, H) under a condition (B, condition)."""
        scale, shift = self.film(condition)[:, :, None].chunk(2, dim=1)
        return self.second(self.first(x) * (1.0 + scale) + shift) + self.past(x)


class UnetHead(nn.Module):
    """f_theta(a_t, z, t): noisy action (B, A = horizon * act_dim), latent and timestep -> prediction (B, A).

    Args:
        act_dim: numbers of one action; the horizon must be divisible by 2 once for each level but the last.
        latent: size of z.
        channels: of each level; each after the first has half the length of the one before.
        condition: size of the condition.
        time_features: sines and cosines of the timestep.
    """

    def __init__(self, act_dim: int, latent: int, channels: Sequence[int], condition: int, time_features: int) -> None:
        super().__init__()
        self.act_dim = act_dim
        self.from_latent = nn.Linear(latent, condition, bias=False)
        self.from_time = TimeFeatures(time_features, condition)

        def blocks(channels_in: int, channels_out: int) -> nn.ModuleList:
            return nn.ModuleList(
                [
                    ResidualBlock(channels_in, channels_out, condition),
                    ResidualBlock(channels_out, channels_out, condition),
                ]
            )

        sizes = [act_dim, *channels]
        self.down = nn.ModuleList(blocks(first, second) for first, second in itertools.pairwise(sizes))
        self.shorten = nn.ModuleList(nn.Conv1d(size, size, 3, stride=2, padding=1) for size in channels[:-1])
        self.middle = blocks(channels[-1], channels[-1])
        rising = list(itertools.pairwise(reversed(channels)))
        self.up = nn.ModuleList(blocks(2 * first, second) for first, second in rising)
        self.lengthen = nn.ModuleList(nn.ConvTranspose1d(size, size, 4, stride=2, padding=1) for _, size in rising)
        self.last = nn.Sequential(_convolution(channels[0], channels[0]), nn.Conv1d(channels[0], act_dim, 1))

    def forward(self, noisy_action: Tensor, condition: Tensor, time_bias: Tensor) -> Tensor:
        """Prediction (B, A) for a noisy action (B, A) and the shares (B, condition) of latent and timestep."""
        mixed = nn.functional.silu(condition + time_bias)
        x = noisy_action.reshape(-1, noisy_action.shape[1] // self.act_dim, self.act_dim).transpose(1, 2)
        kept = []
        for level, pair in enumerate(self.down):
            for block in pair:  # type: ignore[attr-defined]
                x = block(x, mixed)
            kept.append(x)
            if level < len(self.shorten):
                x = self.shorten[level](x)
        for block in self.middle:
            x = block(x, mixed)
        for pair, lengthen in zip(self.up, self.lengthen, strict=True):
            x = torch.cat([x, kept.pop()], dim=1)
            for block in pair:  # type: ignore[attr-defined]
                x = block(x, mixed)
            x = lengthen(x)
        return self.last(x).transpose(1, 2).flatten(1)
