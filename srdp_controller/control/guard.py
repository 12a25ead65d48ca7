"""What a control loop leaves for a guardian in another process, and what that does with it when the loop is gone.

The loop writes its command and its observation into memory that both share, in every cycle, before it publishes: that
is its heartbeat. The guardian is silent until the heartbeat stays away; then it goes on from the last commands to the
spec's command on hold, through the same limits, and the loop, should it come back, publishes nothing any more.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Sequence

import numpy as np

from srdp_controller.control.clock import sleep_until
from srdp_controller.control.safety_filter import SafetyFilter

BYTES = 1 << 20  # touched only as far as a spec needs
WORDS = 16
NEXT, DRIVING, TAKEN, CLOSED, READY, LIMIT_NS, SEEN = range(7)
ROWS = 4  # a reader has three periods to copy the last three
LAST_COMMANDS = 3  # how often the hold command is published at least: a message may be lost
SLOWEST_POLL_S = 0.005


class GuardSlot:
    """Shared memory: words, then the last ``ROWS`` commands (act_dim,), each with its observation (obs_dim,).

    Make it before the guardian's process is forked, and ``open`` it in both with the sizes of a spec.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, BYTES)
        self.words = memoryview(self._map).cast("q")
        self._rows, self._act_dim, self._next = np.zeros((ROWS, 0)), 0, 0

    def open(self, act_dim: int, obs_dim: int) -> None:
        """Lay the memory out for commands (act_dim,) and observations (obs_dim,).

        Raises:
            ValueError: they do not fit.
        """
        width = act_dim + obs_dim
        if 8 * (WORDS + ROWS * width) > BYTES:
            raise ValueError(f"{act_dim} actions and {obs_dim} observations do not fit {BYTES} bytes")
        self._rows = np.frombuffer(self._map, np.float64, ROWS * width, 8 * WORDS).reshape(ROWS, width)
        self._act_dim, self._next = act_dim, self.words[NEXT]

    # --- the loop's side -------------------------------------------------------------------------

    def reset(self, limit_ns: int) -> None:
        """Before a guardian is told of a spec; no heartbeat for ``limit_ns`` is then a failure."""
        for word in range(WORDS):
            self.words[word] = 0
        self.words[LIMIT_NS], self._next = limit_ns, 0

    def leave(self, command: list[float], observation: np.ndarray) -> bool:
        """The heartbeat: what is about to be published; False: the guardian has taken over, publish nothing."""
        words, number = self.words, self._next
        row = self._rows[number % ROWS]
        row[: self._act_dim] = command
        row[self._act_dim :] = observation
        self._next = words[NEXT] = number + 1
        return not words[TAKEN]

    # --- the guardian's side ---------------------------------------------------------------------

    def last(self) -> tuple[list[list[float]], np.ndarray]:
        """The last commands (1 to 3, act_dim), oldest first, and the newest observation (obs_dim,)."""
        number = self.words[NEXT]
        rows = [self._rows[place % ROWS].copy() for place in range(max(0, number - 3), number)]
        return [row[: self._act_dim].tolist() for row in rows], rows[-1][self._act_dim :]


def watch(slot: GuardSlot, period_s: float, alive: Callable[[], bool]) -> str:
    """Wait until the loop has failed, and say how; empty: the session was closed, or its process ended at rest.

    The time that one wait took counts as twice its length at most: where the whole machine stood still, nobody is late.
    """
    words, poll_s = slot.words, min(SLOWEST_POLL_S, 0.5 * period_s)
    seen, waited_s, before = words[NEXT], 0.0, time.monotonic()
    while not words[CLOSED]:
        time.sleep(poll_s)
        now = time.monotonic()
        elapsed_s, before = now - before, now
        number, driving = words[NEXT], words[DRIVING] and words[NEXT]
        if not alive():
            return "the controller's process is gone" if driving else ""
        if number != seen or not driving:
            seen, waited_s = number, 0.0
            continue
        waited_s += min(elapsed_s, 2.0 * poll_s)
        if waited_s * 1e9 > words[LIMIT_NS]:
            return f"a cycle has not returned for {1e3 * waited_s:.0f} ms"
    return ""


def bring_to_rest(
    slot: GuardSlot, safety: SafetyFilter, publish: Callable[[Sequence[float]], None], most_s: float
) -> None:
    """Take over, and go on from the loop's last commands to the command on hold, as of ``come_to_rest``."""
    slot.words[TAKEN] = 1
    commands, observation = slot.last()
    safety.resume(commands, observation)

    def always(command: list[float]) -> bool:
        publish(command)
        return True

    come_to_rest(safety, always, most_s)


def come_to_rest(safety: SafetyFilter, publish: Callable[[list[float]], bool], most_s: float) -> None:
    """Publish commands (act_dim,) within the limits up to the command on hold, a period apart, for ``most_s`` at most.

    It ends at once where nothing was ever commanded and the robot's state is not known, or where ``publish`` says no.
    """
    give_up, deadline_ns, published = time.monotonic() + most_s, time.monotonic_ns(), 0
    while time.monotonic() < give_up and not (published >= LAST_COMMANDS and safety.at_rest):
        command = safety.apply(None, None)
        if not safety.ready or not publish(command):
            return
        published += 1
        deadline_ns += round(1e9 * safety.period_s)
        sleep_until(deadline_ns)
