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
        self._lag = [0.0] * len(parts)
        self._memory = min(period_s / spec.step_s, 1.0)

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """Take the measured state out of an observation (obs_dim,); None: nothing was measured since ``elapsed``."""

    def forget(self) -> None:
        """What was measured does not hold any more."""

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """The command (components,) after ``elapsed`` [s] for a wish, or for none: towards the command on hold."""
        raise NotImplementedError

    def bounded(self, wish: list[float]) -> list[float]:
        """The wish (components,), finite and within lower and upper."""
        target = []
        for i, value in enumerate(wish):
            if not math.isfinite(value):
                self.causes.add("not_finite")
                value = self.hold[i]
            low, high = self.lower[i], self.upper[i]
            if value < low - self.share[i] or value > high + self.share[i]:
                self.causes.add("limit")
            target.append(min(max(value, low), high))
        return target

    def differ(self, a: list[float], b: list[float]) -> bool:
        """Whether two commands differ by more than the share of the range that makes an intervention."""
        return any(abs(x - y) > share for x, y, share in zip(a, b, self.share, strict=True))

    def lags(self, wished: list[float] | None, command: list[float]) -> bool:
        """Whether a command stays behind what was wished for longer than a step of the chunk.

        The wish is a staircase, one stair a step of the chunk, and what rounds its corners off is no intervention:
        the difference counts as its mean over about the last step (first-order low pass).
        """
        lag, memory, late = self._lag, self._memory, False
        for i, share in enumerate(self.share):
            difference = abs(wished[i] - command[i]) if wished is not None else 0.0
            lag[i] += memory * (difference - lag[i])
            late = late or lag[i] > share
        return late

    def copy(self) -> GroupFilter:
        """A filter of its own in the same state."""
        other = copy.copy(self)
        other._lag, other.causes = list(self._lag), set()
        return other


class Barrier:
    """Lower and upper edge of one measured coordinate, which one component's velocity moves."""

    def __init__(self, component: int, index: int, lower: float | None, upper: float | None) -> None:
        self.component, self.index = component, index
        self.lower = -math.inf if lower is None else lower
        self.upper = math.inf if upper is None else upper

    def allowed(
        self, position: float, margin: float, gain: float, acceleration: float, elapsed: float
    ) -> tuple[float, float]:
        """Least and largest velocity."""
        below, above = max(0.0, position - self.lower - margin), max(0.0, self.upper - position - margin)
        fastest_down = (
            gain * below if below == math.inf else min(gain * below, braking_speed(below, acceleration, elapsed))
        )
        fastest_up = (
            gain * above if above == math.inf else min(gain * above, braking_speed(above, acceleration, elapsed))
        )
        return -fastest_down, fastest_up


