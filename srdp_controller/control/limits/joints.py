"""Joints, each by itself: velocities within the joints' ranges, positions; and grippers, efforts and other values."""

from __future__ import annotations

import math

import numpy as np

from srdp_controller.control.limits.common import (
    TOLERANCE,
    GroupFilter,
    SafetyLimits,
    braking_speed,
    differences,
    reaction_time,
    smooth_acceleration,
    stricter,
)
from srdp_controller.spec import ActionGroup, PolicySpec


class JointFilter(GroupFilter):
    """A velocity for each component, that of the command or the command itself; acceleration and jerk are limited."""

    def __init__(self, group: ActionGroup, spec: PolicySpec) -> None:
        super().__init__(group, spec)
        parts = group.components
        self.max_acceleration = [stricter(part.max_acceleration) for part in parts]
        self.max_jerk = [stricter(part.max_jerk) for part in parts]
        self.reaction_s = list(map(reaction_time, self.max_acceleration, self.max_jerk))
        self.velocity, self.acceleration = [0.0] * len(parts), [0.0] * len(parts)

    def fastest(self, i: int, velocity: float, elapsed: float, reaction_s: float = 0.0) -> float:
        """The speed that component ``i`` may have in the direction of ``velocity``."""
        raise NotImplementedError

    def follow(self, i: int, wanted: float, elapsed: float) -> str:
        """Bring the velocity nearer to the wanted one; which limit kept it back, if any."""
        before, a, jerk = self.velocity[i], self.max_acceleration[i], self.max_jerk[i]
        velocity = reached = min(max(wanted, before - a * elapsed), before + a * elapsed)
        acceleration = (reached - before) / elapsed
        if jerk < math.inf:
            smooth = smooth_acceleration(jerk, reached - before, elapsed)
            smooth = min(max(smooth, self.acceleration[i] - jerk * elapsed), self.acceleration[i] + jerk * elapsed)
            smooth_velocity = before + smooth * elapsed
            inside = abs(smooth_velocity) <= self.fastest(i, smooth_velocity, elapsed) + TOLERANCE
            if inside and abs(smooth) <= a + TOLERANCE and abs(smooth_velocity - reached) >= TOLERANCE:
                velocity, acceleration = smooth_velocity, smooth
        self.velocity[i], self.acceleration[i] = velocity, acceleration
        return "jerk" if velocity != reached else "acceleration" if reached != wanted else ""


class JointVelocityFilter(JointFilter):
    """Velocities of joints: limits, and a barrier (see ``twist.py``) at each end of a joint's range."""

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits) -> None:
        super().__init__(group, spec)
        self.gain = limits.barrier_gain
        self.ranges = [(part.position_lower, part.position_upper) for part in group.components]
        self.positions: list[float] | None = None

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """Measured positions; while there are none, those that the commands have led to."""
        if vector is not None:
            self.positions = [float(vector[index]) if index >= 0 else 0.0 for index in self.measured_by]
        elif self.positions is not None:
            self.positions = [q + v * elapsed for q, v in zip(self.positions, self.velocity, strict=True)]

    def forget(self) -> None:
        """Until the next measurement only slowing down is allowed where there are barriers."""
        self.positions = None

    def fastest(self, i: int, velocity: float, elapsed: float, reaction_s: float = 0.0) -> float:
        """See ``JointFilter``."""
        (low, high), before = self.ranges[i], self.velocity[i]
        limit, edge = (self.upper[i], high) if velocity > 0.0 else (-self.lower[i], low)
        if self.positions is None and (low is not None or high is not None):
            return abs(before) if before * velocity > 0.0 else 0.0
        if self.positions is None or edge is None:
            return limit
        room = (edge - self.positions[i]) * math.copysign(1.0, velocity)
        room = max(0.0, room - abs(before) * reaction_s)
        return min(limit, self.gain * room, braking_speed(room, self.max_acceleration[i], elapsed))

    def resume(self, commands: list[list[float]], vector: np.ndarray, period: float) -> None:
        """See ``GroupFilter``."""
        super().resume(commands, vector, period)
        self.velocity, self.acceleration = commands[-1], differences(commands, period)[-1]

    def limited(self, goal: list[float], elapsed: float) -> tuple[list[float], list[float], str]:
        """See ``GroupFilter``."""
        allowed = [self.fastest(i, value, elapsed, self.reaction_s[i]) for i, value in enumerate(goal)]
        target = [math.copysign(min(abs(value), most), value) for value, most in zip(goal, allowed, strict=True)]
        if self.differ(goal, target):
            self.causes.add("barrier")
        self.velocity, self.acceleration = list(self.velocity), list(self.acceleration)
        kept = [self.follow(i, value, elapsed) for i, value in enumerate(target)]
        changes = zip(self.velocity, self.command, self.max_acceleration, strict=True)
        self.violations += not self.within_limits(self.velocity) or any(
            abs(value - before) > a * elapsed + TOLERANCE for value, before, a in changes
        )
        return target, self.velocity, "jerk" if "jerk" in kept else "acceleration"


