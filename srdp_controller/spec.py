"""``PolicySpec``: what a policy observes and commands, by name, unit, source, limits and scale (schema 2).

The spec is the contract between the offline side (which trains in it), the bundle (which carries it) and
the robot (whose topics it names). Everything is in SI units. It knows no task and no robot: an observation
is any numeric field of any message, or something computed from such fields; an action is made of groups,
each with a kind, limits, an output topic and what it does when the policy may not act.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from srdp_controller.errors import SpecError, all_problems
from srdp_controller.kinematics import KinematicChain
from srdp_controller.messages import check_path


class Strict(BaseModel):
    """A frozen model that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- observations -------------------------------------------------------------------------------


class Qos(Strict):
    """Quality of service of a subscription; ``either`` hears ordinary and transient-local publishers."""

    reliability: Literal["best_effort", "reliable"] = "best_effort"
    durability: Literal["volatile", "transient_local", "either"] = "volatile"


class TopicReference(Strict):
    """A topic that is subscribed to, and what is expected of its messages."""

    topic: str = Field(min_length=1)
    type: str = Field(pattern=r"^\w+/msg/\w+$", description="e.g. geometry_msgs/msg/PoseStamped")
    frame: str = Field(default="", description="a message whose header names another frame is refused; empty: any")
    max_age: float | None = Field(default=None, gt=0.0, description="s; None: the node's observation.max_age")
    qos: Qos | None = Field(
        default=None, description="None: best effort; volatile, or either where every component has a default"
    )


class TopicSource(TopicReference):
    """One numeric field of a message: ``pose.position.x``, ``position[joint_3]``, ``data[4]``, ``wrench.force.z``."""

    kind: Literal["topic"] = "topic"
    field: str
    default: float | None = Field(
        default=None,
        description="value until a first message arrives; a topic whose components all have one is optional and "
        "never counts as stale (a fixture's pose, for example)",
    )


class KinematicsSource(TopicReference):
    """A coordinate of the tool centre point, computed from a JointState topic by a chain."""

    kind: Literal["kinematics"] = "kinematics"
    type: str = "sensor_msgs/msg/JointState"
    chain: str
    axis: Literal["x", "y", "z"]


class RotationSource(TopicReference):
    """One number of a quaternion field that is continuous: q and -q, the same rotation, give the same.

    ``canonical`` (component 0 to 3: x, y, z, w with w >= 0), ``six_dimensional`` (0 to 5: the first two columns
    of the rotation matrix; Zhou et al., CVPR 2019) or ``yaw`` (rotation about z [rad]).
    """

    kind: Literal["rotation"] = "rotation"
    field: str = Field(description="path of the quaternion, e.g. pose.orientation")
    form: Literal["canonical", "six_dimensional", "yaw"]
    component: int = Field(default=0, ge=0)


class PoseReference(TopicReference):
    """A pose (position and orientation) in a message."""

    field: str = Field(description="path of the pose, e.g. pose")


class RelativePoseSource(PoseReference):
    """A coordinate of this pose seen from another one; its age is that of the older of the two."""

    kind: Literal["relative_pose"] = "relative_pose"
    to: PoseReference
    coordinate: Literal["x", "y", "z", "yaw", "r0", "r1", "r2", "r3", "r4", "r5"] = Field(
        description="position [m] in the other's frame, yaw [rad], or r0 to r5, the six-dimensional rotation"
    )


class CommandHistorySource(Strict):
    """The controller itself: the command that was in force ``age_s`` seconds ago."""

    kind: Literal["command_history"] = "command_history"
    component: int = Field(ge=0)
    age_s: float = Field(gt=0.0)


class ObservationHistorySource(Strict):
    """The controller itself: what another component of the observation was ``age_s`` seconds ago."""

    kind: Literal["observation_history"] = "observation_history"
    component: int = Field(ge=0, description="index of the component, which a sensor fills")
    age_s: float = Field(gt=0.0)


class ActionPrefixSource(Strict):
    """The controller itself: an action already committed, ``step`` steps of the chunk ahead."""

    kind: Literal["action_prefix"] = "action_prefix"
    component: int = Field(ge=0)
    step: int = Field(ge=0)


