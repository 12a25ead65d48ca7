"""Assembles the observation vector from the newest message of each topic, without allocating.

Shared by the controller node, the in-process simulation and the tests, so that all three see the
policy's inputs through the very same code. Time stamps are monotonic nanoseconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from srdp_controller.errors import SpecError
from srdp_controller.kinematics import ForwardKinematics
from srdp_controller.spec import (
    CommandHistorySource,
    KinematicsSource,
    PolicySpec,
    TopicSource,
)

NEVER_NS = -(2**62)
MEMORY_STEP_NS = 4_000_000  # past observations are kept no denser than this


@dataclass
class TopicPlan:
    """What one topic contributes: the fields to extract, in order, and where they go."""

    topic: str
    type: str
    fields: list[str] = field(default_factory=list)
    direct: list[tuple[int, int]] = field(default_factory=list)
    kinematics: list[tuple[ForwardKinematics, int, tuple[tuple[int, int], ...]]] = field(default_factory=list)
    optional: bool = True
    measured_ns: int = NEVER_NS

    def position_of(self, name: str) -> int:
        """Index of a field among those extracted; adds it when new."""
        if name not in self.fields:
            self.fields.append(name)
        return self.fields.index(name)


class ObservationAssembler:
    """Newest value of every observation component, with the time at which it was measured.

    ``update`` refuses a message with a NaN, an infinity or a value outside the spec's limits: it
    changes nothing and returns the name of the offending component.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self.spec = spec
        self.vector = np.zeros(spec.obs_dim, dtype=np.float32)
        self.plans: dict[str, TopicPlan] = {}
        self._limits = [(component.lower, component.upper) for component in spec.observation]
        self._names = [component.name for component in spec.observation]
        self._history: list[tuple[int, int, int]] = []
        chain_axes: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for component in spec.observation:
            source = component.source
            if isinstance(source, TopicSource):
                plan = self._plan(source.topic, source.type)
                plan.direct.append((plan.position_of(source.field), component.index))
                if source.default is None:
                    plan.optional = False
                else:
                    self.vector[component.index] = source.default
            elif isinstance(source, KinematicsSource):
                plan = self._plan(source.topic, source.type)
                plan.optional = False
                axis = "xyz".index(source.axis)
                chain_axes.setdefault((source.topic, source.chain), []).append((axis, component.index))
            elif isinstance(source, CommandHistorySource):
                self._history.append((round(source.age_s * 1e9), source.component, component.index))
        for (topic, chain), axes in chain_axes.items():
            plan = self.plans[topic]
            kinematics = ForwardKinematics(spec.kinematics[chain])
            start = len(plan.fields)
            for name in kinematics.joint_names:
                if plan.position_of(f"position[{name}]") != start + kinematics.joint_names.index(name):
                    raise SpecError(
                        f"chain {chain!r}: joint {name!r} is also observed directly; "
                        "list the joint positions after the chain's components"
                    )
            plan.kinematics.append((kinematics, start, tuple(axes)))
        self._earlier = [(round(age * 1e9), index, of) for index, of, age in spec.observation_history_columns()]
        self._memory: deque[tuple[int, list[float]]] = deque()
        self._memory_ns = max([age for age, _, _ in self._earlier], default=0) + MEMORY_STEP_NS
        columns = spec.prefix_columns()
        self._prefix = [[columns[step, number] for number in range(spec.act_dim)] for step in range(spec.prefix_steps)]
        self._prefix_length = spec.prefix_length_index
        self._required = [plan for plan in self.plans.values() if not plan.optional]
        self._scratch = [0.0] * spec.obs_dim

    def _plan(self, topic: str, type_name: str) -> TopicPlan:
        plan = self.plans.setdefault(topic, TopicPlan(topic, type_name))
        if plan.type != type_name:
            raise SpecError(f"topic {topic} is named with two types: {plan.type} and {type_name}")
        return plan

    def update(self, topic: str, values: Sequence[float], measured_ns: int) -> str | None:
        """Take one message's values (in ``plans[topic].fields`` order).

        Returns None, or the name of the component that was not finite or outside its limits.
        A message older than the newest one already taken is ignored.
        """
        plan = self.plans[topic]
        if measured_ns < plan.measured_ns:
            return None
        scratch = self._scratch
        limits = self._limits
        for position, index in plan.direct:
            value = values[position]
            low, high = limits[index]
            if not low <= value <= high:
                return self._names[index]
            scratch[index] = value
        for kinematics, start, axes in plan.kinematics:
            angles = values[start : start + len(kinematics.joint_names)]
            if not math.isfinite(sum(angles)):
                return self._names[axes[0][1]]
            tip = kinematics.tip_position(angles)
            for axis, index in axes:
                low, high = limits[index]
                if not low <= tip[axis] <= high:
                    return self._names[index]
                scratch[index] = tip[axis]
        vector = self.vector
        for _, index in plan.direct:
            vector[index] = scratch[index]
        for _, _, axes in plan.kinematics:
            for _, index in axes:
                vector[index] = scratch[index]
        plan.measured_ns = measured_ns
        return None

    def oldest_ns(self) -> int:
        """When the oldest required topic was measured; ``NEVER_NS`` while one is missing."""
        oldest = 2**62
        for plan in self._required:
            if plan.measured_ns < oldest:
                oldest = plan.measured_ns
        return oldest if self._required else NEVER_NS

    def missing(self) -> list[str]:
        """Required topics of which no valid message has come yet."""
        return [plan.topic for plan in self._required if plan.measured_ns == NEVER_NS]

    @property
    def history_ages_ns(self) -> list[int]:
        """Ages of the commands that the observation contains [ns]."""
        return [age for age, _, _ in self._history]

    def set_history(self, command_at: dict[int, Sequence[float]]) -> None:
        """Write the past commands, by age [ns], each (act_dim,) in SI units."""
        for age, component, index in self._history:
            self.vector[index] = command_at[age][component]

    def remember(self, now_ns: int) -> None:
        """Fill the past observations in, and keep the present one for later; call it once a cycle.

        What is older than anything remembered is taken to have been like the oldest.
        """
        if not self._earlier:
            return
        memory, vector = self._memory, self.vector
        if not memory or now_ns - memory[-1][0] >= MEMORY_STEP_NS:
            memory.append((now_ns, vector.tolist()))
        while len(memory) > 2 and memory[1][0] <= now_ns - self._memory_ns:
            memory.popleft()
        for age, index, of in self._earlier:
            due = now_ns - age
            then = next((values for taken_ns, values in reversed(memory) if taken_ns <= due), memory[0][1])
            vector[index] = then[of]

    def set_prefix(self, committed: Sequence[Sequence[float]]) -> None:
        """Write the actions that are committed until a new chunk is due, each (act_dim,) in SI units.

        An empty sequence says that none is, which is what a policy evaluated in every cycle is given.

        Raises:
            SpecError: more than the policy was trained with.
        """
        if len(committed) > len(self._prefix):
            raise SpecError(f"{len(committed)} committed actions; the policy was trained with {len(self._prefix)}")
        for step, columns in enumerate(self._prefix):
            for number, index in enumerate(columns):
                self.vector[index] = committed[step][number] if step < len(committed) else 0.0
        if self._prefix_length is not None:
            self.vector[self._prefix_length] = len(committed)

    def reset(self) -> None:
        """Forget every message (a new episode, or a restarted sensor whose clock went back)."""
        for plan in self.plans.values():
            plan.measured_ns = NEVER_NS
        self._memory.clear()
