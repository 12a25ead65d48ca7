"""Networks under training in the evaluation's rollout, without a bundle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from srdp_controller.evaluation.policies import Policy, without_latent
from srdp_controller.spec import PolicySpec

# normalised states (B, obs_dim), draws (B, n_noise, horizon * act_dim) -> normalised chunks (B, horizon * act_dim)
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def torch_policy(name: str, network: Network, spec: PolicySpec, draws: int = 1) -> Policy:
    """A network on normalised values as a policy in SI units."""
    centre, scale = spec.observation_normalisation()
    action_centre, action_scale = spec.action_normalisation()

    @torch.no_grad()
    def actions(observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(((observation - centre) / scale).astype(np.float32))
        answer = network(state, torch.from_numpy(noise.reshape(len(noise), draws, -1))).numpy()
        return answer.reshape(len(noise), spec.horizon, spec.act_dim) * action_scale + action_centre

    return Policy(name, (draws, spec.horizon, spec.act_dim), without_latent(actions))
