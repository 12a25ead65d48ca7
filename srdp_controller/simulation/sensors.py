"""Measured streams: rate, latency, noise, bias, quantisation and lost messages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from srdp_controller.simulation.scenario import Sensor


@dataclass(frozen=True)
class Measurement:
    """A published sample: values and the simulation times of measurement and publication [s]."""

    values: np.ndarray
    measured_s: float
    published_s: float


class SensorStream:
    """Turns true values into published measurements."""

    def __init__(self, parameters: Sensor, size: int, rng: np.random.Generator) -> None:
        self._parameters = parameters
        self._rng = rng
        self._bias = parameters.bias * rng.standard_normal(size)
        self._next = 0.0
        self._pending: deque[Measurement] = deque()

    def due(self, now: float) -> bool:
        """Whether a sample is to be taken at time ``now`` [s]."""
        return now >= self._next - 1e-9

    def sample(self, true_values: np.ndarray, now: float) -> None:
        """Measure (size,) values at time ``now`` [s]; publication follows after the latency."""
        parameters = self._parameters
        self._next = max(self._next, now - 1.0 / parameters.rate_hz) + 1.0 / parameters.rate_hz
        if parameters.drop and self._rng.random() < parameters.drop:
            return
        values = true_values + self._bias
        if parameters.noise:
            values = values + parameters.noise * self._rng.standard_normal(len(values))
        if parameters.quantisation:
            values = np.round(values / parameters.quantisation) * parameters.quantisation
        self._pending.append(Measurement(values, now, now + parameters.latency_s))

    def published(self, now: float) -> Measurement | None:
        """Newest measurement whose publication time has come, or None."""
        newest = None
        while self._pending and self._pending[0].published_s <= now + 1e-9:
            newest = self._pending.popleft()
        return newest
