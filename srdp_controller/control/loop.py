"""The fixed-rate loop: wait for the deadline, run the cycle, account for it, next deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from srdp_controller.control.clock import Sleep, sleep_until
from srdp_controller.control.histogram import Histogram

SLACK_POLL_S = 20e-6
PLENTY_NS = 5_000_000


@dataclass(frozen=True)
class LoopTiming:
    """What is configured: the period, how to wait, and whether missed cycles are skipped."""

    period_ns: int
    wait: Sleep
    manage_overruns: bool = True


@dataclass
class LoopState:
    """What changes: counters and the histograms of this run [ns]."""

    cycles: int = 0
    overruns: int = 0
    missed_cycles: int = 0
    last_lateness_ns: int = 0
    last_execution_ns: int = 0
    deadline_ns: int = 0  # the next one; 0 while no loop runs
    lateness: Histogram = field(default_factory=Histogram)
    period_error: Histogram = field(default_factory=Histogram)
    execution: Histogram = field(default_factory=Histogram)

    def restart_statistics(self) -> None:
        """Count anew from here."""
        self.cycles = self.overruns = self.missed_cycles = 0
        for histogram in (self.lateness, self.period_error, self.execution):
            histogram.clear()


def absolute(lateness: int) -> int:
    """Magnitude of a period's error [ns]."""
    return lateness if lateness >= 0 else -lateness


def run_loop(
    timing: LoopTiming,
    state: LoopState,
    cycle: Callable[[int], None],
    running: Callable[[], bool],
    slack: Callable[[int], None] | None = None,
) -> None:
    """Call ``cycle(started_ns)`` every period until ``running()`` is false.

    Deadlines are absolute: an overrun (a cycle that ends after the next deadline) skips the cycles
    that it missed without moving the phase, or, where overruns are not managed, lets them follow at
    once. ``slack(deadline_ns)`` may use the time until the next deadline.
    """
    now = time.monotonic_ns
    period = timing.period_ns
    wait = timing.wait
    state.deadline_ns = deadline = now() + period
    previous = 0
    while running():
        wait(deadline)
        started = now()
        lateness = started - deadline
        state.lateness.record(lateness)
        state.last_lateness_ns = lateness
        if previous:
            state.period_error.record(absolute(started - previous - period))
        previous = started
        cycle(started)
        ended = now()
        state.cycles += 1
        state.last_execution_ns = ended - started
        state.execution.record(ended - started)
        deadline += period
        overrun = ended > deadline
        if overrun:
            state.overruns += 1
            if timing.manage_overruns:
                missed = (ended - deadline) // period + 1
                state.missed_cycles += missed
                deadline += missed * period
                previous = 0
        state.deadline_ns = deadline
        if not overrun and slack is not None:
            slack(deadline)
    state.deadline_ns = 0


def wait_for_slack(state: LoopState, period_ns: int) -> None:
    """Return when a loop of another thread has just ended a cycle and needs the interpreter for longest not.

    At once while no loop runs, or where most of the period or ``PLENTY_NS`` is still ahead; in any case within two
    periods.
    """
    now = time.monotonic_ns
    deadline = state.deadline_ns
    if not deadline or deadline - now() > min(period_ns * 3 // 5, PLENTY_NS):
        return
    sleep_until(deadline + state.last_execution_ns)
    give_up = deadline + period_ns
    while state.deadline_ns == deadline and now() < give_up:
        time.sleep(SLACK_POLL_S)
