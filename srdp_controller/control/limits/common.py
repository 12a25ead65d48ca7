"""What the filters of all kinds share: the node's limits, lower and upper, interventions, closed forms of stopping."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from srdp_controller.spec import ActionGroup, PolicySpec

TOLERANCE = 1e-6
INTERVENTION_SHARE = 0.02  # of upper - lower: a command changed by less is not counted as an intervention


@dataclass(frozen=True)
class KeepOut:
    """A disc of the task frame that the tool centre point must not enter [m]."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class SafetyLimits:
    """The node's own limits: those of twists [m/s, m/s^2, m/s^3; 0: none], and how hard a barrier brakes [1/s].

    Where the spec's group has a limit too, the stricter one is in force.
    """

    max_speed: float = 0.0
    max_acceleration: float = 0.0
    max_jerk: float = 0.0
    barrier_gain: float = 4.0
    keep_out: tuple[KeepOut, ...] = ()


class GroupFilter:
    """Limits of one action group; each kind says with ``limited`` what they leave of a wish.

    Attributes:
        command: the last command (components,).
        goal: what it was to lead to: the wish within lower and upper, or the command on hold.
        holding: whether that was the command on hold.
        ready: whether there is a command that may be sent: a group that starts from a measured state has none before.
        causes: what changed the last wish by more than ``INTERVENTION_SHARE`` of a component's range.
        violations: commands that left a limit all the same.
    """

    def __init__(self, group: ActionGroup, spec: PolicySpec) -> None:
        parts = group.components
        self.lower, self.upper = [part.lower for part in parts], [part.upper for part in parts]
        self.share = [INTERVENTION_SHARE * (part.upper - part.lower) for part in parts]
        self.measured_by = [spec.observation_index(part.measured_by) if part.measured_by else -1 for part in parts]
        hold = group.hold_values()
        self.hold = list(hold) if hold is not None else [min(max(0.0, p.lower), p.upper) for p in parts]
        self.command = self.goal = self.hold
        self.ready, self.holding = True, False
        self.causes: set[str] = set()
        self.violations = 0
        self._step_s, self._behind_s = spec.step_s, 0.0

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """Take the measured state out of an observation (obs_dim,); None: nothing was measured since ``elapsed``."""
        raise NotImplementedError

    def forget(self) -> None:
        """What was measured does not hold any more."""

    def resume(self, commands: list[list[float]], vector: np.ndarray, period: float) -> None:
        """Go on from commands (1 to 3, components) of another filter, ``period`` apart, oldest first."""
        self.measure(vector, period)
        self.command = self.goal = commands[-1]
        self.ready, self.holding = True, False

    def hold_goal(self) -> list[float]:
        """Where the group goes on hold (components,)."""
        return self.hold

    def limited(self, goal: list[float], elapsed: float) -> tuple[list[float], list[float], str]:
        """What the limits leave of a goal: a target, the next command towards it, and what limits how far that gets."""
        raise NotImplementedError

    def apply(self, wish: list[float] | None, vector: np.ndarray | None, elapsed: float, counted: float) -> list[float]:
        """The command (components,) after ``elapsed`` [s], of which ``counted`` allow a change; None: towards hold."""
        self.measure(vector, elapsed)
        self.causes = set()
        if not self.ready or counted <= 0.0:
            return self.command
        goal = self.hold_goal() if wish is None else self._bounded(wish)
        self.holding = wish is None
        target, self.command, limit = self.limited(goal, counted)
        self.goal = goal
        # the wish is a staircase, one stair a step of the chunk: what rounds a corner off within it is smoothing
        behind = target is not self.command and wish is not None and self.differ(target, self.command)
        self._behind_s = self._behind_s + counted if behind else 0.0
        if self._behind_s > self._step_s + TOLERANCE:
            self.causes.add(limit)
        return self.command

    @property
    def at_rest(self) -> bool:
        """Whether it has reached its command on hold, or has none to reach."""
        near = max(abs(a - b) for a, b in zip(self.command, self.goal, strict=True)) <= TOLERANCE
        return not self.ready or (self.holding and near)

    def within_limits(self, command: list[float]) -> bool:
        """Whether a command is finite, and between lower and upper."""
        for value, low, high in zip(command, self.lower, self.upper, strict=True):
            if not low - TOLERANCE <= value <= high + TOLERANCE:
                return False
        return True

    def differ(self, a: list[float], b: list[float]) -> bool:
        """Whether two commands differ by more than the share of the range that makes an intervention."""
        for x, y, share in zip(a, b, self.share, strict=True):  # noqa: SIM110 (half the time of any())
            if abs(x - y) > share:
                return True
        return False

    def _bounded(self, wish: list[float]) -> list[float]:
        """The wish, finite and within lower and upper."""
        target = wish
        for i, (value, low, high) in enumerate(zip(wish, self.lower, self.upper, strict=True)):
            if low <= value <= high:
                continue
            finite, share = math.isfinite(value), self.share[i]
            if not low - share <= value <= high + share:
                self.causes.add("limit" if finite else "not_finite")
            bounded = min(max(value, low), high) if finite else self.hold[i]
            target = [*target[:i], bounded, *target[i + 1 :]]
        return target


def stricter(*limits: float | None) -> float:
    """The smallest of some limits; None and 0 stand for none, infinity where there is none at all."""
    return min((limit for limit in limits if limit), default=math.inf)


def braking_speed(distance: float, acceleration: float, elapsed: float) -> float:
    """The fastest speed of this step after which it is still possible to stop within ``distance``.

    v dt + v^2 / (2 a) = h, which holds for whatever lengths the steps that follow have.
    """
    if acceleration == math.inf:
        return distance / elapsed
    lost = acceleration * elapsed
    return math.sqrt(lost * lost + 2.0 * acceleration * distance) - lost


def reaction_time(acceleration: float, jerk: float) -> float:
    """Time in which a full acceleration turns into a full deceleration [s]."""
    return 2.0 * acceleration / jerk if acceleration < math.inf else 0.0


def smooth_acceleration(jerk: float, change: float, elapsed: float) -> float:
    """Acceleration towards a velocity that is ``change`` away, which can be back at zero there: a^2 <= 2 j dv."""
    lost = jerk * elapsed
    peak = math.sqrt(lost * lost + 2.0 * jerk * abs(change)) - lost
    return min(max(change / elapsed, -peak), peak)


def differences(values: list[list[float]], elapsed: float) -> list[list[float]]:
    """Rates between values that follow each other (n, k) -> (n - 1, k); one of zeros where there is only one."""
    rates = [
        [(after - before) / elapsed for after, before in zip(later, earlier, strict=True)]
        for earlier, later in itertools.pairwise(values)
    ]
    return rates or [[0.0] * len(values[-1])]


def approach(previous: list[float], target: list[float], step: float) -> list[float]:
    """``target``, or the point on the way to it that is ``step`` from ``previous``."""
    size = math.dist(target, previous)
    if size <= step:
        return target
    ratio = step / size
    return [b + (a - b) * ratio for a, b in zip(target, previous, strict=True)]
