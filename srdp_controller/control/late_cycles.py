"""Why cycles were late: what the operating system says of the loop's thread round each of them.

A cycle may end late because its own work took long, because the thread waited for a lock that another thread held
(in Python the interpreter's), because the kernel ran another thread on its processor, or because nothing of this
machine ran there at all: a hypervisor, firmware or an interrupt had taken the processor. The first two are this
program's, and the others are not.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from srdp_controller.control.clock import Sleep

LATE_SHARE = 0.5  # of the period: a cycle that begins later than this, or takes longer, is kept with its cause
KEPT = 1000


class Cause(Enum):
    """What a late cycle waited for."""

    TAKEN = "processor taken away"
    SCHEDULED = "another thread ran"
    LOCK = "waited for a lock"
    WORK = "computed for long"


@dataclass(frozen=True)
class Moment:
    """The thread's clocks [ns] and how often it has given its processor up by itself."""

    wall_ns: int
    cpu_ns: int
    queued_ns: int
    waits: int


@dataclass(frozen=True)
class LateCycle:
    """One late cycle: when [s], how late it began and how long it took [us], and why."""

    time_s: float
    lateness_us: float
    execution_us: float
    overrun: bool
    cause: str


def cause_of(before: Moment, after: Moment, late_ns: int, sleeps: int, computes: bool) -> Cause:
    """Where most of ``late_ns`` went, of what passed between two moments of the loop's thread.

    ``sleeps`` is how often it went to sleep by itself meanwhile. One that ``computes`` may have done so for long;
    one that waits for a deadline cannot, and where its spinning took long, the processor's time was not its own.
    """
    if after.queued_ns - before.queued_ns > late_ns // 2:
        return Cause.SCHEDULED
    if computes and after.cpu_ns - before.cpu_ns > late_ns // 2:
        return Cause.WORK
    return Cause.LOCK if after.waits - before.waits > sleeps else Cause.TAKEN


class LateCycles:
    """Keeps the late cycles of a loop whose wait and cycle it wraps, for some system calls a cycle.

    Made by the loop's own thread, which it watches. A kernel without scheduler statistics does not tell how long
    a thread stood in its queue; another thread that ran is then a processor that was taken away.
    """

    def __init__(self, period_ns: int) -> None:
        self._limit_ns = round(LATE_SHARE * period_ns)
        self._period_ns = period_ns
        self._ended = self._asleep = self._awake = Moment(0, 0, 0, 0)
        self._deadline_ns, self._first_ns = 0, time.monotonic_ns()
        self._scheduler = -1
        with contextlib.suppress(OSError):
            self._scheduler = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self.clear()

    def close(self) -> None:
        """The loop has ended."""
        if self._scheduler >= 0:
            os.close(self._scheduler)
            self._scheduler = -1

    def clear(self) -> None:
        """Forget what was seen so far."""
        self._counts: Counter[Cause] = Counter()
        self._overruns: Counter[Cause] = Counter()
        self._kept: list[LateCycle] = []

    def wait(self, wait: Sleep) -> Sleep:
        """The same way of waiting for a deadline, watched."""

        def watched(deadline_ns: int) -> None:
            self._asleep = self._moment()
            wait(deadline_ns)
            self._awake = self._moment()
            self._deadline_ns = deadline_ns

        return watched

    def cycle(self, cycle: Callable[[int], None]) -> Callable[[int], None]:
        """The same cycle, watched."""

        def watched(now_ns: int) -> None:
            before = self._ended
            cycle(now_ns)
            self._ended = ended = self._moment()
            lateness_ns, execution_ns = now_ns - self._deadline_ns, ended.wall_ns - now_ns
            if lateness_ns <= self._limit_ns and execution_ns <= self._limit_ns:
                return
            if execution_ns >= lateness_ns:
                cause = cause_of(self._awake, ended, execution_ns, 0, True)
            elif self._asleep.wall_ns > self._deadline_ns:  # what came before the wait took too long
                cause = cause_of(before, self._asleep, lateness_ns, 1, True)
            else:
                cause = cause_of(self._asleep, self._awake, lateness_ns, 1, False)
            self._keep(cause, lateness_ns, execution_ns)

        return watched

    def _moment(self) -> Moment:
        queued_ns = int(os.pread(self._scheduler, 96, 0).split()[1]) if self._scheduler >= 0 else 0
        waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        return Moment(time.monotonic_ns(), time.thread_time_ns(), queued_ns, waits)

    def _keep(self, cause: Cause, lateness_ns: int, execution_ns: int) -> None:
        overrun = lateness_ns + execution_ns > self._period_ns
        self._counts[cause] += 1
        self._overruns[cause] += overrun
        if len(self._kept) < KEPT:
            when_s = (self._deadline_ns - self._first_ns) * 1e-9
            self._kept.append(LateCycle(when_s, lateness_ns * 1e-3, execution_ns * 1e-3, overrun, cause.value))

    def record(self) -> dict[str, Any]:
        """For ``controller.json``: late cycles and overruns by cause, and the late cycles themselves."""
        return {
            "late_cycles": {cause.value: self._counts[cause] for cause in Cause},
            "overruns": {cause.value: self._overruns[cause] for cause in Cause},
            "kept": [asdict(one) for one in self._kept],
        }
