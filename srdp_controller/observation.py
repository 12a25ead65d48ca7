"""Assembles the observation vector from the newest message of each topic, without allocating.

Shared by the controller node, the worlds that run in this process and the tests, so that all of them see the
policy's inputs through the very same code. Times are monotonic nanoseconds.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from srdp_controller.errors import SpecError
from srdp_controller.kinematics import ForwardKinematics, relative_pose, rotation_numbers
from srdp_controller.spec import (
    CommandHistorySource,
    KinematicsSource,
    PolicySpec,
    Qos,
    RelativePoseSource,
    RotationSource,
    SensorSource,
    TopicReference,
    TopicSource,
    fields_read,
)

NEVER_NS = -(2**62)
UNSAID = Qos()  # best effort, volatile
MEMORY_STEP_NS = 4_000_000  # past observations are kept no denser than this
RELATIVE = ("x", "y", "z", "yaw", "r0", "r1", "r2", "r3", "r4", "r5")  # as kinematics.relative_pose returns them

# the message's values -> numbers of which some are components; None: not known yet; ValueError: what is wrong
Compute = Callable[[Sequence[float]], Sequence[float] | None]
Target = tuple[int, int, float, float]  # place among the numbers, index in the observation, its limits


@dataclass(eq=False)
class TopicPlan:
    """What one topic contributes: the fields to extract, in order, and what becomes of their values."""

    topic: str
    type: str
    frame: str = ""
    qos: Qos = field(default_factory=Qos)
    max_age_ns: int | None = None
    optional: bool = True
    fields: list[str] = field(default_factory=list)
    chain_joints: set[str] = field(default_factory=set)
    direct: list[Target] = field(default_factory=list)  # places among the message's values
    transforms: list[tuple[Compute, list[Target]]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    kept: list[float] | None = None  # the newest values, where another topic's transform needs them
    measured_ns: int = NEVER_NS
    not_before_ns: int = NEVER_NS  # what was measured earlier is ignored

    def places(self, fields: Sequence[str]) -> list[int]:
        """Places of fields among those extracted; adds the new ones."""
        self.fields += [path for path in fields if path not in self.fields]
        return [self.fields.index(path) for path in fields]

    def pick(self, fields: Sequence[str]) -> Callable[[Sequence[float]], tuple[float, ...]]:
        """What takes the values of these fields out of the message's."""
        places = self.places(fields)
        if len(places) > 1:
            return operator.itemgetter(*places)
        only = places[0]
        return lambda values: (values[only],)


