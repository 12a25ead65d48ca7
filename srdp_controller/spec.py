"""``PolicySpec``: what a policy observes and commands, by name, unit, source, limits and scale.

The spec is the contract between the offline side (which trains in it), the bundle (which carries
it) and the robot (whose topics it names). Everything is in SI units.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from srdp_controller.kinematics import KinematicChain


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


FIELD_UNITS = {
    "position[": ("rad", "m"),
    "velocity[": ("rad/s", "m/s"),
    "effort[": ("N m", "N"),
    "pose.position.": ("m",),
    "pose.orientation.": ("1",),
}


class TopicSource(_Model):
    """One field of a ROS message."""

    kind: Literal["topic"] = "topic"
    topic: str
    type: Literal["sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped"]
    field: str = Field(description="dotted path, e.g. pose.position.x, or position[joint_name]")
    default: float | None = Field(
        default=None,
        description="value used until a first message arrives; a topic whose components all have "
        "one is optional and never counts as stale (a fixture's pose, for example)",
    )


class KinematicsSource(_Model):
    """A coordinate of the tool centre point, computed from a JointState topic by a chain."""

    kind: Literal["kinematics"] = "kinematics"
    topic: str
    type: Literal["sensor_msgs/msg/JointState"] = "sensor_msgs/msg/JointState"
    chain: str
    axis: Literal["x", "y", "z"]


class CommandHistorySource(_Model):
    """The controller itself: the command that was in force ``age_s`` seconds ago."""

    kind: Literal["command_history"] = "command_history"
    component: int = Field(ge=0)
    age_s: float = Field(gt=0.0)


class ObservationHistorySource(_Model):
    """The controller itself: what another component of the observation was ``age_s`` seconds ago."""

    kind: Literal["observation_history"] = "observation_history"
    component: int = Field(ge=0, description="index of the component, which a sensor fills")
    age_s: float = Field(gt=0.0)


class ActionPrefixSource(_Model):
    """The controller itself: an action already committed, ``step`` steps of the chunk ahead."""

    kind: Literal["action_prefix"] = "action_prefix"
    component: int = Field(ge=0)
    step: int = Field(ge=0)


class ActionPrefixLengthSource(_Model):
    """The controller itself: how many of the ``action_prefix`` entries are committed (0: none)."""

    kind: Literal["action_prefix_length"] = "action_prefix_length"


Source = Annotated[
    TopicSource
    | KinematicsSource
    | ObservationHistorySource
    | CommandHistorySource
    | ActionPrefixSource
    | ActionPrefixLengthSource,
    Field(discriminator="kind"),
]


class ObservationComponent(_Model):
    """One entry of the observation vector."""

    name: str
    unit: str
    index: int = Field(ge=0)
    source: Source
    lower: float = Field(description="a value below is a fault of the sensor, not a state")
    upper: float
    centre: float = Field(description="subtracted before the network")
    scale: float = Field(gt=0.0, description="divided by before the network")


class ActionComponent(_Model):
    """One entry of the action vector; ``field`` is where it goes in geometry_msgs/TwistStamped."""

    name: str
    unit: str
    index: int = Field(ge=0)
    field: Literal[
        "twist.linear.x",
        "twist.linear.y",
        "twist.linear.z",
        "twist.angular.x",
        "twist.angular.y",
        "twist.angular.z",
    ]
    lower: float
    upper: float
    centre: float
    scale: float = Field(gt=0.0)


class Workspace(_Model):
    """Rectangle of the task frame that the tool centre point must not leave [m]."""

    frame: str
    lower: tuple[float, float]
    upper: tuple[float, float]
    position_observations: tuple[str, str] = Field(
        description="names of the two observation components that measure the tool centre point"
    )


class PolicySpec(_Model):
    """Observation (obs_dim,), action chunk (horizon, act_dim) and how both meet the robot."""

    task: str
    observation: tuple[ObservationComponent, ...] = Field(min_length=1)
    action: tuple[ActionComponent, ...] = Field(min_length=1)
    horizon: int = Field(ge=1, description="actions in one chunk")
    control_rate_hz: float = Field(gt=0.0, description="rate at which the chunk's actions follow each other")
    workspace: Workspace
    kinematics: dict[str, KinematicChain] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> PolicySpec:
        for kind, components in (("observation", self.observation), ("action", self.action)):
            if [component.index for component in components] != list(range(len(components))):
                raise ValueError(f"{kind} indices must be 0, 1, 2, ... in order")
            names = [component.name for component in components]
            if len(set(names)) != len(names):
                raise ValueError(f"{kind} names must differ: {names}")
            for component in components:
                if not component.lower < component.upper:
                    raise ValueError(f"{kind} {component.name}: lower must be below upper")
        known = {component.name for component in self.observation}
        for name in self.workspace.position_observations:
            if name not in known:
                raise ValueError(f"workspace.position_observations: no observation named {name!r}")
        for component in self.observation:
            source = component.source
            if isinstance(source, KinematicsSource) and source.chain not in self.kinematics:
                raise ValueError(f"observation {component.name}: no kinematic chain {source.chain!r}")
            if isinstance(source, CommandHistorySource | ActionPrefixSource) and source.component >= len(self.action):
                raise ValueError(f"observation {component.name}: no action component {source.component}")
            if isinstance(source, ObservationHistorySource) and source.component not in self.sensor_indices():
                raise ValueError(f"observation {component.name}: component {source.component} is filled by no sensor")
        self._check_units()
        self._check_prefix()
        return self

    def _check_units(self) -> None:
        """ROS messages carry no units but have them all the same (REP 103): nothing else can be meant."""
        for component in self.observation:
            source = component.source
            if isinstance(source, TopicSource):
                allowed = next((units for field, units in FIELD_UNITS.items() if source.field.startswith(field)), None)
            else:
                allowed = ("m",) if isinstance(source, KinematicsSource) else None
            if allowed is not None and component.unit not in allowed:
                raise ValueError(
                    f"observation {component.name}: unit {component.unit!r}; its source is in {' or '.join(allowed)}"
                )
        for action in self.action:
            unit = "m/s" if ".linear." in action.field else "rad/s"
            if action.unit != unit:
                raise ValueError(f"action {action.name}: unit {action.unit!r}; {action.field} is in {unit}")

    def _check_prefix(self) -> None:
        columns = self.prefix_columns()
        lengths = [c for c in self.observation if isinstance(c.source, ActionPrefixLengthSource)]
        if not columns and not lengths:
            return
        if len(lengths) != 1 or not columns:
            raise ValueError("an action prefix needs action_prefix components and one action_prefix_length")
        steps = len(columns) // len(self.action)
        wanted = {(step, component) for step in range(steps) for component in range(len(self.action))}
        if set(columns) != wanted or steps >= self.horizon:
            raise ValueError("action_prefix components must be whole actions 0, 1, ... and fewer than the horizon")
        if (lengths[0].centre, lengths[0].scale) != (0.0, 1.0):
            raise ValueError(f"observation {lengths[0].name}: an action_prefix_length has centre 0 and scale 1")
        for (_, number), index in columns.items():
            prefix, action = self.observation[index], self.action[number]
            if (prefix.centre, prefix.scale) != (action.centre, action.scale):
                raise ValueError(f"observation {prefix.name}: centre and scale must be those of action {action.name}")

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
        for component in self.observation:
            if isinstance(component.source, ActionPrefixLengthSource):
                return component.index
        return None

    @property
    def prefix_steps(self) -> int:
        """Most committed actions that a chunk can be conditioned on."""
        return len(self.prefix_columns()) // len(self.action)

    def sensor_indices(self) -> list[int]:
        """Observation indices that sensors fill; the rest are the controller's own commands."""
        sensors = TopicSource | KinematicsSource
        return [component.index for component in self.observation if isinstance(component.source, sensors)]

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
                    centre=0.0,
                    scale=1.0,
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
        return (
            np.array([component.centre for component in self.observation], dtype=np.float32),
            np.array([component.scale for component in self.observation], dtype=np.float32),
        )

    def action_normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre and scale, each (act_dim,) float32."""
        return (
            np.array([component.centre for component in self.action], dtype=np.float32),
            np.array([component.scale for component in self.action], dtype=np.float32),
        )

    def action_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limit, each (act_dim,) float64."""
        return (
            np.array([component.lower for component in self.action], dtype=np.float64),
            np.array([component.upper for component in self.action], dtype=np.float64),
        )
