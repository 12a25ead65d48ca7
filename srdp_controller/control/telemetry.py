"""Ring buffer of what each cycle did, preallocated; read out after the run, on request, or by a recorder.

The ring may lie in shared memory (a file that is mapped), so that another process can record it while
the loop runs without the loop ever waiting, and still finish when the loop's process was killed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from srdp_controller.spec import PolicySpec

MODES = ("STUDENT", "TEACHER", "HOLD", "STOP")
COLUMNS = ("time_s", "mode", "inference_us", "latency_us", "age_ms", "score")
HEADER = 16  # int64 words before the rows
NEXT, CLOSED, STATUS, RECORDED, LOST, EPOCH_NS, CAPACITY, WIDTH = range(8)
RECORDING, FINISHED, FAILED = range(3)


class SharedRing:
    """A mapped file: header words (``NEXT`` ... ``WIDTH``), then rows (capacity, width) of float64."""

    def __init__(self, path: Path, capacity: int = 0, width: int = 0) -> None:
        self.path = path
        with path.open("r+b") as file:
            if capacity:
                file.truncate(8 * (HEADER + capacity * width))
            self._map = mmap.mmap(file.fileno(), 0)
        self.header = np.frombuffer(self._map, np.int64, HEADER)
        if capacity:
            self.header[CAPACITY], self.header[WIDTH] = capacity, width
        shape = (int(self.header[CAPACITY]), int(self.header[WIDTH]))
        self.rows = np.frombuffer(self._map, np.float64, shape[0] * shape[1], 8 * HEADER).reshape(shape)

    @classmethod
    def create(cls, capacity: int, width: int) -> SharedRing:
        """A new ring, in memory where the system has a memory file system."""
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        handle, name = tempfile.mkstemp(prefix="srdp_telemetry_", dir=folder)
        os.close(handle)
        return cls(Path(name), capacity, width)

    def unlink(self) -> None:
        """Remove the file; what is mapped stays readable."""
        self.path.unlink(missing_ok=True)


class Telemetry:
    """The last ``capacity`` cycles, one float64 row each.

    Its ``columns``: ``COLUMNS``, then ``command_NAME`` of every action component, then the observation's components.
    """

    def __init__(self, capacity: int, spec: PolicySpec, shared: bool = False) -> None:
        commands = [f"command_{component.name}" for component in spec.action]
        self.columns = (*COLUMNS, *commands, *(component.name for component in spec.observation))
        self.ring = SharedRing.create(capacity, len(self.columns)) if shared else None
        self._rows = self.ring.rows if self.ring is not None else np.zeros((capacity, len(self.columns)))
        self._observation = len(COLUMNS) + len(commands)
        self._next = 0

    def record(self, row: tuple[float, ...], command: list[float], observation: np.ndarray) -> None:
        """Write one cycle (the ``COLUMNS``, its command (act_dim,), its observation (obs_dim,)) over the oldest."""
        place = self._rows[self._next % len(self._rows)]
        place[: self._observation] = (*row, *command)
        place[self._observation :] = observation
        self._next += 1
        if self.ring is not None:
            header = self.ring.header
            if self._next == 1:
                header[EPOCH_NS] = time.time_ns() - round(row[0] * 1e9)
            header[NEXT] = self._next

    def rows(self) -> np.ndarray:
        """Copy (n, columns), oldest first."""
        if self._next <= len(self._rows):
            return self._rows[: self._next].copy()
        start = self._next % len(self._rows)
        return np.concatenate([self._rows[start:], self._rows[:start]])
