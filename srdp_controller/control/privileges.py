"""Real-time privileges of the control thread, each tried once and reported once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

_MCL_CURRENT, _MCL_FUTURE = 1, 2


@dataclass(frozen=True)
class Privilege:
    """One privilege that was asked for: whether it was granted, and what its absence costs."""

    name: str
    granted: bool
    text: str


def use_fifo(priority: int) -> Privilege:
    """SCHED_FIFO with ``priority`` (1 to 99) for the calling thread; 0 leaves the scheduler alone."""
    name = "SCHED_FIFO"
    if priority == 0:
        return Privilege(name, False, "not asked for (thread_priority 0)")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        return Privilege(name, True, f"priority {priority}")
    except (OSError, AttributeError) as error:
        return Privilege(name, False, f"refused ({error}); other processes may delay a cycle by milliseconds")


def raise_helpers(priority: int, spare: Sequence[int]) -> Privilege:
    """SCHED_FIFO with ``priority`` for this process's other threads, but for the calling one and ``spare``.

    They are the middleware's and the executor's. Whoever has no processor for a while may have the
    interpreter's lock or a lock of the middleware meanwhile, and the control thread then waits for both.
    ``spare`` are thread identifiers of the operating system: what computes for long stays as it is.
    Threads that those start later are ordinary ones again.
    """
    name = "SCHED_FIFO of the helpers"
    if priority == 0:
        return Privilege(name, False, "not asked for (helper_priority or thread_priority 0)")
    left = {threading.get_native_id(), *spare}
    raised = 0
    try:
        for entry in os.listdir("/proc/self/task"):
            if int(entry) in left:
                continue
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setscheduler(int(entry), os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
                raised += 1
        return Privilege(name, True, f"priority {priority} for {raised} threads")
    except (OSError, AttributeError) as error:
        return Privilege(name, False, f"refused ({error}); the loop may wait for a lock for some 100 us")


def use_affinity(cpus: Sequence[int]) -> Privilege:
    """Bind the calling thread to ``cpus``; an empty sequence leaves it free."""
    name = "CPU affinity"
    if not cpus:
        return Privilege(name, False, "not asked for (cpu_affinity empty)")
    try:
        os.sched_setaffinity(0, set(cpus))
        return Privilege(name, True, f"cpus {sorted(set(cpus))}")
    except (OSError, AttributeError) as error:
        return Privilege(name, False, f"refused ({error}); migrations may cost tens of microseconds")


def lock_memory(wanted: bool) -> Privilege:
    """Keep all pages of the process in memory."""
    name = "locked memory"
    if not wanted:
        return Privilege(name, False, "not asked for (lock_memory false)")
    library = ctypes.CDLL(None, use_errno=True)
    if library.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0:
        return Privilege(name, True, "mlockall")
    return Privilege(name, False, f"refused ({os.strerror(ctypes.get_errno())}); a page fault may delay a cycle")


class ShallowIdle:
    """Holds ``/dev/cpu_dma_latency`` at 0 us while open, so that no processor sleeps deeply."""

    def __init__(self) -> None:
        self._file: int | None = None

    def open(self, wanted: bool) -> Privilege:
        """Ask for shallow idle states until ``close``."""
        name = "shallow idle states"
        if not wanted:
            return Privilege(name, False, "not asked for (cpu_dma_latency false)")
        try:
            self._file = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
            os.write(self._file, (0).to_bytes(4, "little"))
            return Privilege(name, True, "/dev/cpu_dma_latency held at 0 us")
        except OSError as error:
            self.close()
            return Privilege(
                name, False, f"refused ({error.strerror}); wake-ups may come milliseconds late: this decides the tail"
            )

    def close(self) -> None:
        """Let the processors sleep again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
