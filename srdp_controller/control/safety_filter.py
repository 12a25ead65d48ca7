"""Last station before the robot: velocity, acceleration, jerk, workspace and keep-out limits on every command.

Workspace and keep-out zones are kept by discrete-time control barriers in closed form: towards an edge
at distance h the speed is at most ``barrier_gain * h``, so the tool approaches an edge exponentially and
never crosses it, however the policy errs. Where jerk is limited too, the distance that passes while
the acceleration is being reversed is taken off h.
Where limits contradict each other the order is: finite, velocity, barrier, acceleration, jerk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeepOut:
    """A disc of the task frame that the tool centre point must not enter [m]."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class SafetyLimits:
    """Limits of the command (SI) and of the tool's workspace (task frame, m); jerk 0 stands for no limit."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    max_speed: float
    max_acceleration: float
    workspace_lower: tuple[float, float]
    workspace_upper: tuple[float, float]
    barrier_gain: float = 4.0
    max_jerk: float = 0.0
    keep_out: tuple[KeepOut, ...] = ()

    @property
    def reaction_s(self) -> float:
        """Time in which a full acceleration turns into a full deceleration [s]."""
        return 2.0 * self.max_acceleration / self.max_jerk if self.max_jerk > 0.0 else 0.0


class SafetyFilter:
    """Projects each desired command into the limits; remembers the last one it let through."""

    TOLERANCE = 1e-6

    def __init__(self, limits: SafetyLimits, period_s: float) -> None:
        self.limits = limits
        self.period_s = period_s
        self.command = [0.0] * len(limits.lower)
        self.acceleration = [0.0] * len(limits.lower)
        self.interventions = 0
        self.violations = 0
        self.jerk_exceptions = 0  # cycles in which a barrier or the acceleration limit came before the jerk limit

    def apply(
        self, desired: Sequence[float], position: Sequence[float] | None, elapsed_s: float | None = None
    ) -> list[float]:
        """The command (act_dim,) to publish for a desired one.

        ``position`` (2,) is the tool's measured position, None while it is unknown (then only
        slowing down is allowed); ``elapsed_s`` is the time since the last command (default: a period).
        A desired value that is not finite counts as zero.
        """
        limits = self.limits
        previous = self.command
        n = len(previous)
        target = [0.0] * n
        changed = False
        for i in range(n):
            value = float(desired[i])
            if not math.isfinite(value):
                value, changed = 0.0, True
            bounded = min(max(value, limits.lower[i]), limits.upper[i])
            if i < 2:
                if position is None:
                    bounded = min(max(bounded, min(previous[i], 0.0)), max(previous[i], 0.0))
                else:
                    margin = abs(previous[i]) * limits.reaction_s
                    toward_upper = limits.barrier_gain * max(0.0, limits.workspace_upper[i] - position[i] - margin)
                    toward_lower = limits.barrier_gain * max(0.0, position[i] - limits.workspace_lower[i] - margin)
                    bounded = min(max(bounded, -toward_lower), toward_upper)
            changed = changed or abs(bounded - value) > self.TOLERANCE
            target[i] = bounded
        speed = math.hypot(*target[:3])
        if speed > limits.max_speed:
            ratio = limits.max_speed / speed
            target = [value * ratio if i < 3 else value for i, value in enumerate(target)]
            changed = True
        if limits.keep_out and position is not None and self._avoid(target, position):
            changed = True
        elapsed = self.period_s if elapsed_s is None else min(max(elapsed_s, 0.0), 2.0 * self.period_s)
        step = limits.max_acceleration * elapsed
        wished = target
        target = self._approach(previous, wished, step)
        if limits.max_jerk > 0.0 and elapsed > 0.0:
            target = self._limit_jerk(previous, target, position, elapsed, step)
        changed = changed or (target is not wished and math.dist(target, wished) > self.TOLERANCE)
        self.interventions += changed
        self.violations += not self.within_limits(target, previous, step)
        self.command = target
        return target

    @staticmethod
    def _approach(previous: list[float], target: list[float], step: float) -> list[float]:
        """``target``, or the point on the way to it that is ``step`` from ``previous``."""
        size = math.dist(target, previous)
        if size <= step:
            return target
        ratio = step / size
        return [b + (a - b) * ratio for a, b in zip(target, previous, strict=True)]

    def _limit_jerk(
        self, previous: list[float], target: list[float], position: Sequence[float] | None, elapsed: float, step: float
    ) -> list[float]:
        """Bound the change of acceleration, unless a barrier or the acceleration limit would then break."""
        wanted = [(a - b) / elapsed for a, b in zip(target, previous, strict=True)]
        # so that the acceleration is back at zero when the target is reached: a^2 <= 2 j dv, in discrete time
        jerk, lost = self.limits.max_jerk, self.limits.max_jerk * elapsed
        for i, value in enumerate(wanted):
            peak = math.sqrt(lost * lost + 2.0 * jerk * abs(target[i] - previous[i])) - lost
            wanted[i] = min(max(value, -peak), peak)
        reached = self._approach(self.acceleration, wanted, self.limits.max_jerk * elapsed)
        smooth = [b + a * elapsed for a, b in zip(reached, previous, strict=True)]
        for i, value in enumerate(smooth):
            if abs(value - target[i]) < self.TOLERANCE:
                smooth[i] = target[i]  # a stop ends at zero and not next to it
        fits = self.within_limits(smooth, previous, step)
        if fits and (position is None or self._inside_barriers(smooth, target, position)):
            self.acceleration = reached
            return smooth
        self.jerk_exceptions += 1
        self.acceleration = wanted
        return target

    def _inside_barriers(self, command: list[float], allowed: list[float], position: Sequence[float]) -> bool:
        """Whether a command is no faster towards any edge than its barrier allows, or than ``allowed`` is."""
        limits, gain = self.limits, self.limits.barrier_gain
        tolerance = self.TOLERANCE
        for i in range(min(2, len(command))):
            upper = max(gain * max(0.0, limits.workspace_upper[i] - position[i]), allowed[i])
            lower = min(-gain * max(0.0, position[i] - limits.workspace_lower[i]), allowed[i])
            if not lower - tolerance <= command[i] <= upper + tolerance:
                return False
        for zone in limits.keep_out:
            dx, dy = position[0] - zone.x, position[1] - zone.y
            distance = math.hypot(dx, dy) or 1e-9
            least = -gain * max(0.0, distance - zone.radius)
            outward = (command[0] * dx + command[1] * dy) / distance
            if outward < min(least, (allowed[0] * dx + allowed[1] * dy) / distance) - tolerance:
                return False
        return True

    def _avoid(self, target: list[float], position: Sequence[float]) -> bool:
        """Take out of ``target``, in place, what leads into a keep-out zone; whether anything was.

        Each zone allows a half plane of velocities, v n >= -gain h with n its outward normal, and the
        projection onto it is closed. Several zones are projected onto in turn; standing still is allowed
        by all of them, so that is what remains where their half planes leave nothing of the wish.
        """
        limits = self.limits
        margin = math.hypot(self.command[0], self.command[1]) * limits.reaction_s
        changed = False
        for _ in range(2 * len(limits.keep_out)):
            clean = True
            for zone in limits.keep_out:
                dx, dy = position[0] - zone.x, position[1] - zone.y
                distance = math.hypot(dx, dy) or 1e-9
                dx, dy = dx / distance, dy / distance
                least = -limits.barrier_gain * max(0.0, distance - zone.radius - margin)
                outward = target[0] * dx + target[1] * dy
                if outward < least - self.TOLERANCE:
                    target[0] += (least - outward) * dx
                    target[1] += (least - outward) * dy
                    clean, changed = False, True
            if clean:
                break
        else:
            target[0] = target[1] = 0.0
        if changed:  # sliding along a zone must not lead out of the workspace
            for i in range(2):
                toward_upper = limits.barrier_gain * max(0.0, limits.workspace_upper[i] - position[i])
                toward_lower = limits.barrier_gain * max(0.0, position[i] - limits.workspace_lower[i])
                target[i] = min(max(target[i], -toward_lower), toward_upper)
        return changed

    def within_limits(self, command: Sequence[float], previous: Sequence[float], step: float) -> bool:
        """Whether a command is finite, inside its limits and no further than ``step`` from the last."""
        limits = self.limits
        tolerance = self.TOLERANCE
        for value, low, high in zip(command, limits.lower, limits.upper, strict=True):
            if not low - tolerance <= value <= high + tolerance:  # also where it is not finite
                return False
        speed, change = math.hypot(*command[:3]), math.dist(command, previous)
        return speed <= limits.max_speed + tolerance and change <= step + tolerance
