"""Ring buffer of what each cycle did, preallocated; read out after the run or on request."""

from __future__ import annotations

import numpy as np

MODES = ("STUDENT", "TEACHER", "HOLD", "STOP")
COLUMNS = ("time_s", "mode", "inference_us", "latency_us", "age_ms", "score", "command_x", "command_y")


class Telemetry:
    """The last ``capacity`` cycles, one float64 row each (columns: ``COLUMNS``)."""

    def __init__(self, capacity: int) -> None:
        self._rows = np.zeros((capacity, len(COLUMNS)))
        self._next = 0

    def record(self, row: tuple[float, ...]) -> None:
        """Write one cycle's row over the oldest."""
        self._rows[self._next % len(self._rows)] = row
        self._next += 1

    def rows(self) -> np.ndarray:
        """Copy (n, columns), oldest first."""
        if self._next <= len(self._rows):
            return self._rows[: self._next].copy()
        start = self._next % len(self._rows)
        return np.concatenate([self._rows[start:], self._rows[:start]])
