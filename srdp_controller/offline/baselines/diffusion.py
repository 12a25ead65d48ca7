"""Diffusion with v-prediction and a schedule that ends without any signal (Lin et al., 2024, arXiv 2305.08891).

With T = K it is K-step diffusion, also for K = 1, where a_T is nothing but noise and predicting that would say nothing.
One step from there, as of a flow, answers with the mean chunk: v is then -a_0, and the noise tells nothing of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from srdp_controller.offline.baselines.network import ChunkNetwork
from srdp_controller.offline.distill import mean_square
from srdp_controller.policy.denoiser import ForwardProcess
from srdp_controller.policy.noise_schedule import SCHEDULES, skipped_steps
from srdp_controller.policy.samplers import CLIP, ddim_step


def zero_terminal_snr(schedule: str, steps: int) -> ForwardProcess:
    """A schedule of ``steps`` steps whose signal rates are shifted to end at zero and scaled to begin at one."""
    signal = np.sqrt(SCHEDULES[schedule](steps))
    return ForwardProcess(((signal - signal[-1]) / (1.0 - signal[-1])) ** 2, "v")


def v_loss(
    network: ChunkNetwork,
    observation: Tensor,
    action: Tensor,
    generator: torch.Generator,
    *,
    process: ForwardProcess,
) -> Tensor:
    """Eq. 3 with v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) a_0 in place of the noise."""
    t = torch.randint(1, process.steps + 1, (len(action),), generator=generator)
    epsilon = torch.randn(action.shape, generator=generator)
    context = network.context(observation)
    v = network.predict(process.noisy(action, epsilon, t), context, network.time_features(t))
    return mean_square(v - process.target(action, epsilon, t), network.mask(context))


def ddim(network: ChunkNetwork, observation: Tensor, noise: Tensor, *, process: ForwardProcess, steps: int) -> Tensor:
    """A chunk (B, A) from noise (B, 1, A) in deterministic steps, the first from t = T ("trailing" timesteps)."""
    context, a = network.context(observation), noise[:, 0]
    tau = skipped_steps(process.steps, steps)
    for k in range(steps, 0, -1):
        alpha_bar, alpha_bar_next = float(process.alpha_bar[tau[k]]), float(process.alpha_bar[tau[k - 1]])
        v = network.predict(a, context, network.time_features(torch.tensor([tau[k]])))
        clean = (alpha_bar**0.5 * a - (1.0 - alpha_bar) ** 0.5 * v).clamp(-CLIP, CLIP)
        a = ddim_step(a, clean, alpha_bar, alpha_bar_next)
    return network.with_prefix(a, context)
