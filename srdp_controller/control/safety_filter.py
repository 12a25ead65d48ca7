"""Last station before the robot: every command is brought into its group's limits (``limits/``, a file for each kind).

Where limits contradict each other the order is: finite, limits, speed, acceleration and barrier, jerk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np

from srdp_controller.control.limits.common import GroupFilter, SafetyLimits
from srdp_controller.control.limits.joints import JointVelocityFilter, PositionFilter
from srdp_controller.control.limits.twist import TwistFilter
from srdp_controller.spec import ActionGroup, PolicySpec

CAUSES = ("not_finite", "limit", "speed", "barrier", "keep_out", "acceleration", "jerk", "velocity", "rate")
FILTERS: dict[str, Callable[[ActionGroup, PolicySpec, SafetyLimits], GroupFilter]] = {
    "twist": TwistFilter,
    "joint_velocity": JointVelocityFilter,
    "joint_position": PositionFilter,
    "joint_effort": PositionFilter,
    "gripper": PositionFilter,
    "generic": PositionFilter,
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
        self._placed = [(FILTERS[group.kind](group, spec, limits), place) for group, place in spec.group_slices()]
        self.groups = [group for group, _ in self._placed]
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
        elapsed = self.period_s if elapsed_s is None else max(elapsed_s, 0.0)
        counted = min(elapsed, 2.0 * self.period_s)
        wish = None if desired is None else np.asarray(desired).tolist()
        command: list[float] = []
        causes: set[str] = set()
        for group, place in self._placed:
            command += group.apply(None if wish is None else wish[place], vector, elapsed, counted)
            causes |= group.causes
        for cause in causes:
            self.interventions_by_cause[cause] += 1
        self.interventions += bool(causes)
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

    def resume(self, commands: Sequence[Sequence[float]], vector: np.ndarray) -> None:
        """Go on from commands (1 to 3, act_dim) that another filter let through, a period apart, oldest first.

        ``vector`` (obs_dim,) is what was observed then.
        """
        for group, place in self._placed:
            group.resume([list(command[place]) for command in commands], vector, self.period_s)
        self.command = list(commands[-1])

    def forget_position(self) -> None:
        """The robot may stand elsewhere: barriers allow slowing down only, positions go on from what is measured."""
        for group in self.groups:
            group.forget()

    def preview(self, desired: Sequence[Sequence[float] | np.ndarray], step_s: float) -> list[list[float]]:
        """The commands (n, act_dim) that would follow, ``step_s`` apart, if a chunk (n, act_dim) were driven."""
        ahead = [(copy.copy(group), place) for group, place in self._placed]
        return [
            [value for group, place in ahead for value in group.apply(list(action[place]), None, step_s, step_s)]
            for action in desired
        ]
