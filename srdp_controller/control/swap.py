"""Exchanging the engine while the loop runs: prepare in the background, exchange one reference."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from srdp_controller.control.histogram import Histogram
from srdp_controller.engines.engine import Engine
from srdp_controller.errors import EngineError, SrdpError


@dataclass(frozen=True)
class Deployment:
    """An engine that is ready to drive, with the abstention threshold that belongs to it."""

    name: str
    engine: Engine
    threshold: float
    run_time_ns: float


def measure(engine: Engine, runs: int = 200) -> float:
    """Run time [ns] that the loop has to expect of an engine, over ``runs`` runs.

    The larger of the processor time's p99 and the wall time's median: this thread has no priority, so
    the wall time's tail is what other processes took from it, which they cannot take from the loop.
    """
    wall, processor = Histogram(), Histogram()
    for _ in range(runs):
        started, worked = time.perf_counter_ns(), time.thread_time_ns()
        engine.run()
        processor.record(time.thread_time_ns() - worked)
        wall.record(time.perf_counter_ns() - started)
    return max(processor.quantile(0.99), wall.quantile(0.5))


def require_fit(name: str, run_time_ns: float, period_ns: int, share: float = 0.8) -> None:
    """Refuse an engine whose run time (see ``measure``) does not leave room in the period.

    Raises:
        EngineError: with the measured time and the rate that would fit.
    """
    if run_time_ns > share * period_ns:
        raise EngineError(
            f"engine {name} takes {run_time_ns * 1e-3:.0f} us, more than {share:.0%} of the period of "
            f"{period_ns * 1e-3:.0f} us; lower update_rate to {share * 1e9 / run_time_ns:.0f} Hz or choose fewer steps"
        )


class EngineSlot:
    """Holds the deployment in force; ``take`` is called by the loop between two cycles."""

    def __init__(self, deployment: Deployment, prepare: Callable[[str], Deployment]) -> None:
        self.current = deployment
        self.swaps = 0
        self.refusal = ""
        self._prepare = prepare
        self._pending: Deployment | None = None
        self._wanted: str | None = None
        self._lock = threading.Lock()  # between requesters only; the loop never takes it
        self._thread: threading.Thread | None = None

    def request(self, name: str) -> None:
        """Prepare ``name`` in the background; the newest request wins. Returns at once."""
        with self._lock:
            self._wanted = name
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="engine-swap", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                name, self._wanted = self._wanted, None
                if name is None:
                    self._thread = None
                    return
            try:
                self._pending = self._prepare(name)
                self.refusal = ""
            except SrdpError as error:
                self.refusal = str(error)

    @property
    def busy(self) -> bool:
        """Whether a request is being prepared or waits for the next cycle."""
        return self._thread is not None or self._pending is not None

    def take(self) -> bool:
        """Put a prepared deployment in force; whether there was one."""
        pending = self._pending
        if pending is None:
            return False
        self._pending = None
        self.current = pending
        self.swaps += 1
        return True
