"""A scenario's ``faults``: what a sensor stream does wrong, and when in an episode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from srdp_controller.simulation.scenario import SensorFault
from srdp_controller.simulation.sensors import Measurement

STAMP_ERROR_S = 0.5
FAR_OUT = 100.0  # beyond any limit of a joint [rad] or of the table [m]


class FaultInjector:
    """Applies the faults of one stream to its measurements."""

    def __init__(self, faults: tuple[SensorFault, ...], stream: str) -> None:
        self._faults = [fault for fault in faults if fault.stream == stream]
        self._last: Measurement | None = None
        self._frozen: np.ndarray | None = None

    def apply(self, measurement: Measurement, now_s: float) -> list[Measurement]:
        """What is really published instead of a healthy measurement at ``now_s`` [s] of the episode, in order.

        Stamps are times of the simulation [s]; a truncated message has fewer values.
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
