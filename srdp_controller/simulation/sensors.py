"""A measured stream: rate, latency, noise, bias, quantisation, lost messages, and its faults."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from srdp_controller.simulation.scenario import Sensor, SensorFault

STAMP_ERROR_S = 0.5
FAR_OUT = 100.0  # beyond any limit of a joint [rad] or of a table [m]


@dataclass(frozen=True)
class Measurement:
    """A sample: values (size,), and the times of the episode when it was taken and is published [s]."""

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


class FaultInjector:
    """Applies a scenario's ``faults`` to the measurements of one topic."""

    def __init__(self, faults: tuple[SensorFault, ...], topic: str) -> None:
        self._faults = [fault for fault in faults if fault.topic == topic]
        self._last: Measurement | None = None
        self._frozen: np.ndarray | None = None

    def apply(self, measurement: Measurement, now_s: float) -> list[Measurement]:
        """What is really published instead of a healthy measurement at ``now_s`` [s] of the episode, in order.

        A truncated message has fewer values.
        """
        fault = next((one for one in self._faults if one.start_s <= now_s < one.start_s + one.duration_s), None)
        previous, self._last = self._last, measurement
        if fault is None:
            self._frozen = None
            return [measurement]
        values = measurement.values
        match fault.kind:
            case "silent":
                return []
            case "frozen":
                if self._frozen is None:
                    self._frozen = values.copy()
                return [replace(measurement, values=self._frozen)]
            case "nan":
                return [replace(measurement, values=np.full_like(values, np.nan))]
            case "infinite":
                return [replace(measurement, values=np.full_like(values, np.inf))]
            case "out_of_range":
                return [replace(measurement, values=values + FAR_OUT)]
            case "truncated":
                return [replace(measurement, values=values[:-1])]
            case "stale":
                return [replace(measurement, measured_s=measurement.measured_s - STAMP_ERROR_S)]
            case "future":
                return [replace(measurement, measured_s=measurement.measured_s + STAMP_ERROR_S)]
            case "duplicated":
                return [measurement, measurement]
            case "reordered":
                return [measurement] if previous is None else [measurement, previous]
