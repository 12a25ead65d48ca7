"""Last station before the robot: every command is brought into its group's limits.

Workspace, keep-out zones and joint ranges are kept by discrete-time control barriers in closed form: towards an edge
at distance h the speed is at most ``barrier_gain * h``, and at most what can still be braked within h, so an edge is
approached exponentially and never crossed, however the policy errs. Where jerk is limited too, the distance that
passes while the acceleration is being reversed is taken off h.
Where limits contradict each other the order is: finite, limits, speed, acceleration and barrier, jerk.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from srdp_controller.spec import ActionGroup, PolicySpec

TOLERANCE = 1e-6
INTERVENTION_SHARE = 0.02  # of upper - lower: a command changed by less is not counted as an intervention
CAUSES = ("not_finite", "limit", "speed", "barrier", "keep_out", "acceleration", "jerk", "velocity", "rate")


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


def stricter(*limits: float | None) -> float:
    """The smallest of some limits; None and 0 stand for none, infinity where there is no limit at all."""
    return min((limit for limit in limits if limit), default=math.inf)


def braking_speed(distance: float, acceleration: float, elapsed: float) -> float:
    """The fastest speed of this step after which it is still possible to stop within ``distance``.

    v dt + v^2 / (2 a) = h, which holds for whatever lengths the steps that follow have.
    """
    if acceleration == math.inf:
        return distance / elapsed if elapsed else 0.0
    lost = acceleration * elapsed
    return math.sqrt(lost * lost + 2.0 * acceleration * distance) - lost


def approach(previous: list[float], target: list[float], step: float) -> list[float]:
    """``target``, or the point on the way to it that is ``step`` from ``previous``."""
    size = math.dist(target, previous)
    if size <= step:
        return target
    ratio = step / size
    return [b + (a - b) * ratio for a, b in zip(target, previous, strict=True)]


def peak_acceleration(jerk: float, elapsed: float, change: float) -> float:
    """Acceleration that is back at zero when a velocity has changed by ``change``: a^2 <= 2 j dv, in discrete time."""
    lost = jerk * elapsed
    return math.sqrt(lost * lost + 2.0 * jerk * abs(change)) - lost


def reaction_time(acceleration: float, jerk: float) -> float:
    """Time in which a full acceleration turns into a full deceleration [s]."""
    return 2.0 * acceleration / jerk if acceleration < math.inf else 0.0


def beyond(command: list[float], safe: list[float], allowed: list[float]) -> bool:
    """Whether any value of a command is further from zero than both of two others."""
    return any(
        abs(value) > max(abs(a), b if value > 0.0 else -b) + TOLERANCE
        for value, a, b in zip(command, safe, allowed, strict=True)
    )


class GroupFilter:
    """Limits of one action group; remembers its last command.

    Attributes:
        command: the last command (components,) of the group.
        ready: whether there is a command that may be sent: a group that starts from a measured state has none before.
        at_rest: whether it has reached its command on hold.
        causes: what changed the last wish by more than ``INTERVENTION_SHARE`` of a component's range.
        violations: commands that left a limit all the same.
    """

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        self.group, self.gain, self.period_s = group, limits.barrier_gain, period_s
        parts = group.components
        self.lower, self.upper = [part.lower for part in parts], [part.upper for part in parts]
        self.share = [INTERVENTION_SHARE * (part.upper - part.lower) for part in parts]
        self.measured_by = [spec.observation_index(part.measured_by) if part.measured_by else -1 for part in parts]
        hold = group.hold_values()
        self.hold = list(hold) if hold is not None else [min(max(0.0, p.lower), p.upper) for p in parts]
        self.command = list(self.hold)
        self.ready = self.at_rest = True
        self.holding = False
        self.causes: set[str] = set()
        self.violations = 0
        self._step_s, self._behind_s = spec.step_s, 0.0

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """Take the measured state out of an observation (obs_dim,); None: nothing was measured since ``elapsed``."""

    def forget(self) -> None:
        """What was measured does not hold any more."""

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """The command (components,) after ``elapsed`` [s] for a wish, or for none: towards the command on hold."""
        raise NotImplementedError

    def bounded(self, wish: list[float]) -> list[float]:
        """The wish (components,), finite and within lower and upper."""
        target = wish
        for i, value in enumerate(wish):
            low, high = self.lower[i], self.upper[i]
            if low <= value <= high:
                continue
            if target is wish:
                target = list(wish)
            if not math.isfinite(value):
                self.causes.add("not_finite")
                target[i] = self.hold[i]
                continue
            if not low - self.share[i] <= value <= high + self.share[i]:
                self.causes.add("limit")
            target[i] = min(max(value, low), high)
        return target

    def differ(self, a: list[float], b: list[float]) -> bool:
        """Whether two commands differ by more than the share of the range that makes an intervention."""
        for x, y, share in zip(a, b, self.share, strict=True):  # noqa: SIM110 (half the time of any())
            if abs(x - y) > share:
                return True
        return False

    def stays_behind(self, wished: list[float] | None, command: list[float], elapsed: float) -> bool:
        """Whether a command has differed from what was wished for longer than a step of the chunk takes.

        The wish is a staircase, one stair a step of the chunk: what rounds a corner off within the stair is smoothing.
        """
        if wished is None or wished is command or not self.differ(wished, command):
            self._behind_s = 0.0
            return False
        self._behind_s += elapsed
        return self._behind_s > self._step_s + TOLERANCE

    def copy(self) -> GroupFilter:
        """A filter of its own in the same state."""
        other = copy.copy(self)
        other.causes = set()
        return other


class Barrier(NamedTuple):
    """Lower and upper edge of a coordinate: component ``observed`` of the observation, moved by one of the command."""

    component: int
    observed: int
    lower: float
    upper: float


class VelocityFilter(GroupFilter):
    """Velocities: limits, barriers on the position that they integrate to, acceleration, jerk.

    ``TwistFilter`` takes norms over the group, ``JointVelocityFilter`` each joint by itself.
    """

    barriers: list[Barrier]

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        super().__init__(group, spec, limits, period_s)
        self.acceleration = [0.0] * len(self.command)
        self._no_reaction = [0.0] * len(self.command)
        self.positions: list[float] | None = None  # one a barrier
        self.jerk_exceptions = 0  # cycles in which a barrier or the acceleration limit came before the jerk limit

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """Measured positions; while there are none, those that the commands have led to."""
        if vector is not None:
            self.positions = [float(vector[barrier.observed]) for barrier in self.barriers]
        elif self.positions is not None:
            command = self.command
            self.positions = [
                position + command[barrier.component] * elapsed
                for position, barrier in zip(self.positions, self.barriers, strict=True)
            ]

    def forget(self) -> None:
        """Until the next measurement only slowing down is allowed where there are barriers."""
        self.positions = None

    def _barred(
        self, target: list[float], reaction: Sequence[float], braking: Sequence[float], elapsed: float
    ) -> list[float]:
        """The target with nothing in it that leads too fast towards an edge; unmeasured, only slowing down.

        ``reaction`` [s] and ``braking`` [1/s^2 of the coordinate], each (components,).
        """
        previous, positions, gain, barred = self.command, self.positions, self.gain, target
        for number, (i, _, lower, upper) in enumerate(self.barriers):
            value = target[i]
            if positions is None:
                allowed = min(max(value, min(previous[i], 0.0)), max(previous[i], 0.0))
            elif value == 0.0:
                continue
            else:
                distance = upper - positions[number] if value > 0.0 else positions[number] - lower
                distance = max(0.0, distance - abs(previous[i]) * reaction[i])
                speed, a = abs(value), braking[i]
                if speed <= gain * distance and speed * elapsed + speed * speed / (2.0 * a) <= distance:
                    continue
                allowed = math.copysign(min(speed, gain * distance, braking_speed(distance, a, elapsed)), value)
            if allowed != value:
                if barred is target:
                    barred = list(target)
                barred[i] = allowed
        return barred


class TwistFilter(VelocityFilter):
    """A tool's velocity: norms of the linear components' speed, and of all components' acceleration and jerk.

    In those two 1 rad/s counts as 1 m/s, the speed of a point one metre from the axis. The workspace of the spec and
    keep-out discs bound the linear components along their axes.
    """

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        super().__init__(group, spec, limits, period_s)
        self.max_speed = stricter(group.max_speed, limits.max_speed)
        self.max_acceleration = stricter(group.max_acceleration, limits.max_acceleration)
        self.max_jerk = stricter(group.max_jerk, limits.max_jerk)
        fields = [part.field for part in group.components]
        linear = [i for i, field in enumerate(fields) if ".angular." not in field]
        self.linear = tuple(linear)
        # an array has no names for its axes: its values are x, y, z in turn
        by_axis = {fields[i][-1] if fields[i][-1] in "xyz" else "xyz"[place]: i for place, i in enumerate(linear)}
        self.barriers = []
        self.axes: dict[str, int] = {}  # which barrier is about an axis
        if spec.workspace is not None:
            space = spec.workspace
            bounds = zip(space.named_axes(), space.lower, space.upper, space.position_observations, strict=True)
            for axis, lower, upper, name in bounds:
                if axis in by_axis:
                    self.axes[axis] = len(self.barriers)
                    self.barriers.append(Barrier(by_axis[axis], spec.observation_index(name), lower, upper))
        self.keep_out = limits.keep_out if "x" in self.axes and "y" in self.axes else ()
        share = self.max_acceleration / math.sqrt(max(len(self.barriers), 1))  # of one axis, where all have to brake
        self.braking = [share] * len(self.command)
        self.reaction_s = reaction_time(self.max_acceleration, self.max_jerk)
        self._reaction = [self.reaction_s] * len(self.command)

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """See ``GroupFilter``."""
        self.causes.clear()
        causes, previous = self.causes, self.command
        target = self.hold if wish is None else self.bounded(wish)
        barred = self._barred(target, self._reaction, self.braking, elapsed)
        if barred is not target and wish is not None and self.differ(target, barred):
            causes.add("barrier")
        target = barred
        slowed = self._slowed(target)
        if slowed is not target and self.differ(target, slowed):
            causes.add("speed")
        target = slowed
        if self.keep_out and self.positions is not None:
            kept = list(target)
            if self._avoid(kept) and self.differ(target, kept):
                causes.add("keep_out")
            target = kept
        step = self.max_acceleration * elapsed
        command = approach(previous, target, step)
        if command is not target:
            safe = self._barred(command, self._no_reaction, self.braking, elapsed)
            if safe is not command:
                command = self._slowed(self._brake_first(command, safe, step))
        reached, limited = command, "acceleration"
        if self.max_jerk < math.inf and elapsed > 0.0:
            command, limited = self._limit_jerk(previous, reached, elapsed, step), "jerk"
        if self.stays_behind(None if wish is None else target, command, elapsed):
            causes.add(limited if command is not reached else "acceleration")
        if command is reached:  # the jerk limit has looked at its own
            self.violations += not self.within_limits(command, previous, step)
        self.command = command
        self.at_rest = max(map(abs, command)) <= TOLERANCE
        return command

    def _slowed(self, target: list[float]) -> list[float]:
        """The target with a linear speed of at most ``max_speed``: the same direction."""
        speed = math.hypot(*[target[i] for i in self.linear])
        if speed <= self.max_speed:
            return target
        slowed = list(target)
        for i in self.linear:
            slowed[i] *= self.max_speed / speed
        return slowed

    def _brake_first(self, command: list[float], safe: list[float], step: float) -> list[float]:
        """Spend the acceleration on what leads towards an edge, and only what is left of it on the rest."""
        previous, left = self.command, step * step
        braked = list(previous)
        for i, value in enumerate(safe):
            if value != command[i]:
                most = self.braking[i] * step / self.max_acceleration  # so that there is enough for every axis
                braked[i] = previous[i] + min(max(value - previous[i], -most), most)
                left = max(left - (braked[i] - previous[i]) ** 2, 0.0)
        rest = [before if safe[i] != command[i] else command[i] for i, before in enumerate(previous)]
        rest = approach(previous, rest, math.sqrt(left))
        return [braked[i] if safe[i] != command[i] else value for i, value in enumerate(rest)]

    def _limit_jerk(self, previous: list[float], target: list[float], elapsed: float, step: float) -> list[float]:
        """Bound the change of acceleration, unless a barrier or the acceleration limit would then break."""
        wanted = [(a - b) / elapsed for a, b in zip(target, previous, strict=True)]
        jerk = self.max_jerk
        for i, value in enumerate(wanted):
            peak = peak_acceleration(jerk, elapsed, target[i] - previous[i])
            wanted[i] = min(max(value, -peak), peak)
        reached = approach(self.acceleration, wanted, jerk * elapsed)
        smooth = [b + a * elapsed for a, b in zip(reached, previous, strict=True)]
        for i, value in enumerate(smooth):
            if abs(value - target[i]) < TOLERANCE:
                smooth[i] = target[i]  # a stop ends at zero and not next to it
        fits = self.within_limits(smooth, previous, step)
        if fits and (self.positions is None or self._inside_barriers(smooth, target, elapsed)):
            self.acceleration = reached
            return smooth
        self.jerk_exceptions += 1
        self.acceleration = wanted
        return target

    def _inside_barriers(self, command: list[float], allowed: list[float], elapsed: float) -> bool:
        """Whether a command is no faster towards any edge than its barrier allows, or than ``allowed`` is."""
        gain, safe = self.gain, self._barred(command, self._no_reaction, self.braking, elapsed)
        if safe is not command and beyond(command, safe, allowed):
            return False
        if not self.keep_out:
            return True
        (x, vx), (y, vy) = self._plane(command)
        (_, allowed_x), (_, allowed_y) = self._plane(allowed)
        for zone in self.keep_out:
            dx, dy = x - zone.x, y - zone.y
            distance = math.hypot(dx, dy) or 1e-9
            least = -gain * max(0.0, distance - zone.radius)
            outward = (vx * dx + vy * dy) / distance
            if outward < min(least, (allowed_x * dx + allowed_y * dy) / distance) - TOLERANCE:
                return False
        return True

    def _plane(self, command: list[float]) -> list[tuple[float, float]]:
        """Position and velocity along x and along y."""
        assert self.positions is not None
        numbers = (self.axes["x"], self.axes["y"])
        return [(self.positions[number], command[self.barriers[number].component]) for number in numbers]

    def _avoid(self, target: list[float]) -> bool:
        """Take out of ``target``, in place, what leads into a keep-out zone; whether anything was.

        Each zone allows a half plane of velocities, v n >= -gain h with n its outward normal, and the
        projection onto it is closed. Several zones are projected onto in turn; standing still is allowed
        by all of them, so that is what remains where their half planes leave nothing of the wish.
        """
        (x, vx), (y, vy) = self._plane(self.command)
        number_x, number_y = self.axes["x"], self.axes["y"]
        i, j = self.barriers[number_x].component, self.barriers[number_y].component
        margin = math.hypot(vx, vy) * self.reaction_s
        changed = False
        for _ in range(2 * len(self.keep_out)):
            clean = True
            for zone in self.keep_out:
                dx, dy = x - zone.x, y - zone.y
                distance = math.hypot(dx, dy) or 1e-9
                dx, dy = dx / distance, dy / distance
                least = -self.gain * max(0.0, distance - zone.radius - margin)
                outward = target[i] * dx + target[j] * dy
                if outward < least - TOLERANCE:
                    target[i] += (least - outward) * dx
                    target[j] += (least - outward) * dy
                    clean, changed = False, True
            if clean:
                break
        else:
            target[i] = target[j] = 0.0
        if changed:  # sliding along a zone must not lead out of the workspace
            for number, position in ((number_x, x), (number_y, y)):
                barrier = self.barriers[number]
                high = self.gain * max(0.0, barrier.upper - position)
                low = -self.gain * max(0.0, position - barrier.lower)
                target[barrier.component] = min(max(target[barrier.component], low), high)
        return changed

    def within_limits(self, command: Sequence[float], previous: Sequence[float], step: float) -> bool:
        """Whether a command is finite, inside its limits and no further than ``step`` from the last."""
        for value, low, high in zip(command, self.lower, self.upper, strict=True):
            if not low - TOLERANCE <= value <= high + TOLERANCE:  # also where it is not finite
                return False
        speed = math.hypot(*[command[i] for i in self.linear])
        return speed <= self.max_speed + TOLERANCE and math.dist(command, previous) <= step + TOLERANCE


class JointVelocityFilter(VelocityFilter):
    """Velocities of joints, each by itself: limits, a barrier at each end of its range, acceleration, jerk."""

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        super().__init__(group, spec, limits, period_s)
        self.max_acceleration = [stricter(part.max_acceleration) for part in group.components]
        self.max_jerk = [stricter(part.max_jerk) for part in group.components]
        self.barriers = [
            Barrier(
                i,
                self.measured_by[i],
                -math.inf if part.position_lower is None else part.position_lower,
                math.inf if part.position_upper is None else part.position_upper,
            )
            for i, part in enumerate(group.components)
            if part.position_lower is not None or part.position_upper is not None
        ]
        self._reaction = [reaction_time(a, jerk) for a, jerk in zip(self.max_acceleration, self.max_jerk, strict=True)]

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """See ``GroupFilter``."""
        self.causes.clear()
        previous, late = self.command, ""
        allowed = self.hold if wish is None else self.bounded(wish)
        target = self._barred(allowed, self._reaction, self.max_acceleration, elapsed)
        if target is not allowed and wish is not None and self.differ(target, allowed):
            self.causes.add("barrier")
        steps = [a * elapsed if elapsed else 0.0 for a in self.max_acceleration]
        reached = [min(max(t, b - s), b + s) for t, b, s in zip(target, previous, steps, strict=True)]
        if reached != target:
            late = "acceleration"
        followed = [
            follow_smoothly(*numbers, elapsed)
            for numbers in zip(previous, reached, self.acceleration, self.max_jerk, strict=True)
        ]
        command = [velocity for velocity, _ in followed]
        self.acceleration = [acceleration for _, acceleration in followed]
        safe = self._barred(command, self._no_reaction, self.max_acceleration, elapsed)
        for i, value in enumerate(command):
            breaks = not self.lower[i] <= value <= self.upper[i] or abs(value - previous[i]) > steps[i] + TOLERANCE
            if breaks or (safe[i] != value and beyond([value], [safe[i]], [reached[i]])):
                command[i] = reached[i]
                self.acceleration[i] = (reached[i] - previous[i]) / elapsed if elapsed else 0.0
                self.jerk_exceptions += 1
        if command != reached:
            late = "jerk"
        if self.stays_behind(None if wish is None else target, command, elapsed):
            self.causes.add(late)
        self.violations += not all(
            low - TOLERANCE <= value <= high + TOLERANCE and abs(value - before) <= step + TOLERANCE
            for low, value, high, before, step in zip(self.lower, command, self.upper, previous, steps, strict=True)
        )
        self.command = command
        self.at_rest = max(map(abs, command)) <= TOLERANCE
        return command


def follow_smoothly(
    before: float, target: float, acceleration: float, jerk: float, elapsed: float
) -> tuple[float, float]:
    """A velocity on its way to ``target`` whose acceleration changes by no more than ``jerk``; and its acceleration."""
    if not elapsed:
        return before, acceleration
    wanted = (target - before) / elapsed
    if jerk == math.inf:
        return target, wanted
    peak = peak_acceleration(jerk, elapsed, target - before)
    wanted = min(max(wanted, -peak), peak)
    reached = min(max(wanted, acceleration - jerk * elapsed), acceleration + jerk * elapsed)
    smooth = before + reached * elapsed
    return (target, reached) if abs(smooth - target) < TOLERANCE else (smooth, reached)


class MeasuredFilter(GroupFilter):
    """Commands that are positions or values: the first one is what is measured, where something measures it."""

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        super().__init__(group, spec, limits, period_s)
        self.measured: list[float] | None = None
        self.ready = all(index < 0 for index in self.measured_by)

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """What is measured is where a first command starts, and where a group holds that holds what is measured."""
        if vector is None:
            return
        self.measured = [
            self.hold[i] if index < 0 else min(max(float(vector[index]), self.lower[i]), self.upper[i])
            for i, index in enumerate(self.measured_by)
        ]
        if not self.ready:
            self.ready, self.command = True, list(self.measured)


class JointPositionFilter(MeasuredFilter):
    """Positions of joints: each follows its wish with limited velocity, acceleration and jerk, and overshoots no limit.

    On hold: ``last`` and ``measured`` stop where the joint is, as fast as the limits allow, and keep that; a value is
    driven to.
    """

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        super().__init__(group, spec, limits, period_s)
        parts = group.components
        self.max_velocity = [stricter(part.max_velocity) for part in parts]
        self.max_acceleration = [stricter(part.max_acceleration) for part in parts]
        self.max_jerk = [stricter(part.max_jerk) for part in parts]
        self.velocity, self.acceleration = [0.0] * len(parts), [0.0] * len(parts)
        self._moved = False
        self.stands = group.hold_values() is None

    def forget(self) -> None:
        """The robot may have been moved: the next measurement is where it goes on from."""
        self._moved = self.ready

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """See ``MeasuredFilter``; after ``forget`` the measured positions are the command again, at rest."""
        super().measure(vector, elapsed)
        if self._moved and vector is not None and self.measured is not None:
            self._moved, self.command = False, list(self.measured)
            self.velocity, self.acceleration = [0.0] * len(self.command), [0.0] * len(self.command)

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """See ``GroupFilter``."""
        self.causes.clear()
        if not self.ready or elapsed <= 0.0:
            return self.command
        stopping = wish is None and self.stands
        target = self.bounded(wish) if wish is not None else self.hold
        command, velocity, acceleration, late = [], [], [], ""
        for i, position in enumerate(self.command):
            fastest, a, jerk = self.max_velocity[i], self.max_acceleration[i], self.max_jerk[i]
            before = self.velocity[i]
            reaction = abs(before) * (2.0 * a / jerk if a < math.inf else 0.0)
            distance = 0.0 if stopping else target[i] - position
            short = max(abs(distance) - reaction, 0.0) if reaction < math.inf else abs(distance)
            brake = min(abs(distance) / elapsed, braking_speed(short, a if jerk == math.inf else 0.5 * a, elapsed))
            wanted = math.copysign(min(fastest, brake), distance)
            # what the joint's range leaves, whatever is wished for
            low = -braking_speed(max(position - self.lower[i], 0.0), a, elapsed)
            high = braking_speed(max(self.upper[i] - position, 0.0), a, elapsed)
            wanted = min(max(wanted, low), high)
            reached = min(max(wanted, before - a * elapsed), before + a * elapsed)
            smooth, changed = follow_smoothly(before, reached, self.acceleration[i], jerk, elapsed)
            if (
                not min(low, reached) <= smooth <= max(high, reached)
                or abs(smooth) > max(fastest, abs(reached))
                or abs(smooth - before) > a * elapsed + TOLERANCE
            ):
                smooth, changed = reached, (reached - before) / elapsed
            reached_position = min(max(position + smooth * elapsed, self.lower[i]), self.upper[i])
            if not stopping and abs(target[i] - reached_position) < TOLERANCE and abs(smooth) <= a * elapsed:
                reached_position = target[i]
            command.append(reached_position)
            velocity.append(smooth)
            acceleration.append(changed)
            if abs(wanted) >= fastest:
                late = late or "velocity"
            elif smooth != wanted:
                late = late or ("jerk" if smooth != reached else "acceleration")
        if self.stays_behind(None if wish is None else target, command, elapsed):
            self.causes.add(late or "acceleration")
        self.violations += not self.within_limits(command)
        self.command, self.velocity, self.acceleration = command, velocity, acceleration
        standing = max(map(abs, velocity)) <= TOLERANCE
        self.at_rest = standing and (self.stands or not self.differ(command, self.hold))
        return command

    def within_limits(self, command: Sequence[float]) -> bool:
        """Whether each position is finite and in its range."""
        ranges = zip(command, self.lower, self.upper, strict=True)
        return all(low - TOLERANCE <= value <= high + TOLERANCE for value, low, high in ranges)


class ValueFilter(MeasuredFilter):
    """Grippers, efforts and whatever else: limits and a rate."""

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        super().__init__(group, spec, limits, period_s)
        self.max_rate = [stricter(part.max_rate) for part in group.components]
        self._held: list[float] | None = None

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """See ``GroupFilter``."""
        self.causes.clear()
        if not self.ready:
            return self.command
        if wish is not None:
            self._held, target = None, self.bounded(wish)
        else:
            if self._held is None:
                self._held = self._hold_target()
            target = self._held
        command = []
        for before, value, rate in zip(self.command, target, self.max_rate, strict=True):
            step = rate * elapsed if rate < math.inf else math.inf
            command.append(min(max(value, before - step), before + step))
        if self.stays_behind(None if wish is None else target, command, elapsed):
            self.causes.add("rate")
        self.violations += not all(
            low - TOLERANCE <= value <= high + TOLERANCE
            for value, low, high in zip(command, self.lower, self.upper, strict=True)
        )
        self.command = command
        self.at_rest = max(abs(a - b) for a, b in zip(command, self._held or target, strict=True)) <= TOLERANCE
        return command

    def _hold_target(self) -> list[float]:
        if self.group.on_hold == "last":
            return self.command
        if self.group.on_hold == "measured" and self.measured is not None:
            return self.measured
        return self.hold


FILTERS: dict[str, type[GroupFilter]] = {
    "twist": TwistFilter,
    "joint_velocity": JointVelocityFilter,
    "joint_position": JointPositionFilter,
    "joint_effort": ValueFilter,
    "gripper": ValueFilter,
    "generic": ValueFilter,
}


class SafetyFilter:
    """Every group's filter behind one; remembers the last command that it let through.

    An intervention is a cycle whose command differs from the policy's wish by more than ``INTERVENTION_SHARE`` of a
    component's range: at once where a limit, a barrier, a keep-out disc or a value that is not finite was the cause;
    where acceleration, jerk, velocity or rate was, once that has lasted longer than a step of the chunk. What such
    a limit rounds off within a step is smoothing, which every step of the wish needs.

    Attributes:
        command: the last command (act_dim,).
        interventions: cycles in which the wish was changed; ``interventions_by_cause`` counts each cause.
    """

    def __init__(self, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        self.limits, self.period_s = limits, period_s
        self._places = [place for _, place in spec.group_slices()]
        self.groups = [FILTERS[group.kind](group, spec, limits, period_s) for group in spec.action_groups]
        self.command = [value for group in self.groups for value in group.command]
        self.interventions = 0
        self.interventions_by_cause = dict.fromkeys(CAUSES, 0)

    def apply(
        self, desired: Sequence[float] | np.ndarray | None, vector: np.ndarray | None, elapsed_s: float | None = None
    ) -> list[float]:
        """The command (act_dim,) to publish for a desired one; None: every group goes to its command on hold.

        ``vector`` is the observation (obs_dim,), None where nothing new was measured: then positions are those that
        the commands lead to, and before the first one only slowing down is allowed where there are barriers.
        ``elapsed_s`` is the time since the last command (default: a period). A desired value that is not finite
        counts as the command on hold.
        """
        passed = self.period_s if elapsed_s is None else max(elapsed_s, 0.0)
        elapsed = min(passed, 2.0 * self.period_s)
        wishes = (
            None
            if desired is None
            else desired.tolist()
            if isinstance(desired, np.ndarray)
            else [float(value) for value in desired]
        )
        command: list[float] = []
        intervened = False
        for group, place in zip(self.groups, self._places, strict=True):
            group.measure(vector, passed)
            command += group.apply(None if wishes is None else wishes[place], elapsed)
            if group.causes:
                intervened = True
                for cause in group.causes:
                    self.interventions_by_cause[cause] += 1
        self.interventions += intervened
        self.command = command
        return command

    @property
    def ready(self) -> bool:
        """Whether every group has a command that may be sent (the first of some is what is measured)."""
        return all(group.ready for group in self.groups)

    @property
    def at_rest(self) -> bool:
        """Whether every group has reached its command on hold: velocities zero, positions standing."""
        return all(group.at_rest for group in self.groups)

    @property
    def violations(self) -> int:
        """Commands that left a limit all the same; 0 is expected."""
        return sum(group.violations for group in self.groups)

    def forget_position(self) -> None:
        """The robot may stand elsewhere: barriers allow slowing down only, positions go on from what is measured."""
        for group in self.groups:
            group.forget()

    def preview(self, desired: Sequence[Sequence[float] | np.ndarray], step_s: float) -> list[list[float]]:
        """The commands (n, act_dim) that would follow, ``step_s`` apart, if a chunk (n, act_dim) were driven."""
        if not len(desired):
            return []
        ahead = copy.copy(self)
        ahead.period_s, ahead.groups = step_s, [group.copy() for group in self.groups]
        ahead.interventions_by_cause = dict(self.interventions_by_cause)
        return [list(ahead.apply(action, None, step_s)) for action in desired]