class ActionPrefixLengthSource(Strict):
    """The controller itself: how many of the ``action_prefix`` entries are committed (0: none)."""

    kind: Literal["action_prefix_length"] = "action_prefix_length"


SensorSource = TopicSource | KinematicsSource | RotationSource | RelativePoseSource
Source = Annotated[
    SensorSource | ObservationHistorySource | CommandHistorySource | ActionPrefixSource | ActionPrefixLengthSource,
    Field(discriminator="kind"),
]
QUATERNION = ("x", "y", "z", "w")
POSE = tuple(f"position.{axis}" for axis in "xyz") + tuple(f"orientation.{axis}" for axis in QUATERNION)


def fields_read(source: Any, chains: Mapping[str, KinematicChain]) -> list[tuple[TopicReference, tuple[str, ...]]]:
    """The message fields that a source reads, by topic, in the order in which its value is computed from them."""
    if isinstance(source, TopicSource):
        return [(source, (source.field,))]
    if isinstance(source, KinematicsSource):
        return [(source, tuple(f"position[{joint.name}]" for joint in chains[source.chain].joints))]
    if isinstance(source, RotationSource):
        return [(source, tuple(f"{source.field}.{axis}" for axis in QUATERNION))]
    if isinstance(source, RelativePoseSource):
        return [(pose, tuple(f"{pose.field}.{part}" for part in POSE)) for pose in (source, source.to)]
    return []


class ObservationComponent(Strict):
    """One entry of the observation vector."""

    name: str
    unit: str
    index: int = Field(default=-1, ge=-1, description="its place; may be left out")
    source: Source
    lower: FiniteFloat = Field(description="a value below is a fault of the sensor, not a state")
    upper: FiniteFloat
    centre: FiniteFloat = Field(default=0.0, description="subtracted before the network")
    scale: FiniteFloat = Field(default=1.0, gt=0.0, description="divided by before the network")

    @field_validator("source", mode="before")
    @classmethod
    def _a_topic_unless_said(cls, source: Any) -> Any:
        return {"kind": "topic", **source} if isinstance(source, Mapping) else source


# --- actions ------------------------------------------------------------------------------------

Kind = Literal["twist", "joint_velocity", "joint_position", "joint_effort", "gripper", "generic"]
TWIST, ARRAY = "geometry_msgs/msg/TwistStamped", "std_msgs/msg/Float64MultiArray"
TRAJECTORY, JOG = "trajectory_msgs/msg/JointTrajectory", "control_msgs/msg/JointJog"
# output type -> how a component's field reads in it
OUTPUT_FIELDS = {
    TWIST: r"twist\.(linear|angular)\.[xyz]",
    ARRAY: r"data\[\d+\]",
    TRAJECTORY: r"positions\[[^\]]+\]",
    JOG: r"(velocities|displacements)\[[^\]]+\]",
}


class KindFacts(NamedTuple):
    """What follows from a group's kind."""

    units: tuple[str, ...]  # of its components; empty: any
    outputs: tuple[str, ...]  # message types that it may go out as
    rate_limits: tuple[str, ...] = ("max_rate",)  # of a component, beside lower and upper


KINDS: dict[str, KindFacts] = {
    "twist": KindFacts(("m/s", "rad/s"), (TWIST, ARRAY), ()),
    "joint_velocity": KindFacts(("rad/s", "m/s"), (ARRAY, JOG), ("max_acceleration", "max_jerk")),
    "joint_position": KindFacts(("rad", "m"), (ARRAY, TRAJECTORY), ("max_velocity", "max_acceleration", "max_jerk")),
    "joint_effort": KindFacts(("N m", "N"), (ARRAY,)),
    "gripper": KindFacts(("m", "rad", "N", "1"), (ARRAY,)),
    "generic": KindFacts((), (ARRAY,)),
}


