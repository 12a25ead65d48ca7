"""Teachers trained outside this project: any denoising network with a ``diffusers`` scheduler, or LeRobot's.

    teacher = from_diffusers(network, scheduler, obs_dim=8, horizon=8, act_dim=2)
    Pipeline(recipe, Path("runs/mine"), Path("models/mine"), print, own_teacher=teacher).run()

The network reads normalised observations and actions in the scales of the task's ``PolicySpec``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srdp_controller.policy.denoiser import DiffusionTeacher, ForwardProcess
from srdp_controller.policy.samplers import CLIP

# noisy chunk (B, horizon, act_dim), timestep (B,) 0 .. T - 1, encoded state (B, C) -> prediction, same shape
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


class AdaptedTeacher(DiffusionTeacher):
    """A network of any architecture as a teacher.

    ``encode`` maps observations (B, obs_dim) to what the network is conditioned on (B, C); it is also
    the latent that students are aligned to. Without one the observation itself plays both parts.
    ``prediction`` is diffusers' ``prediction_type``: epsilon, v_prediction or sample. ``timesteps``, rising, are those
    at which it is sampled (default: all that ``alphas_cumprod`` (T,) has). ``clip`` and ``keeps_noise`` are those of
    ``ForwardProcess``. The action is ``actions`` steps of the network's ``horizon`` from step ``first`` on.
    """

    def __init__(
        self,
        network: nn.Module,
        alphas_cumprod: np.ndarray,
        *,
        obs_dim: int,
        horizon: int,
        act_dim: int,
        prediction: str = "epsilon",
        encode: nn.Module | None = None,
        call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None,
        timesteps: Sequence[int] | None = None,
        clip: float = CLIP,
        keeps_noise: bool = False,
        first: int = 0,
        actions: int | None = None,
    ) -> None:
        super().__init__()
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type {prediction!r}: expected epsilon, v_prediction or sample")
        asked = np.arange(len(alphas_cumprod)) if timesteps is None else np.asarray(timesteps)
        alpha_bar = np.concatenate([[1.0], np.asarray(alphas_cumprod, dtype=np.float64)[asked]])
        self.network, self.encode = network, encode if encode is not None else nn.Identity()
        self.obs_dim, self.action_dim = obs_dim, horizon * act_dim
        self.horizon, self.act_dim = horizon, act_dim
        self.given = slice(first * act_dim, (first + (horizon - first if actions is None else actions)) * act_dim)
        self.process = ForwardProcess(
            alpha_bar, "v" if prediction == "v_prediction" else "epsilon", min(clip, CLIP), keeps_noise
        )
        self._timesteps = torch.tensor([int(asked[0]), *asked.tolist()], dtype=torch.float32)  # of 0, never asked: any
        self._predicts_sample = prediction == "sample"
        self._call = call if call is not None else lambda net, a, t, context: net(a, t, context)
        with torch.no_grad():
            self.latent_dim = int(self.encode(torch.zeros(2, obs_dim)).shape[1])

    def latent(self, observation: Tensor) -> Tensor:
        """The encoded state (B, latent_dim)."""
        return self.encode(observation)

    def context(self, observation: Tensor) -> Tensor:
        """The encoded state (B, latent_dim), computed once per action."""
        return self.encode(observation)

    def time_features(self, t: Tensor) -> Tensor:
        """Diffusers' timestep (which counts from 0) and both rates (n, 3)."""
        signal, noise = self.process.rates(t)
        return torch.cat([self._timesteps.to(t.device)[t][:, None], signal, noise], dim=1)

    def predict(self, a: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """The network's output (B, A); a predicted sample is turned into noise."""
        time = time.expand(a.shape[0], 3)
        chunk = a.reshape(-1, self.horizon, self.act_dim)
        output = self._call(self.network, chunk, time[:, 0], context).reshape(-1, self.action_dim)
        if self._predicts_sample:
            return (a - time[:, 1:2] * output) / time[:, 2:3].clamp(min=1e-4)
        return output


def from_diffusers(
    network: nn.Module,
    scheduler: Any,
    *,
    obs_dim: int,
    horizon: int,
    act_dim: int,
    encode: nn.Module | None = None,
    **how: Any,
) -> AdaptedTeacher:
    """A teacher from a network and the ``diffusers`` scheduler it was trained with (DDPM, DDIM, DPM-Solver ...).

    ``network(noisy (B, horizon, act_dim), timestep (B,), encoded state (B, C))`` returns its prediction. Clean
    estimates are clipped as the scheduler clips them, and at 4 scales where it does not. ``how`` is for
    ``AdaptedTeacher``.

    Raises:
        ValueError: the scheduler's ``prediction_type`` is unknown, or it is not a diffusion over alpha_bar.
    """
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise ValueError(f"{type(scheduler).__name__} has no alphas_cumprod; use a DDPM, DDIM or DPM-Solver scheduler")
    return AdaptedTeacher(
        network,
        alphas_cumprod.numpy(),
        obs_dim=obs_dim,
        horizon=horizon,
        act_dim=act_dim,
        prediction=scheduler.config.prediction_type,
        encode=encode,
        clip=scheduler.config.clip_sample_range if scheduler.config.get("clip_sample") else CLIP,
        keeps_noise=type(scheduler).__name__ == "DDIMScheduler",
        **how,
    )


class _OldestFirst(nn.Module):
    """States (B, steps * size), the newest first as a ``PolicySpec`` has them, with the oldest first."""

    def __init__(self, steps: int, size: int) -> None:
        super().__init__()
        self.order = [step * size + number for step in range(steps - 1, -1, -1) for number in range(size)]

    def forward(self, observation: Tensor) -> Tensor:
        return observation[:, self.order]


def from_lerobot(policy: Any, actions: int | None = None) -> AdaptedTeacher:
    """A teacher from a state-based LeRobot ``DiffusionPolicy``, sampled in its ``num_inference_steps`` steps.

    Observations are the newest ``n_obs_steps`` states one after another, the newest first, each ``observation.state``
    then ``observation.environment_state``, normalised as in training. LeRobot's chunk begins ``n_obs_steps`` - 1 steps
    before now: the action is the ``actions`` steps from now on (default: all that there are). Of its DDPM scheduler the
    random noise of every step is left out (eta = 0).

    Raises:
        ValueError: the policy uses images, or predicts fewer actions from now on.
    """
    config = policy.config
    if config.image_features:
        raise ValueError("LeRobot policy with images: only state-based policies can be adapted")
    state = config.robot_state_feature.shape[0]
    environment = config.env_state_feature.shape[0] if config.env_state_feature else 0
    past = config.n_obs_steps - 1
    if actions is not None and not 1 <= actions <= config.horizon - past:
        raise ValueError(
            f"{actions} actions: the policy predicts {config.horizon - past} from now on (its horizon of "
            f"{config.horizon} begins {past} steps before now)"
        )
    scheduler = policy.diffusion.noise_scheduler
    scheduler.set_timesteps(policy.diffusion.num_inference_steps)
    return from_diffusers(
        policy.diffusion.unet,
        scheduler,
        obs_dim=config.n_obs_steps * (state + environment),
        horizon=config.horizon,
        act_dim=config.action_feature.shape[0],
        encode=_OldestFirst(config.n_obs_steps, state + environment),
        call=lambda net, a, t, context: net(a, t.long(), global_cond=context),
        timesteps=sorted(scheduler.timesteps.tolist()),
        first=past,
        actions=actions,
    )
