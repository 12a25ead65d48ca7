"""What a diffusion policy must offer to be a teacher: the protocol for bringing your own.

The offline side talks to every teacher through ``DiffusionTeacher``: a latent of the state, a denoiser
that reads (a_t, s, t), and the forward process. `docs/own_teacher.md` shows an adapter from end to end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from srdp_controller.policy.noise_schedule import skipped_steps
from srdp_controller.policy.samplers import CLIP, ddim

Prediction = Literal["epsilon", "v"]


@dataclass(frozen=True)
class ForwardProcess:
    """Signal rates alpha_bar_0 .. alpha_bar_T (eq. 1) and what the network predicts.

    ``epsilon`` is the noise (eq. 3); ``v`` is sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) a_0
    (Salimans and Ho, 2022), which stays well conditioned where almost no signal is left. Clean estimates are clipped to
    ``clip`` when it is sampled; with ``keeps_noise`` a step then goes on with the noise as it was predicted, as
    diffusers' DDIM does, not with what the clipped estimate leaves of a_t, as its DDPM does.
    """

    alpha_bar: np.ndarray
    prediction: Prediction = "epsilon"
    clip: float = CLIP
    keeps_noise: bool = False

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alpha_bar) - 1

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise rates sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t), each (B, 1), at timesteps t (B,)."""
        alpha_bar = torch.tensor(self.alpha_bar, dtype=torch.float32)[t][:, None]
        return alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()

    def noisy(self, clean: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """Sample of the forward process (eq. 1): a_t (B, A) from a_0 and noise."""
        signal, noise = self.rates(t)
        return signal * clean + noise * epsilon

    def target(self, clean: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """What the network should predict (B, A) for a_t made of ``clean`` and ``epsilon``."""
        if self.prediction == "epsilon":
            return epsilon
        signal, noise = self.rates(t)
        return signal * epsilon - noise * clean

    def epsilon(self, a: Tensor, predicted: Tensor, signal: Tensor | float, noise: Tensor | float) -> Tensor:
        """Noise (B, A) that a prediction at a_t (B, A) stands for, given the rates there."""
        return predicted if self.prediction == "epsilon" else signal * predicted + noise * a


class Denoiser(nn.Module, ABC):
    """A network that reads a noisy action, a state and a timestep; everything is normalised.

    The state's share is computed once per action (``context``) and the timesteps' share is a constant
    of the exported graph (``time_features``), so that ``predict`` does only what every step must do.
    ``given`` says which numbers of a chunk (A,) are the action; others, such as steps before now, are sampled with them
    and dropped.
    """

    obs_dim: int
    action_dim: int
    latent_dim: int
    given: slice = slice(None)

    @property
    def whole(self) -> bool:
        """Whether every number of a chunk is the action's."""
        return self.given.indices(self.action_dim)[:2] == (0, self.action_dim)

    @abstractmethod
    def latent(self, observation: Tensor) -> Tensor:
        """z(s) (B, latent_dim) of observations (B, obs_dim)."""

    @abstractmethod
    def context(self, observation: Tensor) -> Tensor:
        """Whatever ``predict`` needs of the observations: (B, C)."""

    @abstractmethod
    def time_features(self, t: Tensor) -> Tensor:
        """Whatever ``predict`` needs of timesteps t (n,): (n, F)."""

    @abstractmethod
    def predict(self, a: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """The network's output (B, A) at a_t (B, A), context (B, C) and time features (B, F) or (F,)."""

    def mask(self, context: Tensor) -> Tensor | None:
        """Which entries of the chunk (B, A) are the policy's to choose: 1 or 0; None where all are."""
        return None

    def with_prefix(self, a: Tensor, context: Tensor) -> Tensor:
        """A sampled a_0 (B, A) with the given part of the chunk, its prefix, in place; a itself where none is given."""
        return a


class DiffusionTeacher(Denoiser):
    """A denoiser with its forward process: can be sampled, queried and distilled.

    As shipped a teacher samples with all T deterministic steps (eta = 0), so the one Gaussian draw
    a_T is its whole randomness and couples it to its students sample by sample.
    """

    process: ForwardProcess

    @property
    def diffusion_steps(self) -> int:
        """T."""
        return self.process.steps

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal rates (T + 1,)."""
        return self.process.alpha_bar

    def epsilon(self, a: Tensor, context: Tensor, t: Tensor) -> Tensor:
        """Noise estimate (B, A) at a_t (B, A), the states' context (B, C) and timesteps t (B,) (eq. 3)."""
        signal, noise = self.process.rates(t)
        return self.process.epsilon(a, self.predict(a, context, self.time_features(t)), signal, noise)

    def step(self, a: Tensor, context: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One deterministic step (B, A) from timesteps t (B,) to t' (B,); where t' = t nothing moves."""
        signal, noise = self.process.rates(t)
        signal_next, noise_next = self.process.rates(t_next)
        epsilon, clip = self.epsilon(a, context, t), self.process.clip
        clean = ((a - noise * epsilon) / signal.clamp(min=1e-6)).clamp(-clip, clip)
        moved = signal_next * clean + noise_next * (
            epsilon if self.process.keeps_noise else (a - signal * clean) / noise
        )
        return torch.where((t_next < t)[:, None], moved, a)

    @torch.no_grad()
    def sample(
        self, observation: Tensor, noise: Tensor, steps: int | None = None, keep: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Run ``steps`` DDIM steps (default all T) from noise (B, A), and one more at each timestep of ``keep``.

        Returns the clean chunk (B, A) and the intermediate states at timesteps ``keep``, falling.
        """
        tau = sorted({*skipped_steps(self.diffusion_steps, steps or self.diffusion_steps), *keep})
        context = self.context(observation)
        features = self.time_features(torch.tensor(tau))
        index = {t: row for row, t in enumerate(tau)}
        alpha_bar = self.alpha_bar.tolist()

        def predict(a: Tensor, t: int) -> Tensor:
            predicted = self.predict(a, context, features[index[t]])
            return self.process.epsilon(a, predicted, alpha_bar[t] ** 0.5, (1.0 - alpha_bar[t]) ** 0.5)

        a, kept = ddim(predict, noise, alpha_bar, tau, keep, self.process.clip, self.process.keeps_noise)
        a = self.with_prefix(a, context)
        if 0 in keep:
            kept[-1] = a
        return a, kept