class ActionComponent(Strict):
    """One entry of the action vector; ``field`` is its place in the group's output message.

    ``twist.linear.x`` (TwistStamped), ``data[0]`` (Float64MultiArray), ``positions[joint_1]`` (JointTrajectory)
    or ``velocities[joint_1]`` (JointJog).
    """

    name: str
    unit: str
    index: int = Field(default=-1, ge=-1, description="its place in the action vector; may be left out")
    field: str
    lower: FiniteFloat
    upper: FiniteFloat
    centre: FiniteFloat = 0.0
    scale: FiniteFloat = Field(default=1.0, gt=0.0)
    max_velocity: float | None = Field(default=None, gt=0.0, description="joint_position: unit/s")
    max_acceleration: float | None = Field(default=None, gt=0.0, description="joints: rad/s^2 or m/s^2")
    max_jerk: float | None = Field(default=None, gt=0.0, description="joints: rad/s^3 or m/s^3")
    max_rate: float | None = Field(default=None, gt=0.0, description="effort, gripper, generic: unit/s")
    measured_by: str | None = Field(
        default=None,
        description="observation component that measures the joint's position (joint_velocity, joint_position) or "
        "the value itself (gripper, generic)",
    )
    position_lower: float | None = Field(default=None, description="joint_velocity: barrier on measured_by")
    position_upper: float | None = None


class Output(Strict):
    """Where a group's commands go; relative topics lie below the node's name."""

    topic: str = Field(default="~/command", min_length=1)
    type: Literal[
        "geometry_msgs/msg/TwistStamped",
        "std_msgs/msg/Float64MultiArray",
        "trajectory_msgs/msg/JointTrajectory",
        "control_msgs/msg/JointJog",
    ]
    frame: str = Field(default="", description="of the header, where the message has one")


class ActionGroup(Strict):
    """Actions that go out together: what they are, their limits, and what they do on HOLD and STOP."""

    name: str
    kind: Kind
    components: tuple[ActionComponent, ...] = Field(min_length=1)
    output: Output
    on_hold: Literal["zero", "last", "measured"] | float | tuple[float, ...] = Field(
        description="zero; the last command; the measured position; or a value, one for all or one a component"
    )
    max_speed: float | None = Field(default=None, gt=0.0, description="twist: norm of the linear components [m/s]")
    max_acceleration: float | None = Field(default=None, gt=0.0, description="twist: norm of their change [m/s^2]")
    max_jerk: float | None = Field(default=None, gt=0.0, description="twist: norm of its change [m/s^3]")

    def hold_values(self) -> tuple[float, ...] | None:
        """The command on hold (components,), or None where it depends on the robot's state (last, measured)."""
        if isinstance(self.on_hold, str):
            return (0.0,) * len(self.components) if self.on_hold == "zero" else None
        if isinstance(self.on_hold, tuple):
            return self.on_hold
        return (float(self.on_hold),) * len(self.components)


class Workspace(Strict):
    """Box of the task frame, of one to three dimensions, that the tool centre point must not leave [m]."""

    frame: str
    axes: tuple[Literal["x", "y", "z"], ...] = Field(default=(), description="empty: x, y, z as many as there are")
    lower: tuple[float, ...] = Field(min_length=1, max_length=3)
    upper: tuple[float, ...] = Field(min_length=1, max_length=3)
    position_observations: tuple[str, ...] = Field(
        description="names of the observation components that measure the tool centre point, one an axis"
    )

    def named_axes(self) -> tuple[str, ...]:
        """The axes that ``lower``, ``upper`` and ``position_observations`` are about."""
        return self.axes or tuple("xyz"[: len(self.lower)])


# --- the whole ----------------------------------------------------------------------------------

# ROS messages carry no units but have them all the same (REP 103): nothing else can be meant
FIELD_UNITS = (
    (r"^position\[", ("rad", "m")),
    (r"^velocity\[", ("rad/s", "m/s")),
    (r"^effort\[", ("N m", "N")),
    (r"(^|\.)position\.[xyz]$", ("m",)),
    (r"(^|\.)orientation\.[xyzw]$", ("1",)),
    (r"(^|\.)linear_acceleration\.[xyz]$", ("m/s^2",)),
    (r"(^|\.)angular_velocity\.[xyz]$", ("rad/s",)),
    (r"(^|\.)force\.[xyz]$", ("N",)),
    (r"(^|\.)torque\.[xyz]$", ("N m",)),
    (r"twist\.linear\.[xyz]$", ("m/s",)),
    (r"twist\.angular\.[xyz]$", ("rad/s",)),
)


