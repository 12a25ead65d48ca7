"""A tool's velocity: norms of its speed, acceleration and jerk, the workspace, keep-out discs.

Workspace and discs are kept by discrete-time control barriers in closed form: towards an edge at distance h the speed
is at most ``gain * h``, and at most what can still be braked within h, so an edge is approached exponentially and never
crossed, however the policy errs. Where jerk is limited too, the distance that passes while the acceleration is being
reversed is taken off h.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from srdp_controller.control.limits.common import (
    TOLERANCE,
    GroupFilter,
    SafetyLimits,
    approach,
    braking_speed,
    differences,
    reaction_time,
    smooth_acceleration,
    stricter,
)
from srdp_controller.control.limits.keep_out import slide
from srdp_controller.spec import TWIST, ActionGroup, PolicySpec


class Barrier(NamedTuple):
    """The workspace's edges along an axis: component ``observed`` of the observation, moved by one of the command."""

    axis: str
    component: int
    observed: int
    lower: float
    upper: float


class TwistFilter(GroupFilter):
    """A tool's velocity: the linear components' speed, and the acceleration and jerk of all, as norms.

    In those two 1 rad/s counts as 1 m/s, the speed of a point one metre from the axis. The workspace of the spec and
    keep-out discs bound the linear components along their axes. A jerk limit gives way where another limit or a barrier
    would break (``jerk_exceptions`` counts it).
    """

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits) -> None:
        super().__init__(group, spec)
        self.max_speed = stricter(group.max_speed, limits.max_speed)
        self.max_acceleration = stricter(group.max_acceleration, limits.max_acceleration)
        self.max_jerk = stricter(group.max_jerk, limits.max_jerk)
        self.linear = [i for i, part in enumerate(group.components) if part.unit == "m/s"]
        self.gain, self.barriers = limits.barrier_gain, self._workspace(group, spec)
        self.keep_out = limits.keep_out if {"x", "y"} <= {barrier.axis for barrier in self.barriers} else ()
        self.braking = self.max_acceleration / math.sqrt(max(len(self.barriers), 1))  # of an axis, where all brake
        self.reaction_s = reaction_time(self.max_acceleration, self.max_jerk)
        self.positions: list[float] | None = None  # one a barrier
        self.acceleration = [0.0] * len(self.command)
        self.jerk_exceptions = 0

    def _workspace(self, group: ActionGroup, spec: PolicySpec) -> list[Barrier]:
        """A barrier for each axis along which the workspace is bounded, x and y first."""
        parts, space = group.components, spec.workspace
        if space is None:
            return []
        # an array has no names for its axes: its linear components are x, y, z in turn
        named = group.output.type == TWIST
        moved_by = {parts[i].field[-1] if named else axis: i for axis, i in zip("xyz", self.linear, strict=False)}
        edges = sorted(zip(space.named_axes(), space.position_observations, space.lower, space.upper, strict=True))
        return [
            Barrier(axis, moved_by[axis], spec.observation_index(name), lower, upper)
            for axis, name, lower, upper in edges
            if axis in moved_by
        ]

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """Measured positions; while there are none, those that the commands have led to."""
        if vector is not None:
            self.positions = [float(vector[barrier.observed]) for barrier in self.barriers]
        elif self.positions is not None:
            moved = zip(self.positions, self.barriers, strict=True)
            self.positions = [position + self.command[one.component] * elapsed for position, one in moved]

    def forget(self) -> None:
        """Until the next measurement only slowing down is allowed where there are barriers."""
        self.positions = None

    def resume(self, commands: list[list[float]], vector: np.ndarray, period: float) -> None:
        """See ``GroupFilter``."""
        super().resume(commands, vector, period)
        self.acceleration = differences(commands, period)[-1]

    def limited(self, goal: list[float], elapsed: float) -> tuple[list[float], list[float], str]:
        """See ``GroupFilter``."""
        barred = self._barred(goal, self.reaction_s, elapsed)
        slowed = self._slowed(barred)
        target = self._outside_zones(slowed, self.reaction_s, elapsed) if self.keep_out else slowed
        if target is not goal:
            changes = (("barrier", goal, barred), ("speed", barred, slowed), ("keep_out", slowed, target))
            self.causes.update(cause for cause, before, after in changes if self.differ(before, after))
        previous, step = self.command, self.max_acceleration * elapsed
        reached = approach(previous, target, step)
        if reached is not target:
            safe = self._barred(reached, 0.0, elapsed)
            if safe is not reached:
                reached = self._slowed(self._brake_first(reached, safe, step))
        if self.max_jerk < math.inf:
            steps = zip(reached, previous, strict=True)
            wanted = [smooth_acceleration(self.max_jerk, a - b, elapsed) for a, b in steps]
            acceleration = approach(self.acceleration, wanted, self.max_jerk * elapsed)
            smooth = [before + a * elapsed for before, a in zip(previous, acceleration, strict=True)]
            for i, value in enumerate(reached):
                if abs(smooth[i] - value) < TOLERANCE:
                    smooth[i] = value  # a stop ends at zero and not next to it
            if self._fits(smooth, step) and self._is_inside(smooth, elapsed):
                self.acceleration = acceleration
                return target, smooth, "jerk"
            self.jerk_exceptions += 1
            self.acceleration = wanted
        self.violations += not self._fits(reached, step)
        return target, reached, "acceleration"

    def _barred(self, target: list[float], reaction_s: float, elapsed: float) -> list[float]:
        """The target with nothing in it that leads too fast towards an edge; unmeasured, only slowing down."""
        previous, positions, gain, a, barred = self.command, self.positions, self.gain, self.braking, target
        for number, (_, i, _, lower, upper) in enumerate(self.barriers):
            value = target[i]
            if positions is None:
                allowed = min(max(value, min(previous[i], 0.0)), max(previous[i], 0.0))
            elif value == 0.0:
                continue
            else:
                distance = upper - positions[number] if value > 0.0 else positions[number] - lower
                distance = max(0.0, distance - abs(previous[i]) * reaction_s)
                speed = abs(value)
                if speed <= gain * distance and speed * elapsed + speed * speed / (2.0 * a) <= distance:
                    continue
                allowed = math.copysign(min(speed, gain * distance, braking_speed(distance, a, elapsed)), value)
            if allowed != value:
                if barred is target:
                    barred = list(target)
                barred[i] = allowed
        return barred

    def _slowed(self, target: list[float]) -> list[float]:
        """The target with a linear speed of at most ``max_speed``: the same direction."""
        speed = math.hypot(*[target[i] for i in self.linear])
        if speed <= self.max_speed:
            return target
        slowed = list(target)
        for i in self.linear:
            slowed[i] *= self.max_speed / speed
        return slowed

    def _outside_zones(self, target: list[float], reaction_s: float, elapsed: float) -> list[float]:
        """The target without what leads into a keep-out disc, nor, where it slides along, out of the workspace."""
        if self.positions is None:
            return target
        i, j = self.barriers[0].component, self.barriers[1].component
        margin = math.hypot(self.command[i], self.command[j]) * reaction_s
        wish = target[i], target[j]
        kept = slide(self.keep_out, self.positions[0], self.positions[1], wish, self.gain, margin)
        if kept is wish:
            return target
        outside = list(target)
        outside[i], outside[j] = kept
        return self._barred(outside, reaction_s, elapsed)

    def _brake_first(self, command: list[float], safe: list[float], step: float) -> list[float]:
        """Spend the acceleration on what leads towards an edge, and only what is left of it on the rest."""
        previous, left = self.command, step * step
        most = self.braking * step / self.max_acceleration  # so that there is enough for every axis
        rest = list(command)
        for i, value in enumerate(safe):
            if value != command[i]:
                rest[i] = previous[i]
                left = max(left - min(abs(value - previous[i]), most) ** 2, 0.0)
        rest = approach(previous, rest, math.sqrt(left))
        for i, value in enumerate(safe):
            if value != command[i]:
                rest[i] = previous[i] + min(max(value - previous[i], -most), most)
        return rest

    def _fits(self, command: list[float], step: float) -> bool:
        """Whether a command keeps its limits, the speed, and its distance to the last one."""
        return (
            self.within_limits(command)
            and math.hypot(*[command[i] for i in self.linear]) <= self.max_speed + TOLERANCE
            and math.dist(command, self.command) <= step + TOLERANCE
        )

    def _is_inside(self, command: list[float], elapsed: float) -> bool:
        """Whether a command is no faster towards any edge than is allowed there."""
        safe = self._barred(command, 0.0, elapsed)
        if self.keep_out:
            safe = self._outside_zones(safe, 0.0, elapsed)
        return safe is command or math.dist(safe, command) <= TOLERANCE
