"""The correction head of a late chunk (after A2C2, arXiv 2509.23224): what an old chunk's action lacks by now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from srdp_controller.policy.networks import mlp


class Corrector(nn.Module):
    """A small network from what is observed now and what was planned earlier to a residual of the planned action.

    Observations (B, obs_dim), actions (B, act_dim) and the residual are normalised; the action's place in its chunk
    (B, 1) is a share of the horizon.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = mlp([2 * obs_dim + act_dim + 1, *hidden, act_dim])

    def forward(self, observation: Tensor, base_action: Tensor, origin: Tensor, place: Tensor) -> Tensor:
        """Residual (B, act_dim) for the newest observation; ``origin`` is the one that the chunk was planned from."""
        # how far the world has come since then is what tells most about it
        return self.layers(torch.cat([observation, base_action, observation - origin, place], dim=1))  # type: ignore[no-any-return]
