"""Flow matching on straight paths x_t = (1 - t) a + t noise, and MeanFlow, which learns to walk them in one step.

MeanFlow was chosen among the one-step methods because one loss on the data is all of it: no teacher, no stages, and
no grid of step sizes to bootstrap over as in shortcut models, whose self-consistency is its identity at finite steps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from srdp_controller.offline.baselines.network import ChunkNetwork
from srdp_controller.offline.distill import mean_square
from srdp_controller.offline.recipe import NetworkRecipe
from srdp_controller.policy.networks import PrefixColumns
from srdp_controller.policy.time_features import TimeFeatures

TIME_SCALE = 100.0  # the time features are made for timesteps 0 .. T
MEAN_FLOW_TIME_SCALE = 10.0  # its target differentiates the features, and fast ones make that noisy


def flow_loss(
    network: ChunkNetwork,
    observation: Tensor,
    action: Tensor,
    generator: torch.Generator,
    *,
    times: Literal["uniform", "logit_normal"] = "uniform",
) -> Tensor:
    """Conditional flow matching (Lipman et al., 2023); ``logit_normal`` times as in Esser et al. (2024)."""
    t = torch.rand(len(action), 1, generator=generator)
    if times == "logit_normal":
        t = torch.randn(len(action), 1, generator=generator).sigmoid()
    noise = torch.randn(action.shape, generator=generator)
    context = network.context(observation)
    velocity = network.predict(torch.lerp(action, noise, t), context, network.time_features(TIME_SCALE * t[:, 0]))
    return mean_square(velocity - (noise - action), network.mask(context))


def euler(network: ChunkNetwork, observation: Tensor, noise: Tensor, *, steps: int) -> Tensor:
    """A chunk (B, A) from noise (B, 1, A) in equal steps from t = 1 to t = 0."""
    context, x = network.context(observation), noise[:, 0]
    for k in range(steps, 0, -1):
        x = x - network.predict(x, context, network.time_features(torch.tensor([TIME_SCALE * k / steps]))) / steps
    return network.with_prefix(x, context)


class MeanFlowNetwork(ChunkNetwork):
    """u(x_t, r, t), the mean velocity from t down to r: its head reads the interval's length beside t."""

    def __init__(
        self, obs_dim: int, action_dim: int, sizes: NetworkRecipe, prefix: PrefixColumns | None = None
    ) -> None:
        super().__init__(obs_dim, action_dim, sizes, prefix)
        self.from_length = TimeFeatures(sizes.time_features, sizes.head[0])

    def velocity(self, x: Tensor, context: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Mean velocity (B, A) at x (B, A) and times (B, 1)."""
        length = self.from_length(MEAN_FLOW_TIME_SCALE * (t - r)[:, 0])
        return self.predict(x, context, self.time_features(MEAN_FLOW_TIME_SCALE * t[:, 0]) + length)


def mean_flow_loss(
    network: MeanFlowNetwork,
    observation: Tensor,
    action: Tensor,
    generator: torch.Generator,
    *,
    intervals: float = 0.75,
    power: float = 0.5,
) -> Tensor:
    """The MeanFlow identity u = v - (t - r) du/dt (Geng et al., 2025, arXiv 2505.13447, algorithm 1).

    ``intervals`` is the share of the batch with r < t, the rest is plain flow matching; ``power`` is that of the
    adaptive weight.
    """
    n = len(action)
    first, second = torch.sigmoid(torch.randn(2, n, 1, generator=generator) - 0.4)
    t, r = torch.maximum(first, second), torch.minimum(first, second)
    r = torch.where(torch.rand(n, 1, generator=generator) < intervals, r, t)
    noise = torch.randn(action.shape, generator=generator)
    x, v, context = torch.lerp(action, noise, t), noise - action, network.context(observation)
    tangents = (v, torch.zeros_like(r), torch.ones_like(t))
    u, slope = torch.func.jvp(lambda x, r, t: network.velocity(x, context, r, t), (x, r, t), tangents)[:2]
    error = u - (v - (t - r) * slope).detach()
    mask = network.mask(context)
    square = (error.square() if mask is None else error.square() * mask).mean(dim=1)
    return (square / (square.detach() + 1e-3) ** power).mean()


def mean_flow(network: MeanFlowNetwork, observation: Tensor, noise: Tensor) -> Tensor:
    """A chunk (B, A) from noise (B, 1, A) in one step from t = 1 to t = 0."""
    context, x = network.context(observation), noise[:, 0]
    return network.with_prefix(x - network.velocity(x, context, torch.zeros(1, 1), torch.ones(1, 1)), context)