class PositionFilter(JointFilter):
    """Each component follows its goal with limited velocity (or rate), acceleration and jerk, and overshoots no limit.

    The first command is what is measured, where something measures it. On hold a value is driven to; ``last`` and a
    joint's ``measured`` stop where the joint is, as fast as the limits allow; a gripper or another value goes back to
    what was measured as the hold began.
    """

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits) -> None:
        super().__init__(group, spec)
        parts = group.components
        self.max_velocity = [stricter(part.max_velocity, part.max_rate) for part in parts]
        self.on_hold, self.is_joint = group.on_hold, group.kind == "joint_position"
        self.measured = self.hold
        self.ready, self._moved = max(self.measured_by) < 0, False

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """What is measured is where a first command starts."""
        if vector is None:
            return
        self.measured = [
            self.hold[i] if index < 0 else min(max(float(vector[index]), self.lower[i]), self.upper[i])
            for i, index in enumerate(self.measured_by)
        ]
        if not self.ready or self._moved:
            self.ready, self._moved, self.command = True, False, self.measured
            self.velocity, self.acceleration = [0.0] * len(self.command), [0.0] * len(self.command)

    def forget(self) -> None:
        """A joint may have been moved: the next measurement is where it goes on from."""
        self._moved = self.ready and self.is_joint

    def resume(self, commands: list[list[float]], vector: np.ndarray, period: float) -> None:
        """See ``GroupFilter``."""
        super().resume(commands, vector, period)
        self._moved, velocities = False, differences(commands, period)
        self.velocity, self.acceleration = velocities[-1], differences(velocities, period)[-1]

    def hold_goal(self) -> list[float]:
        """See ``GroupFilter``."""
        if self.on_hold == "measured" and not self.is_joint:
            return self.goal if self.holding else self.measured
        return self.command if self.on_hold in ("last", "measured") else self.hold

    def fastest(self, i: int, velocity: float, elapsed: float, reaction_s: float = 0.0) -> float:
        """See ``JointFilter``."""
        room = self.upper[i] - self.command[i] if velocity > 0.0 else self.command[i] - self.lower[i]
        return min(self.max_velocity[i], braking_speed(max(room, 0.0), self.max_acceleration[i], elapsed))

    def limited(self, goal: list[float], elapsed: float) -> tuple[list[float], list[float], str]:
        """See ``GroupFilter``."""
        self.velocity, self.acceleration = list(self.velocity), list(self.acceleration)
        command, limit = [], ""
        for i, position in enumerate(self.command):
            a, most, distance = self.max_acceleration[i], self.max_velocity[i], goal[i] - position
            # some of it passes while the acceleration is being reversed, which also takes from the braking
            left = max(abs(distance) - abs(self.velocity[i]) * self.reaction_s[i], 0.0)
            brake = braking_speed(left, a if self.max_jerk[i] == math.inf else 0.5 * a, elapsed)
            wanted = math.copysign(min(most, brake, abs(distance) / elapsed), distance)
            kept = self.follow(i, wanted, elapsed)
            velocity = self.velocity[i]
            reached = min(max(position + velocity * elapsed, self.lower[i]), self.upper[i])
            if abs(goal[i] - reached) < TOLERANCE and abs(velocity) < most and abs(velocity) <= a * elapsed:
                reached = goal[i]
            command.append(reached)
            if abs(wanted) >= most:
                kept = "velocity" if self.is_joint else "rate"
            limit = limit or kept
        self.violations += not self.within_limits(command)
        return goal, command, limit or "acceleration"
