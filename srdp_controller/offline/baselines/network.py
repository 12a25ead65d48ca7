"""The network that all of them share: a student's trunk and head, trained from scratch."""

from __future__ import annotations

from srdp_controller.offline.recipe import NetworkRecipe
from srdp_controller.policy.networks import DiffusionHead, PrefixColumns, SrdpNetwork, Trunk


class ChunkNetwork(SrdpNetwork):
    """Trunk and head of the given sizes on normalised observations (B, obs_dim) and chunks (B, action_dim)."""

    def __init__(
        self, obs_dim: int, action_dim: int, sizes: NetworkRecipe, prefix: PrefixColumns | None = None
    ) -> None:
        super().__init__()
        self.obs_dim, self.action_dim, self.latent_dim, self.prefix = obs_dim, action_dim, sizes.latent, prefix
        self.trunk = Trunk(obs_dim, sizes.trunk, sizes.latent)
        self.head = DiffusionHead(action_dim, sizes.latent, sizes.head, sizes.time_features)