def _units_of(source: Any) -> tuple[str, ...] | None:
    if isinstance(source, TopicSource):
        return next((units for pattern, units in FIELD_UNITS if re.search(pattern, source.field)), None)
    if isinstance(source, KinematicsSource):
        return ("m",)
    if isinstance(source, RotationSource):
        return ("rad",) if source.form == "yaw" else ("1",)
    if isinstance(source, RelativePoseSource):
        return ("m",) if source.coordinate in "xyz" else ("rad",) if source.coordinate == "yaw" else ("1",)
    return None


def _numbered(components: Any, first: int) -> Any:
    """The components with the indices that were left out, counted from ``first``."""
    if not isinstance(components, list | tuple):
        return components
    numbered = []
    for place, one in enumerate(components, first):
        if isinstance(one, Mapping | BaseModel):
            one = dict(one)
            if one.get("index", -1) == -1:
                one["index"] = place
        numbered.append(one)
    return numbered


class PolicySpec(Strict):
    """Observation (obs_dim,), action chunk (horizon, act_dim) and how both meet the robot."""

    task: str
    observation: tuple[ObservationComponent, ...] = Field(min_length=1)
    action_groups: tuple[ActionGroup, ...] = Field(min_length=1)
    horizon: int = Field(ge=1, description="actions in one chunk")
    control_rate_hz: float = Field(gt=0.0, description="rate at which the chunk's actions follow each other")
    workspace: Workspace | None = None
    kinematics: dict[str, KinematicChain] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _number(cls, content: Any) -> Any:
        """Fill in the indices that were left out."""
        if not isinstance(content, Mapping):
            return content
        content = dict(content)
        content["observation"] = _numbered(content.get("observation"), 0)
        groups, first = [], 0
        for group in content.get("action_groups") or ():
            if isinstance(group, Mapping | BaseModel):
                group = dict(group)
                group["components"] = _numbered(group.get("components"), first)
                first += len(group["components"] or ())
            groups.append(group)
        content["action_groups"] = groups
        return content

    @model_validator(mode="after")
    def _consistent(self) -> PolicySpec:
        """Every contradiction at once: a spec is not mended one error at a time."""
        checks = (self._names, self._sources, self._groups, self._workspace, self._prefix)
        problems = [problem for check in checks for problem in check()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _names(self) -> list[str]:
        problems = []
        for kind, components in (("observation", self.observation), ("action", self.action)):
            if [component.index for component in components] != list(range(len(components))):
                problems.append(f"{kind} indices must be 0, 1, 2, ... in order")
            names = [component.name for component in components]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                problems.append(f"{kind} names must differ: {', '.join(twice)} stands twice")
            for component in components:
                if not component.lower < component.upper:
                    problems.append(f"{kind} {component.name}: lower must be below upper")
        groups = [group.name for group in self.action_groups]
        if len(set(groups)) != len(groups):
            problems.append(f"action group names must differ: {groups}")
        return problems

    def _sources(self) -> list[str]:
        problems: list[str] = []
        references: dict[str, TopicReference] = {}
        taken: dict[str, str] = {}
        sensors = set(self.sensor_indices())
        for component in self.observation:
            source, where = component.source, f"observation {component.name}"
            allowed = _units_of(source)
            if allowed is not None and component.unit not in allowed:
                problems.append(f"{where}: unit {component.unit!r}; its source is in {' or '.join(allowed)}")
            if isinstance(source, KinematicsSource) and source.chain not in self.kinematics:
                problems.append(f"{where}: no kinematic chain {source.chain!r}; there are {list(self.kinematics)}")
                continue
            if isinstance(source, RotationSource):
                most = {"canonical": 4, "six_dimensional": 6, "yaw": 1}[source.form]
                if source.component >= most:
                    problems.append(f"{where}: {source.form} has components 0 to {most - 1}, not {source.component}")
            if isinstance(source, CommandHistorySource | ActionPrefixSource) and source.component >= len(self.action):
                problems.append(f"{where}: no action component {source.component}")
            if isinstance(source, ObservationHistorySource) and source.component not in sensors:
                problems.append(f"{where}: component {source.component} is filled by no sensor")
            # what the source says beside the topic's own facts: two components must not say the same
            same = source.model_dump_json(exclude={"frame", "max_age", "qos", "default"})
            if same in taken:
                problems.append(f"{where}: reads the same as observation {taken[same]}")
            taken[same] = component.name
            for reference, fields in fields_read(source, self.kinematics):
                first = references.setdefault(reference.topic, reference)
                for fact in ("type", "frame", "max_age", "qos"):
                    if getattr(first, fact) != getattr(reference, fact):
                        problems.append(
                            f"{where}: topic {reference.topic} has {fact} {getattr(reference, fact)!r} here and "
                            f"{getattr(first, fact)!r} before"
                        )
                found = [check_path(reference.type, path) for path in fields]
                problems += [f"{where}: {text}" for text in dict.fromkeys(found) if text is not None]
        return problems

    def _groups(self) -> list[str]:
        problems: list[str] = []
        measured = {component.name for component in self.observation}
        topics: dict[str, str] = {}
        for group in self.action_groups:
            where = f"action group {group.name}"
            outputs = KINDS[group.kind].outputs
            if group.output.type not in outputs:
                problems.append(f"{where}: kind {group.kind} goes out as {' or '.join(outputs)}")
            hold = group.hold_values()
            if group.kind in ("twist", "joint_velocity") and group.on_hold != "zero":
                problems.append(f"{where}: on_hold {group.on_hold!r} would keep a {group.kind} moving; expected zero")
            if hold is not None and len(hold) != len(group.components):
                problems.append(f"{where}: on_hold has {len(hold)} values for {len(group.components)} components")
                hold = None
            if group.kind != "twist" and (group.max_speed or group.max_acceleration or group.max_jerk):
                problems.append(f"{where}: max_speed, max_acceleration and max_jerk of a group are a twist's")
            if group.output.topic in topics:
                problems.append(f"{where}: output {group.output.topic} is group {topics[group.output.topic]}'s already")
            topics[group.output.topic] = group.name
            fields = [action.field for action in group.components]
            for field in sorted({field for field in fields if fields.count(field) > 1}):
                problems.append(f"{where}: field {field} is commanded twice")
            places = sorted(f"data[{place}]" for place in range(len(fields)))
            if group.output.type == ARRAY and group.kind != "twist" and sorted(fields) != places:
                problems.append(f"{where}: fields must be data[0] to data[{len(fields) - 1}], each once")
            for place, action in enumerate(group.components):
                problems += self._component(group, action, None if hold is None else hold[place], measured)
        return problems

    def _component(
        self, group: ActionGroup, action: ActionComponent, hold: float | None, measured: set[str]
    ) -> list[str]:
        problems, where = [], f"action {action.name}"
        if not re.fullmatch(OUTPUT_FIELDS[group.output.type], action.field):
            problems.append(f"{where}: field {action.field!r} is none of {group.output.type}")
        units, _, rate_limits = KINDS[group.kind]
        if group.output.type == TWIST:
            units = ("rad/s",) if ".angular." in action.field else ("m/s",)
        if units and action.unit not in units:
            problems.append(f"{where}: unit {action.unit!r}; a {group.kind} is in {' or '.join(units)}")
        if hold is not None and not action.lower <= hold <= action.upper:
            problems.append(
                f"{where}: its limits {action.lower} to {action.upper} exclude {hold}, its command on hold; "
                "the robot could not be stopped"
            )
        for limit in ("max_velocity", "max_acceleration", "max_jerk", "max_rate"):
            if getattr(action, limit) is not None and limit not in rate_limits:
                has = ", ".join(rate_limits) or "limits of the whole group"
                problems.append(f"{where}: {limit} is no limit of a {group.kind}, which has {has}")
        if action.measured_by is not None and action.measured_by not in measured:
            problems.append(f"{where}: measured_by: no observation named {action.measured_by!r}")
        if action.measured_by is None and (group.kind == "joint_position" or group.on_hold == "measured"):
            problems.append(f"{where}: measured_by must name the observation from which its first command starts")
        if action.position_lower is not None or action.position_upper is not None:
            if group.kind != "joint_velocity" or action.measured_by is None:
                problems.append(f"{where}: position_lower and position_upper need a joint_velocity with measured_by")
            low, high = action.position_lower, action.position_upper
            if low is not None and high is not None and not low < high:
                problems.append(f"{where}: position_lower must be below position_upper")
        return problems

    def _workspace(self) -> list[str]:
        workspace = self.workspace
        if workspace is None:
            return []
        problems = []
        axes, known = workspace.named_axes(), {component.name for component in self.observation}
        if not len(workspace.lower) == len(workspace.upper) == len(workspace.position_observations) == len(axes):
            problems.append("workspace: lower, upper, axes and position_observations must be of one length")
        for low, high in zip(workspace.lower, workspace.upper, strict=False):
            if not low < high:
                problems.append(f"workspace: lower {low} must be below upper {high}")
        for name in workspace.position_observations:
            if name not in known:
                problems.append(f"workspace.position_observations: no observation named {name!r}")
        if not any(group.kind == "twist" for group in self.action_groups):
            problems.append("workspace: it bounds a twist, and no action group is one; use limits of the joints")
        return problems

    def _prefix(self) -> list[str]:
        columns = self.prefix_columns()
        lengths = [c for c in self.observation if isinstance(c.source, ActionPrefixLengthSource)]
        if not columns and not lengths:
            return []
        if len(lengths) != 1 or not columns:
            return ["an action prefix needs action_prefix components and one action_prefix_length"]
        problems = []
        steps = len(columns) // len(self.action)
        wanted = {(step, component) for step in range(steps) for component in range(len(self.action))}
        if set(columns) != wanted or steps >= self.horizon:
            problems.append("action_prefix components must be whole actions 0, 1, ... and fewer than the horizon")
        if (lengths[0].centre, lengths[0].scale) != (0.0, 1.0):
            problems.append(f"observation {lengths[0].name}: an action_prefix_length has centre 0 and scale 1")
        for (_, number), index in columns.items():
            prefix = self.observation[index]
            action = self.action[number] if number < len(self.action) else None
            if action is not None and (prefix.centre, prefix.scale) != (action.centre, action.scale):
                problems.append(f"observation {prefix.name}: centre and scale must be those of action {action.name}")
        return problems

    # --- what follows from it -------------------------------------------------------------------

    @property
    def action(self) -> tuple[ActionComponent, ...]:
        """The action vector's components, group after group."""
        return tuple(component for group in self.action_groups for component in group.components)

    def group_slices(self) -> list[tuple[ActionGroup, slice]]:
        """Each group and its place in the action vector."""
        return [
            (group, slice(group.components[0].index, group.components[-1].index + 1)) for group in self.action_groups
        ]

    def observation_index(self, name: str) -> int:
        """Index of an observation component by name."""
        return next(component.index for component in self.observation if component.name == name)

    def prefix_columns(self) -> dict[tuple[int, int], int]:
        """Observation index of each committed action's entry, by (step, component)."""
        return {
            (component.source.step, component.source.component): component.index
            for component in self.observation
            if isinstance(component.source, ActionPrefixSource)
        }

    @property
    def prefix_length_index(self) -> int | None:
        """Observation index of the number of committed actions, or None."""
        found = (one.index for one in self.observation if isinstance(one.source, ActionPrefixLengthSource))
        return next(found, None)

    @property
    def prefix_steps(self) -> int:
        """Most committed actions that a chunk can be conditioned on."""
        return len(self.prefix_columns()) // len(self.action)

    def sensor_indices(self) -> list[int]:
        """Observation indices that sensors fill; the rest are the controller's own commands."""
        return [component.index for component in self.observation if isinstance(component.source, SensorSource)]

    def observation_history_columns(self) -> list[tuple[int, int, float]]:
        """(observation index, index of the component, age in seconds) of the past observations."""
        return [
            (component.index, component.source.component, component.source.age_s)
            for component in self.observation
            if isinstance(component.source, ObservationHistorySource)
        ]

    def history_columns(self) -> list[tuple[int, int, float]]:
        """(observation index, action component, age in seconds) of the past commands."""
        return [
            (component.index, component.source.component, component.source.age_s)
            for component in self.observation
            if isinstance(component.source, CommandHistorySource)
        ]

    def extended(self, observations: int = 0, commands: int = 0, prefix: int = 0) -> PolicySpec:
        """This spec plus past ``observations`` and ``commands``, a control step apart, and a committed ``prefix``."""
        components = list(self.observation)

        def add(name: str, source: Source, like: ObservationComponent | ActionComponent) -> None:
            shared = like.model_dump(include={"unit", "lower", "upper", "centre", "scale"})
            components.append(ObservationComponent(name=name, index=len(components), source=source, **shared))

        for ago in range(1, observations + 1):
            for index in self.sensor_indices():
                earlier = ObservationHistorySource(component=index, age_s=ago * self.step_s)
                add(f"past_{ago}_{self.observation[index].name}", earlier, self.observation[index])
        for ago in range(1, commands + 1):
            for action in self.action:
                past = CommandHistorySource(component=action.index, age_s=ago * self.step_s)
                add(f"past_{ago}_{action.name}", past, action)
        for step in range(prefix):
            for action in self.action:
                add(f"committed_{step}_{action.name}", ActionPrefixSource(component=action.index, step=step), action)
        if prefix:
            components.append(
                ObservationComponent(
                    name="committed_actions",
                    unit="1",
                    index=len(components),
                    source=ActionPrefixLengthSource(),
                    lower=-0.5,
                    upper=prefix + 0.5,
                )
            )
        return PolicySpec.model_validate({**self.model_dump(), "observation": [c.model_dump() for c in components]})

    @property
    def obs_dim(self) -> int:
        """Length of the observation vector."""
        return len(self.observation)

    @property
    def act_dim(self) -> int:
        """Length of one action."""
        return len(self.action)

    @property
    def step_s(self) -> float:
        """Seconds between two actions of a chunk."""
        return 1.0 / self.control_rate_hz

    def observation_normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale, each (obs_dim,) float32."""
        return _column(self.observation, "centre"), _column(self.observation, "scale")

    def action_normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale, each (act_dim,) float32."""
        return _column(self.action, "centre"), _column(self.action, "scale")

    def action_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limit, each (act_dim,) float64."""
        return _column(self.action, "lower", np.float64), _column(self.action, "upper", np.float64)


def _column(components: tuple[Any, ...], name: str, dtype: type = np.float32) -> np.ndarray:
    return np.array([getattr(component, name) for component in components], dtype=dtype)


def from_schema_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """A spec of schema 1 (one twist, a planar workspace that every pose is in) as one of schema 2."""
    frame = content["workspace"]["frame"]
    observation = []
    for component in content["observation"]:
        source = component["source"]
        if source.get("type") == "geometry_msgs/msg/PoseStamped":
            source = {**source, "frame": frame}
        observation.append({**component, "source": source})
    group = {
        "name": "tool",
        "kind": "twist",
        "components": list(content["action"]),
        "output": {"topic": "~/command", "type": TWIST, "frame": frame},
        "on_hold": "zero",
    }
    rest = {key: value for key, value in content.items() if key != "action"}
    return {**rest, "observation": observation, "action_groups": [group]}


def load_spec(path: Path) -> PolicySpec:
    """A spec from a JSON or YAML file of schema 2, or of schema 1, which is migrated.

    Raises:
        SpecError: the file is missing or wrong; the message lists every field that is.
    """
    try:
        content = yaml.safe_load(path.read_text())
        if isinstance(content, dict) and "action" in content and "action_groups" not in content:
            content = from_schema_1(content)
        return PolicySpec.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: no readable spec: {error}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        raise SpecError(f"{path}: {'; '.join(all_problems(error))}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: a spec of schema 1 that lacks {error}") from None
