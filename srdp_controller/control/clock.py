"""Waiting for absolute deadlines on the monotonic clock, one function per policy."""

from __future__ import annotations

import time
from collections.abc import Callable

# (deadline_ns) -> None; returns at or just after the deadline
Sleep = Callable[[int], None]


def sleep_until(deadline_ns: int) -> None:
    """Sleep until a monotonic deadline; what remains is the kernel's wake-up latency."""
    remaining = deadline_ns - time.monotonic_ns()
    if remaining > 0:
        time.sleep(remaining * 1e-9)


def sleep_then_spin(spin_ns: int) -> Sleep:
    """A policy that sleeps, then spins through the last ``spin_ns``, hiding the wake-up latency.

    The spinning holds a processor and, in Python, the interpreter lock: keep it below 200 us. It
    must never fill the period, or the kernel's throttling of real-time threads takes its share back.
    """

    def wait(deadline_ns: int) -> None:
        now = time.monotonic_ns
        remaining = deadline_ns - spin_ns - now()
        if remaining > 0:
            time.sleep(remaining * 1e-9)
        while now() < deadline_ns:
            pass

    return wait
