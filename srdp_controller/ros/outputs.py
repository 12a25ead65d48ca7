"""The commands that the loop publishes: one message an action group."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any, Protocol

from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message

from srdp_controller.commands import output_fields, output_joints, output_type
from srdp_controller.messages import MessageWriter, known_class
from srdp_controller.observation import NEVER_NS
from srdp_controller.ros.inputs import SENTINELS, STAMP, STAMP_AT
from srdp_controller.spec import ARRAY, JOG, TRAJECTORY, ActionGroup, PolicySpec


class _Message(Protocol):
    """Commands of one group, ready to be published."""

    type: Any

    def of(self, command: Sequence[float], following: Sequence[Sequence[float]], stamp_ns: int) -> Any:
        """The message, or its bytes, of a command (components,) and the time of its observation [ns]."""


class CommandMessage:
    """One command a message: bytes, or, where those cannot be written in place, one message used again."""

    def __init__(self, group: ActionGroup, as_array: bool = False, serialized: bool = True) -> None:
        kind = output_type(group, as_array)
        self._writer = MessageWriter(kind, output_fields(group, as_array), group.output.frame)
        self.type: Any = self._writer.type
        self._stamped = kind != ARRAY
        message = self._writer.message([0.0] * len(group.components), 0)
        if kind == ARRAY:
            dimension = known_class("std_msgs/msg/MultiArrayDimension")
            message.layout.dim = [
                dimension(label=f"{component.name} [{component.unit}]", size=1, stride=1)
                for component in group.components
            ]
        elif kind == JOG:
            message.joint_names = output_joints(group)
        self._buffer = bytearray()
        if serialized:
            self._learn(len(group.components))

    def _learn(self, count: int) -> None:
        """Find the places of the numbers in the library's bytes; whatever it does not read back is not used."""
        marks = SENTINELS[:count]
        template = serialize_message(self._writer.message(marks, 0))
        self._places = [template.find(struct.pack("=d", mark)) for mark in marks]
        if min(self._places) < 0 or len(marks) < count:
            return
        self._buffer = bytearray(template)
        trial, stamp_ns = [-mark for mark in marks], 1_000_000_007
        if deserialize_message(self._written(trial, stamp_ns), self.type) != self._writer.message(trial, stamp_ns):
            self._buffer = bytearray()

    def of(self, command: Sequence[float], following: Sequence[Sequence[float]], stamp_ns: int) -> Any:
        """The message, or its bytes, of a command (components,) in SI units and the time of its observation [ns]."""
        return self._written(command, stamp_ns) if self._buffer else self._writer.message(command, stamp_ns)

    def _written(self, command: Sequence[float], stamp_ns: int) -> bytes:
        buffer = self._buffer
        if self._stamped:
            STAMP.pack_into(buffer, STAMP_AT, *divmod(stamp_ns, 1_000_000_000))
        for place, value in zip(self._places, command, strict=True):
            struct.pack_into("=d", buffer, place, value)
        return bytes(buffer)


class TrajectoryMessage:
    """A command and those that follow it as a JointTrajectory of positions, one point a chunk step.

    The first point is due one step from now, the time that a command has to be reached in, so that every point lies
    in the future when it arrives; without velocities ros2_controllers' joint_trajectory_controller comes to rest at
    the last.
    """

    def __init__(self, group: ActionGroup, step_s: float) -> None:
        self.type: Any = known_class(TRAJECTORY)
        self._point = known_class("trajectory_msgs/msg/JointTrajectoryPoint")
        self._joints = output_joints(group)
        self._frame = group.output.frame
        self._step_ns = round(step_s * 1e9)

    def of(self, command: Sequence[float], following: Sequence[Sequence[float]], stamp_ns: int) -> Any:
        """The message of positions (components,), those due later, and the time of the observation [ns]; 0: now."""
        message = self.type(joint_names=self._joints)
        message.header.frame_id = self._frame
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        passed_ns = max(0, time.time_ns() - stamp_ns) if stamp_ns else 0
        for number, positions in enumerate((command, *following), start=1):
            point = self._point(positions=list(positions))
            since_ns = passed_ns + number * self._step_ns
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(since_ns, 1_000_000_000)
            message.points.append(point)
        return message


class Outputs:
    """The publishers of a spec's action groups.

    Args:
        node: what publishes; topics ``~/...`` lie below its name.
        spec: names the groups, their topics and types.
        as_array: a Float64MultiArray in the place of every TwistStamped.
        serialized: bytes are published where they can be written in place.
        topics: one a group, in the place of the spec's.

    Raises:
        SrdpError: a message type is not installed.
    """

    def __init__(
        self,
        node: Node,
        spec: PolicySpec,
        *,
        as_array: bool = False,
        serialized: bool = True,
        topics: Sequence[str] = (),
    ) -> None:
        self._node = node
        self._outputs: list[tuple[Any, _Message, slice]] = []
        for number, (group, where) in enumerate(spec.group_slices()):
            message: _Message
            if group.output.type == TRAJECTORY:
                message = TrajectoryMessage(group, spec.step_s)
            else:
                message = CommandMessage(group, as_array, serialized)
            publisher = node.create_publisher(message.type, topics[number] if topics else group.output.topic, 1)
            self._outputs.append((publisher, message, where))

    def publish(self, command: Sequence[float], following: Sequence[Sequence[float]], measured_ns: int) -> None:
        """Publish a command (act_dim,) in SI units.

        Args:
            command: of all groups.
            following: the next commands, one a chunk step; only a JointTrajectory carries them.
            measured_ns: when its observation was measured (monotonic): the messages' stamp; ``NEVER_NS``: stamp 0.
        """
        stamp_ns = 0 if measured_ns == NEVER_NS else time.time_ns() - (time.monotonic_ns() - measured_ns)
        for publisher, message, where in self._outputs:
            publisher.publish(message.of(command[where], [later[where] for later in following], stamp_ns))

    @property
    def topics(self) -> list[str]:
        """What the groups' topics are called after remapping."""
        return [publisher.topic_name for publisher, _, _ in self._outputs]

    def close(self) -> None:
        """Take the publishers down."""
        for publisher, _, _ in self._outputs:
            self._node.destroy_publisher(publisher)
        self._outputs = []