class ObservationAssembler:
    """Newest value of every observation component, with the time at which it was measured.

    ``update`` refuses a message with a NaN, an infinity, a value outside the spec's limits or a quaternion that is no
    rotation: it changes nothing and returns what is wrong.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self.spec = spec
        self.vector = np.zeros(spec.obs_dim, dtype=np.float32)
        self.plans: dict[str, TopicPlan] = {}
        self._names = [component.name for component in spec.observation]
        self._history: list[tuple[int, int, int]] = []
        targets: dict[tuple[object, ...], list[Target]] = {}  # of each transform
        for component in spec.observation:
            source, index = component.source, component.index
            limits = (component.lower, component.upper)
            if isinstance(source, CommandHistorySource):
                self._history.append((round(source.age_s * 1e9), source.component, index))
            if not isinstance(source, SensorSource):
                continue
            read = [(self._plan(reference), fields) for reference, fields in fields_read(source, spec.kinematics)]
            optional = isinstance(source, TopicSource) and source.default is not None
            for plan, _ in read:
                plan.optional = plan.optional and optional
                plan.indices.append(index)
            if isinstance(source, TopicSource):
                plan, fields = read[0]
                plan.direct.append((plan.places(fields)[0], index, *limits))
                self.vector[index] = source.default or 0.0
                continue
            how, place = _transform(source)
            key = (how, *((plan.topic, fields) for plan, fields in read))
            if key not in targets:
                targets[key] = []
                self._add(source, read, targets[key])
            targets[key].append((place, index, *limits))
        for plan in self.plans.values():
            plan.indices = sorted(set(plan.indices))
            if plan.optional and plan.qos is UNSAID:
                plan.qos = Qos(durability="either")
            if plan.kept is not None:
                plan.kept = [0.0] * len(plan.fields)
        self._earlier = [(round(age * 1e9), index, of) for index, of, age in spec.observation_history_columns()]
        self._memory: deque[tuple[int, list[float]]] = deque()
        self._memory_ns = max([age for age, _, _ in self._earlier], default=0) + MEMORY_STEP_NS
        columns = spec.prefix_columns()
        self._prefix = [[columns[step, number] for number in range(spec.act_dim)] for step in range(spec.prefix_steps)]
        self._prefix_length = spec.prefix_length_index
        self._required = [plan for plan in self.plans.values() if not plan.optional]
        self._scratch = [0.0] * spec.obs_dim

    def _plan(self, reference: TopicReference) -> TopicPlan:
        plan = self.plans.get(reference.topic)
        if plan is None:
            max_age_ns = None if reference.max_age is None else round(reference.max_age * 1e9)
            qos = reference.qos or UNSAID
            plan = TopicPlan(reference.topic, reference.type, reference.frame, qos, max_age_ns)
            self.plans[reference.topic] = plan
        return plan

    def _add(self, source: SensorSource, read: list[tuple[TopicPlan, tuple[str, ...]]], targets: list[Target]) -> None:
        """Add the transform that computes a source from its topics' values."""
        plan, fields = read[0]
        pick = plan.pick(fields)
        if isinstance(source, KinematicsSource):
            kinematics = ForwardKinematics(self.spec.kinematics[source.chain])
            plan.chain_joints.update(kinematics.joint_names)

            def tip(values: Sequence[float]) -> Sequence[float]:
                angles = pick(values)
                if not math.isfinite(sum(angles)):
                    raise ValueError("an angle of its chain is not finite")
                return kinematics.tip_position(angles)

            plan.transforms.append((tip, targets))
        elif isinstance(source, RotationSource):
            form = source.form
            plan.transforms.append((lambda values: rotation_numbers(form, pick(values)), targets))
        elif isinstance(source, RelativePoseSource):
            other, other_fields = read[1]
            pick_other = other.pick(other_fields)
            if other is plan:
                plan.transforms.append((lambda values: relative_pose(pick(values), pick_other(values)), targets))
                return
            plan.kept = other.kept = []

            def seen(values: Sequence[float]) -> Sequence[float] | None:
                if other.measured_ns == NEVER_NS or other.kept is None:
                    return None
                return relative_pose(pick(values), pick_other(other.kept))

            def seen_from(values: Sequence[float]) -> Sequence[float] | None:
                if plan.measured_ns == NEVER_NS or plan.kept is None:
                    return None
                return relative_pose(pick(plan.kept), pick_other(values))

            plan.transforms.append((seen, targets))
            other.transforms.append((seen_from, targets))

    def update(self, topic: str, values: Sequence[float], measured_ns: int) -> str | None:
        """Take one message's values (in ``plans[topic].fields`` order).

        Returns None, or which component is wrong and why. A message older than the newest one already taken, or than
        ``discard_before`` allows, is ignored.
        """
        plan = self.plans[topic]
        if measured_ns < plan.not_before_ns:
            return None
        scratch = self._scratch
        for place, index, low, high in plan.direct:
            value = values[place]
            if not low <= value <= high:
                return self._outside(index, value)
            scratch[index] = value
        for compute, targets in plan.transforms:
            try:
                numbers = compute(values)
            except ValueError as error:
                return f"{self._names[targets[0][1]]}: {error}"
            for place, index, low, high in targets:
                if numbers is None:
                    scratch[index] = float(self.vector[index])
                    continue
                value = numbers[place]
                if not low <= value <= high:
                    return self._outside(index, value)
                scratch[index] = value
        vector = self.vector
        for index in plan.indices:
            vector[index] = scratch[index]
        if plan.kept is not None:
            plan.kept[:] = values
        plan.measured_ns = plan.not_before_ns = measured_ns
        return None

    def _outside(self, index: int, value: float) -> str:
        component = self.spec.observation[index]
        if not math.isfinite(value):
            return f"{component.name} is not finite"
        return f"{component.name} is {value:.6g}, outside its limits {component.lower:g} to {component.upper:g}"

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

    def stale(self, now_ns: int, default_max_age_ns: int) -> str:
        """The first required topic that is older than its own ``max_age`` [ns], or than this default; "" if none is."""
        for plan in self._required:
            age_ns = now_ns - plan.measured_ns
            most_ns = plan.max_age_ns or default_max_age_ns
            if age_ns > most_ns:
                if plan.measured_ns == NEVER_NS:
                    return f"{plan.topic}: no valid message yet"
                return f"{plan.topic}: {age_ns * 1e-6:.0f} ms old, at most {most_ns * 1e-6:.0f} ms"
        return ""

    def discard_before(self, since_ns: int) -> None:
        """Forget what was measured before ``since_ns``, and ignore it when it comes later (a new episode begins).

        Topics with defaults keep their values: a fixture that is published once stays where it is.
        """
        for plan in self._required:
            if plan.measured_ns < since_ns:
                plan.measured_ns = NEVER_NS
            plan.not_before_ns = max(plan.not_before_ns, since_ns)
        self._memory.clear()

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
            plan.measured_ns = plan.not_before_ns = NEVER_NS
        self._memory.clear()


def _transform(source: SensorSource) -> tuple[str, int]:
    """Which transform gives the source's value, and which of its numbers that is."""
    if isinstance(source, KinematicsSource):
        return source.chain, "xyz".index(source.axis)
    if isinstance(source, RotationSource):
        return source.form, source.component
    if isinstance(source, RelativePoseSource):
        return source.kind, RELATIVE.index(source.coordinate)
    raise TypeError(f"{source.kind} is no transform")
