"""SRDP's networks: shared trunk, diffusion head, reconstruction head (section 2).

Activations are SiLU: in ONNX Runtime it is one fused node and takes 0.4 of Mish's time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srdp_controller.policy.denoiser import Denoiser
from srdp_controller.policy.time_features import TimeFeatures
from srdp_controller.policy.unet import UnetHead


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


class ActionTimeTrunk(nn.Module):
    """z = f_phi(a_t, t, s), the original SRDP's shared module, evaluated at every denoising step.

    Its first layer is linear in its three inputs: the state's share is computed once per action.
    """

    def __init__(self, obs_dim: int, action: int, hidden: Sequence[int], latent: int, time_features: int) -> None:
        super().__init__()
        self.from_state = nn.Linear(obs_dim, hidden[0])
        self.from_action = nn.Linear(action, hidden[0], bias=False)
        self.from_time = TimeFeatures(time_features, hidden[0])
        self.layers = nn.Sequential(nn.SiLU(), mlp([*hidden, latent]))

    def forward(self, a: Tensor, state: Tensor, time: Tensor) -> Tensor:
        """Latent (B, latent) from a_t (B, A) and the shares (B, hidden) of state and timestep."""
        return self.layers(self.from_action(a) + (state + time))


class DiffusionHead(nn.Module):
    """f_theta(a_t, z, t): noisy action (B, A), latent and timestep -> prediction (B, A).

    The first layer is linear in its three inputs, so that the latent's share is computed once per
    action (``from_latent``) and the timestep's share (``from_time``) is a constant of the exported graph.
    """

    def __init__(self, action: int, latent: int, hidden: Sequence[int], time_features: int) -> None:
        super().__init__()
        self.from_action = nn.Linear(action, hidden[0], bias=False)
        self.from_latent = nn.Linear(latent, hidden[0], bias=False)
        self.from_time = TimeFeatures(time_features, hidden[0])
        self.layers = nn.Sequential(nn.SiLU(), mlp([*hidden, action]))

    def forward(self, noisy_action: Tensor, condition: Tensor, time_bias: Tensor) -> Tensor:
        """Prediction (B, A) for a noisy action (B, A) and the shares (B, hidden) of latent and timestep."""
        return self.layers(self.from_action(noisy_action) + (condition + time_bias))


@dataclass(frozen=True)
class PrefixColumns:
    """Where an observation holds the actions that are already committed (training-time action prefix).

    ``actions[i]`` is the observation's column of flattened chunk entry i, for the first
    ``len(actions)`` entries; ``length`` is the column with the number of committed actions.
    """

    actions: tuple[int, ...]
    length: int
    act_dim: int


class SrdpNetwork(Denoiser):
    """Trunk and diffusion head, with z = f(s) or, ``timed``, the original z = f(a_t, t, s).

    With ``prefix``, the committed actions that the observation carries take the place of the noisy ones
    at every step (inpainting), and of the sampled ones at the end.
    """

    trunk: Trunk | ActionTimeTrunk
    head: DiffusionHead | UnetHead
    prefix: PrefixColumns | None

    @property
    def timed(self) -> bool:
        """Whether the trunk reads (a_t, t, s)."""
        return isinstance(self.trunk, ActionTimeTrunk)

    def latent(self, observation: Tensor) -> Tensor:
        """z(s) (B, latent); of a timed trunk, f(0, 0, s)."""
        if isinstance(self.trunk, ActionTimeTrunk):
            time = self.trunk.from_time(torch.zeros(1))
            return self.trunk.layers(self.trunk.from_state(observation) + time)
        return self.trunk(observation)

    def context(self, observation: Tensor) -> Tensor:
        """Share of the state in the first layer, then the given chunk entries and which are given."""
        if isinstance(self.trunk, ActionTimeTrunk):
            return self._with_given(self.trunk.from_state(observation), observation)
        return self.context_of_latent(self.trunk(observation), observation)

    def context_of_latent(self, latent: Tensor, observation: Tensor) -> Tensor:
        """``context`` when z = f(s) (B, latent) is at hand already."""
        return self._with_given(self.head.from_latent(latent), observation)

    def _with_given(self, context: Tensor, observation: Tensor) -> Tensor:
        prefix = self.prefix
        if prefix is None:
            return context
        given = observation[:, list(prefix.actions)]
        missing = self.action_dim - len(prefix.actions)
        given = nn.functional.pad(given, (0, missing))
        step = torch.arange(self.action_dim) // prefix.act_dim
        known = (step[None, :] < observation[:, prefix.length : prefix.length + 1] - 0.5).to(given.dtype)
        return torch.cat([context, given * known, known], dim=1)

    def _split(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = context.shape[1] - 2 * self.action_dim
        return (
            context[:, :hidden],
            context[:, hidden : hidden + self.action_dim],
            context[:, hidden + self.action_dim :],
        )

    def mask(self, context: Tensor) -> Tensor | None:
        """Which entries of the chunk (B, A) are not given: 1 or 0; None where none is given."""
        return None if self.prefix is None else 1.0 - self._split(context)[2]

    def inpaint(self, a: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """a_t (B, A) with the given entries in place, and the network's share of the context."""
        if self.prefix is None:
            return a, context
        share, given, known = self._split(context)
        return given + a * (1.0 - known), share

    def with_prefix(self, a: Tensor, context: Tensor) -> Tensor:
        """Put the given entries into a sampled a_0 (B, A)."""
        return self.inpaint(a, context)[0]

    def time_features(self, t: Tensor) -> Tensor:
        """Shares of timesteps t (n,) in the first layers of head and, when timed, trunk."""
        bias = self.head.from_time(t)
        if isinstance(self.trunk, ActionTimeTrunk):
            return torch.cat([bias, self.trunk.from_time(t)], dim=1)
        return bias

    def predict(self, a: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """The head's output (B, A)."""
        a, context = self.inpaint(a, context)
        if isinstance(self.trunk, ActionTimeTrunk):
            hidden = self.head.from_latent.out_features
            latent = self.trunk(a, context, time[..., hidden:])
            return self.head(a, self.head.from_latent(latent), time[..., :hidden])
        return self.head(a, context, time)
