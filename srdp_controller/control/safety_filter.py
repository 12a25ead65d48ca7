"""Last station before the robot: velocity, acceleration and workspace limits on every command.

The workspace is kept by a discrete-time control barrier in closed form: towards an edge at distance
h the speed is at most ``barrier_gain * h``, so the tool approaches an edge exponentially and never
crosses it, however the policy errs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SafetyLimits:
    """Limits of the command (SI) and of the tool's workspace (task frame, m)."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    max_speed: float
    max_acceleration: float
    workspace_lower: tuple[float, float]
    workspace_upper: tuple[float, float]
    barrier_gain: float = 4.0


class SafetyFilter:
    """Projects each desired command into the limits; remembers the last one it let through."""

    TOLERANCE = 1e-6

    def __init__(self, limits: SafetyLimits, period_s: float) -> None:
        self.limits = limits
        self.period_s = period_s
        self.command = [0.0] * len(limits.lower)
        self.interventions = 0
        self.violations = 0

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
                    toward_upper = limits.barrier_gain * max(0.0, limits.workspace_upper[i] - position[i])
                    toward_lower = limits.barrier_gain * max(0.0, position[i] - limits.workspace_lower[i])
                    bounded = min(max(bounded, -toward_lower), toward_upper)
            changed = changed or abs(bounded - value) > self.TOLERANCE
            target[i] = bounded
        speed = math.sqrt(sum(value * value for value in target[:3]))
        if speed > limits.max_speed:
            ratio = limits.max_speed / speed
            target = [value * ratio if i < 3 else value for i, value in enumerate(target)]
            changed = True
        elapsed = self.period_s if elapsed_s is None else min(max(elapsed_s, 0.0), 2.0 * self.period_s)
        step = limits.max_acceleration * elapsed
        difference = [target[i] - previous[i] for i in range(n)]
        size = math.sqrt(sum(value * value for value in difference))
        if size > step:
            ratio = step / size
            target = [previous[i] + difference[i] * ratio for i in range(n)]
            changed = True
        self.interventions += changed
        self.violations += not self.within_limits(target, previous, step)
        self.command = target
        return target

    def within_limits(self, command: Sequence[float], previous: Sequence[float], step: float) -> bool:
        """Whether a command is finite, inside its limits and no further than ``step`` from the last."""
        limits = self.limits
        tolerance = self.TOLERANCE
        if not all(math.isfinite(value) for value in command):
            return False
        inside = all(
            low - tolerance <= value <= high + tolerance
            for value, low, high in zip(command, limits.lower, limits.upper, strict=True)
        )
        speed = math.sqrt(sum(value * value for value in command[:3]))
        change = math.sqrt(sum((a - b) ** 2 for a, b in zip(command, previous, strict=True)))
        return inside and speed <= limits.max_speed + tolerance and change <= step + tolerance
