"""Behaviour cloning: regression to the mean of the demonstrated chunks, and a mixture of Gaussians over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srdp_controller.offline.baselines.network import ChunkNetwork
from srdp_controller.offline.distill import mean_square
from srdp_controller.offline.recipe import NetworkRecipe
from srdp_controller.policy.networks import DiffusionHead, PrefixColumns

LOG_STD = (-5.0, 2.0)  # where demonstrations repeat themselves, the likelihood has no maximum


def regress(network: ChunkNetwork, observation: Tensor, noise: Tensor) -> Tensor:
    """The mean chunk (B, A), whatever the noise (B, 1, A)."""
    context = network.context(observation)
    mean = network.predict(torch.zeros_like(noise[:, 0]), context, network.time_features(torch.zeros(1)))
    return network.with_prefix(mean, context)


def regression_loss(network: ChunkNetwork, observation: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
    """Mean square error of the mean chunk."""
    mean = regress(network, observation, action[:, None])
    return mean_square(mean - action, network.mask(network.context(observation)))


class MixtureNetwork(ChunkNetwork):
    """Answers with a mixture of diagonal Gaussians over chunks (Bishop, 1994)."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        sizes: NetworkRecipe,
        prefix: PrefixColumns | None = None,
        components: int = 5,
    ) -> None:
        super().__init__(obs_dim, action_dim, sizes, prefix)
        self.components = components
        assert isinstance(self.head, DiffusionHead)
        layers = self.head.layers[1]
        assert isinstance(layers, nn.Sequential)
        layers[-1] = nn.Linear(sizes.head[-1], components * (2 * action_dim + 1))

    def mixture(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (B, M), means and log standard deviations (B, M, A)."""
        nothing = context.new_zeros(context.shape[0], self.action_dim)  # len() would fix the exported batch
        output = self.predict(nothing, context, self.time_features(torch.zeros(1)))
        weights, rest = output[:, : self.components], output[:, self.components :]
        mean, log_std = rest.reshape(-1, self.components, 2 * self.action_dim).chunk(2, dim=2)
        return weights.log_softmax(dim=1), mean, log_std.clamp(*LOG_STD)


def mixture_loss(network: MixtureNetwork, observation: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
    """Negative log likelihood of the chunks (B, A), per entry and without its constant."""
    context = network.context(observation)
    log_weight, mean, log_std = network.mixture(context)
    log_density = -0.5 * ((action[:, None] - mean) / log_std.exp()).square() - log_std
    mask = network.mask(context)
    if mask is not None:
        log_density = log_density * mask[:, None]
    return -(log_weight + log_density.sum(dim=2)).logsumexp(dim=1).mean() / network.action_dim


def draw(network: MixtureNetwork, observation: Tensor, noise: Tensor) -> Tensor:
    """A chunk (B, A) from noise (B, 2, A): its first entry picks the component, the second draw is the Gaussian's."""
    context = network.context(observation)
    log_weight, mean, log_std = network.mixture(context)
    uniform = 0.5 * (1.0 + torch.erf(noise[:, 0, :1] / 2.0**0.5))
    chosen = (uniform > log_weight.exp().cumsum(dim=1)[:, :-1]).sum(dim=1, keepdim=True)
    chosen = (chosen == torch.arange(network.components))[:, :, None]  # a gather would fix the exported batch
    chunk = ((mean + log_std.exp() * noise[:, 1:]) * chosen).sum(dim=1)
    return network.with_prefix(chunk, context)