class VelocityFilter(GroupFilter):
    """Velocities: limits, barriers on the position that they integrate to, acceleration, jerk.

    ``TwistFilter`` takes norms over the group, ``JointVelocityFilter`` each joint by itself.
    """

    barriers: list[Barrier]

    def __init__(self, group: ActionGroup, spec: PolicySpec, limits: SafetyLimits, period_s: float) -> None:
        super().__init__(group, spec, limits, period_s)
        self.acceleration = [0.0] * len(self.command)
        self.positions: list[float] | None = None  # one a barrier
        self.jerk_exceptions = 0  # cycles in which a barrier or the acceleration limit came before the jerk limit

    def measure(self, vector: np.ndarray | None, elapsed: float) -> None:
        """Measured positions; while there are none, those that the commands have led to."""
        if vector is not None:
            self.positions = [float(vector[barrier.index]) for barrier in self.barriers]
        elif self.positions is not None:
            command = self.command
            self.positions = [
                position + command[barrier.component] * elapsed
                for position, barrier in zip(self.positions, self.barriers, strict=True)
            ]

    def forget(self) -> None:
        """Until the next measurement only slowing down is allowed where there are barriers."""
        self.positions = None

    def _bars(self, target: list[float], margin: Sequence[float], braking: float, elapsed: float) -> list[float]:
        """The target with nothing in it that leads too fast towards an edge; unmeasured, only slowing down."""
        previous, barred = self.command, target
        for number, barrier in enumerate(self.barriers):
            i = barrier.component
            if self.positions is None:
                low, high = min(previous[i], 0.0), max(previous[i], 0.0)
            else:
                low, high = barrier.allowed(self.positions[number], margin[i], self.gain, braking, elapsed)
            if not low <= target[i] <= high:
                if barred is target:
                    barred = list(target)
                barred[i] = min(max(target[i], low), high)
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
        self.linear = [i for i, part in enumerate(group.components) if ".angular." not in part.field]
        by_axis = {
            group.components[i].field.rpartition(".")[2]: i for i in self.linear if "." in group.components[i].field
        }
        by_axis = by_axis or dict(zip("xyz", self.linear, strict=False))
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
        self.braking = self.max_acceleration / math.sqrt(max(len(self.barriers), 1))  # of one axis
        self.reaction_s = 2.0 * self.max_acceleration / self.max_jerk if self.max_acceleration < math.inf else 0.0

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """See ``GroupFilter``."""
        self.causes.clear()
        causes, previous = self.causes, self.command
        target = self.bounded(wish) if wish is not None else self.hold
        margin = [abs(value) * self.reaction_s for value in previous]
        barred = self._bars(target, margin, self.braking, elapsed)
        if barred is not target and wish is not None and self.differ(target, barred):
            causes.add("barrier")
        target = barred
        speed = math.hypot(*[target[i] for i in self.linear])
        if speed > self.max_speed:
            slowed = list(target)
            for i in self.linear:
                slowed[i] = target[i] * (self.max_speed / speed)
            if self.differ(target, slowed):
                causes.add("speed")
            target = slowed
        if self.keep_out and self.positions is not None:
            kept = list(target)
            if self._avoid(kept) and self.differ(target, kept):
                causes.add("keep_out")
            target = kept
        step = self.max_acceleration * elapsed
        command = approach(previous, target, step)
        if command is not target and self.positions is not None and not self._inside_barriers(command, target):
            command = self._brake_first(command, target, step)
        reached, limited = command, "acceleration"
        if self.max_jerk < math.inf and elapsed > 0.0:
            command, limited = self._limit_jerk(previous, reached, elapsed, step), "jerk"
        if self.lags(None if wish is None else target, command):
            causes.add(limited if command is not reached else "acceleration")
        self.violations += not self.within_limits(command, previous, step)
        self.command = command
        self.at_rest = max(map(abs, command)) <= TOLERANCE
        return command

    def _brake_first(self, command: list[float], target: list[float], step: float) -> list[float]:
        """Spend the acceleration on what leads towards an edge, and only what is left of it on the rest."""
        previous, braked, left = self.command, list(self.command), step * step
        urgent = {b.component for b in self.barriers if abs(target[b.component]) < abs(command[b.component])}
        for i in sorted(range(len(target)), key=lambda i: i not in urgent):
            most = math.sqrt(left) if i in urgent else math.sqrt(left / (len(target) - len(urgent)))
            braked[i] += min(max(target[i] - previous[i], -most), most)
            if i in urgent:
                left = max(left - (braked[i] - previous[i]) ** 2, 0.0)
        return braked

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
        if fits and (self.positions is None or self._inside_barriers(smooth, target)):
            self.acceleration = reached
            return smooth
        self.jerk_exceptions += 1
        self.acceleration = wanted
        return target

    def _inside_barriers(self, command: list[float], allowed: list[float]) -> bool:
        """Whether a command is no faster towards any edge than its barrier allows, or than ``allowed`` is."""
        gain, positions = self.gain, self.positions
        assert positions is not None
        for position, barrier in zip(positions, self.barriers, strict=True):
            i = barrier.component
            upper = max(gain * max(0.0, barrier.upper - position), allowed[i])
            lower = min(-gain * max(0.0, position - barrier.lower), allowed[i])
            if not lower - TOLERANCE <= command[i] <= upper + TOLERANCE:
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
            Barrier(i, self.measured_by[i], part.position_lower, part.position_upper)
            for i, part in enumerate(group.components)
            if part.position_lower is not None or part.position_upper is not None
        ]
        self._barrier_of = {barrier.component: number for number, barrier in enumerate(self.barriers)}

    def apply(self, wish: list[float] | None, elapsed: float) -> list[float]:
        """See ``GroupFilter``."""
        self.causes.clear()
        previous, accelerations = self.command, list(self.acceleration)
        allowed = self.bounded(wish) if wish is not None else self.hold
        command, late = [], ""
        for i, value in enumerate(allowed):
            a, jerk, before = self.max_acceleration[i], self.max_jerk[i], previous[i]
            low, high = -math.inf, math.inf
            if i in self._barrier_of:
                low, high = self._range(i, before, a, jerk, elapsed)
            target = min(max(value, low), high)
            if wish is not None and abs(target - value) > self.share[i]:
                self.causes.add("barrier")
            step = a * elapsed
            reached = min(max(target, before - step), before + step) if step < math.inf else target
            smooth, acceleration = follow_smoothly(before, reached, self.acceleration[i], jerk, elapsed)
            if (
                not max(self.lower[i], min(low, reached)) - TOLERANCE
                <= smooth
                <= min(self.upper[i], max(high, reached)) + TOLERANCE
                or abs(smooth - before) > step + TOLERANCE
            ):
                smooth = reached
                acceleration = (reached - before) / elapsed if elapsed else 0.0
                self.jerk_exceptions += 1
            accelerations[i] = acceleration
            late = late or ("jerk" if smooth != reached else "acceleration" if reached != target else "")
            self.violations += not (
                self.lower[i] - TOLERANCE <= smooth <= self.upper[i] + TOLERANCE
                and abs(smooth - before) <= step + TOLERANCE
            )
            command.append(smooth)
        if self.lags(None if wish is None else allowed, command) and late:
            self.causes.add(late)
        self.command, self.acceleration = command, accelerations
        self.at_rest = max(map(abs, command)) <= TOLERANCE
        return command

    def _range(self, i: int, before: float, acceleration: float, jerk: float, elapsed: float) -> tuple[float, float]:
        if self.positions is None:
            return min(before, 0.0), max(before, 0.0)
        number = self._barrier_of[i]
        reaction_s = 2.0 * acceleration / jerk if acceleration < math.inf else 0.0
        margin = abs(before) * reaction_s
        return self.barriers[number].allowed(self.positions[number], margin, self.gain, acceleration, elapsed)


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
        self.stands = group.hold_values() is None

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
            brake = min(abs(distance) / elapsed, braking_speed(short, a, elapsed))
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
        if self.lags(None if wish is None else target, command):
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
        if self.lags(None if wish is None else target, command):
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
    component's range. What acceleration, jerk, velocity and rate limits take is averaged over a step of the chunk
    first: rounding a step's corner off is what they are there for; staying behind longer is an intervention.

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
        wishes = None if desired is None else [float(value) for value in desired]
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
        """Until the next measurement only slowing down is allowed where there are barriers."""
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
