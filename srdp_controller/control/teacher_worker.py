"""The slow teacher in a thread of its own: it plans chunks while the loop goes on.

The loop hands over the newest observation only while the worker is idle, and looks at the newest
finished plan; neither side ever waits for the other.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import numpy as np

from srdp_controller.engines.engine import Engine
from srdp_controller.errors import SrdpError


@dataclass(frozen=True)
class Plan:
    """A finished chunk (horizon, act_dim) [SI] and two monotonic times [ns].

    ``begun_ns`` is when its first action was due; ``measured_ns`` is when the oldest part of the
    observation that it was computed from was measured.
    """

    chunk: np.ndarray
    begun_ns: int
    measured_ns: int

    def action(self, now_ns: int, step_ns: int) -> np.ndarray | None:
        """The chunk's action for ``now_ns``: what has passed is skipped; None after its end."""
        index = (now_ns - self.begun_ns) // step_ns
        if 0 <= index < len(self.chunk):
            action: np.ndarray = self.chunk[index]
            return action
        return None


class TeacherWorker:
    """Runs one engine in the background; ``plan`` is the newest result."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next = engine
        self._wake = os.eventfd(0)
        self._busy = False
        self._running = True
        self._begun_ns = 0
        self._measured_ns = 0
        self.plan: Plan | None = None
        self.error = ""
        self.plans = 0
        self._thread = threading.Thread(target=self._work, name="teacher", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a plan is being made."""
        return self._busy

    def exchange(self, engine: Engine) -> None:
        """Plan with another engine from the next plan on; a plan under way ends with the old one."""
        self._next = engine

    def submit(self, observation: np.ndarray, noise: np.ndarray, now_ns: int, measured_ns: int) -> bool:
        """Start a plan from an observation (obs_dim,); False, at once, while one is being made."""
        if self._busy:
            return False
        self._engine = self._next
        self._engine.observation[0] = observation
        # a student that draws anew at every step brings more draws than the teacher takes: the first is shared
        np.copyto(self._engine.noise, noise[:, : self._engine.noise.shape[1]])
        self._begun_ns = now_ns
        self._measured_ns = measured_ns
        self._busy = True
        os.eventfd_write(self._wake, 1)
        return True

    def _work(self) -> None:
        while True:
            os.eventfd_read(self._wake)
            if not self._running:
                return
            try:
                self._engine.run()
                chunk = self._engine.action[0].copy()
                if np.isfinite(chunk).all():
                    self.plan = Plan(chunk, self._begun_ns, self._measured_ns)
                    self.plans += 1
                    self.error = ""
                else:
                    self.error = "teacher answered NaN"
            except SrdpError as error:
                self.error = str(error)
            finally:
                self._busy = False

    def close(self) -> None:
        """Stop the thread; a plan under way is cancelled."""
        self._running = False
        self._engine.cancel()
        os.eventfd_write(self._wake, 1)
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            os.close(self._wake)
