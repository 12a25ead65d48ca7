"""The supervisor: which source the command comes from, as a table of (mode, event) -> mode.

STUDENT drives while it can be trusted; TEACHER while the abstention test fires and a teacher's plan is
due; HOLD while no valid action is due (the rest of the chunk, then a smooth stop); STOP after
``hold_ns`` in HOLD or a fault that will not heal, and only ``reset`` leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mode(Enum):
    """Modes of the supervisor (contract)."""

    STUDENT = "STUDENT"
    TEACHER = "TEACHER"
    HOLD = "HOLD"
    STOP = "STOP"


class Event(Enum):
    """What one cycle found, the most serious first."""

    FAULT = "fault"
    RESET = "reset"
    HOLD_EXPIRED = "hold expired"
    OBSERVATION_STALE = "observation stale"
    ENGINE_FAILED = "engine failed"
    PLAN_LATE = "plan late"
    ABSTAIN_TEACHER_LATE = "abstain, teacher late"
    ABSTAIN_TEACHER_READY = "abstain, teacher ready"
    TRUSTED = "trusted"


_ACTIVE = {
    Event.FAULT: Mode.STOP,
    Event.OBSERVATION_STALE: Mode.HOLD,
    Event.ENGINE_FAILED: Mode.HOLD,
    Event.PLAN_LATE: Mode.HOLD,
    Event.ABSTAIN_TEACHER_LATE: Mode.HOLD,
    Event.ABSTAIN_TEACHER_READY: Mode.TEACHER,
    Event.TRUSTED: Mode.STUDENT,
}
TRANSITIONS: dict[Mode, dict[Event, Mode]] = {
    Mode.STUDENT: {**_ACTIVE, Event.RESET: Mode.STUDENT, Event.HOLD_EXPIRED: Mode.STUDENT},
    Mode.TEACHER: {**_ACTIVE, Event.RESET: Mode.TEACHER, Event.HOLD_EXPIRED: Mode.TEACHER},
    Mode.HOLD: {**_ACTIVE, Event.RESET: Mode.HOLD, Event.HOLD_EXPIRED: Mode.STOP},
    Mode.STOP: {**dict.fromkeys(Event, Mode.STOP), Event.RESET: Mode.HOLD},
}


@dataclass(frozen=True)
class SupervisorTiming:
    """How long HOLD lasts before STOP [ns]."""

    hold_ns: int


class Supervisor:
    """Keeps the mode; ``step`` is called once a cycle."""

    def __init__(self, timing: SupervisorTiming) -> None:
        self.timing = timing
        self.mode = Mode.HOLD
        self.reason = "waiting for the first observation"
        self._hold_since: int | None = None
        self._reset_requested = False
        self._fault: str | None = None

    def request_reset(self) -> None:
        """Leave STOP at the next cycle (called from another thread; one reference is written)."""
        self._reset_requested = True

    def fault(self, reason: str) -> None:
        """Report a fault that will not heal: STOP at the next cycle."""
        self._fault = reason

    def step(self, event: Event, reason: str, now_ns: int, seen_observation: bool = True) -> Mode:
        """Advance by one cycle's finding and return the mode in force.

        The time in HOLD counts only once a first observation was seen, so that a controller that
        is started before its robot waits instead of stopping.
        """
        if self._fault is not None:
            event, reason = Event.FAULT, self._fault
            self._fault = None
        elif self._reset_requested:
            self._reset_requested = False
            if self.mode is Mode.STOP:
                event, reason = Event.RESET, "reset"
        target = TRANSITIONS[self.mode][event]
        if target is Mode.HOLD:
            if self.mode is not Mode.HOLD or self._hold_since is None or not seen_observation:
                self._hold_since = now_ns
            elif now_ns - self._hold_since > self.timing.hold_ns:
                target = TRANSITIONS[Mode.HOLD][Event.HOLD_EXPIRED]
                reason = f"{reason}, for longer than {self.timing.hold_ns * 1e-9:.2f} s"
        else:
            self._hold_since = None
        if target is not self.mode or target is Mode.HOLD:
            self.reason = reason
        self.mode = target
        return target
