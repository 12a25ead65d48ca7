"""``Engine``: what the control loop needs of an inference engine, whatever runs underneath."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np


class Runnable(Protocol):
    """What a cycle runs between filling buffers in and reading the answer."""

    def run(self) -> None:
        """Evaluate once on the buffers.

        Raises:
            EngineError: the evaluation failed or was cancelled.
        """


class Engine(Protocol):
    """A loaded policy with preallocated, contiguous float32 buffers of N rows, one for each chunk that is sampled.

    The caller fills ``observation`` (N, obs_dim, raw SI) and ``noise`` (N, n_noise, horizon,
    act_dim), calls ``run`` and reads ``action`` (N, horizon, act_dim, raw SI), ``latent`` and
    ``teacher_latent`` (N, z_dim). N is 1 unless ``EngineOptions.candidates`` says otherwise. One thread at a time.
    """

    name: str
    provider: str
    evaluations: int
    observation: np.ndarray
    noise: np.ndarray
    action: np.ndarray
    latent: np.ndarray
    teacher_latent: np.ndarray

    def run(self) -> None:
        """Evaluate the policy once.

        Raises:
            EngineError: the evaluation failed or was cancelled.
        """

    def cancel(self) -> None:
        """Ask a ``run`` under way in another thread to stop early; it then raises."""


@runtime_checkable
class Guided(Protocol):
    """An engine whose policy is told the rest of the chunk in force, so that its own goes on from there.

    ``previous`` (N, horizon, act_dim, raw SI) holds that rest, its last action repeated; ``weights`` (N, horizon) says
    how much each of its actions binds: 1 what is executed before the new chunk is ready, 0 what is free.
    """

    previous: np.ndarray
    weights: np.ndarray
