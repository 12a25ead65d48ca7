"""The sampler's noise, with a time constant of its own, independent of the loop's rate."""

from __future__ import annotations

import numpy as np


class HeldNoise:
    """Draws standard normal noise into a buffer and keeps it for ``hold_ns``.

    A policy that draws anew every cycle can dither between modes (docs/noise.md).
    Where several chunks are sampled, it is drawn anew every cycle: the same few once more leave less to choose from.
    """

    def __init__(self, hold_ns: int, seed: int) -> None:
        self.hold_ns = hold_ns
        self._generator = np.random.default_rng(seed)
        self._until = -(2**62)
        self._noise: np.ndarray | None = None

    def renew(self) -> None:
        """Draw anew at the next ``fill``."""
        self._until = -(2**62)

    def fill(self, buffer: np.ndarray, now_ns: int) -> None:
        """Write the noise in force at ``now_ns`` into ``buffer`` (N, n_noise, horizon, act_dim)."""
        if len(buffer) > 1:
            self._generator.standard_normal(out=buffer, dtype=np.float32)
            self.renew()
            return
        if self._noise is None or self._noise.shape != buffer.shape or now_ns >= self._until:
            if self._noise is None or self._noise.shape != buffer.shape:
                self._noise = np.zeros_like(buffer)
            self._generator.standard_normal(out=self._noise, dtype=np.float32)
            self._until = now_ns + self.hold_ns
        np.copyto(buffer, self._noise)
