"""The command that the loop publishes, as a TwistStamped or as a Float64MultiArray."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from geometry_msgs.msg import TwistStamped
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from srdp_controller.ros.serialized import SENTINELS, STAMP, STAMP_AT
from srdp_controller.spec import PolicySpec

Fill = Callable[[Any, Sequence[float]], None]


def array_message(spec: PolicySpec) -> tuple[Any, Fill]:
    """A Float64MultiArray for the spec's actions, and how to put one into it."""
    message = Float64MultiArray()
    message.layout.dim = [
        MultiArrayDimension(label=f"{component.name} [{component.unit}]", size=1, stride=1) for component in spec.action
    ]

    def fill(message: Any, action: Sequence[float]) -> None:
        message.data = action

    return message, fill


def twist_message(spec: PolicySpec) -> tuple[Any, Fill]:
    """A TwistStamped in the workspace's frame for the spec's actions, and how to put one into it."""
    message = TwistStamped()
    message.header.frame_id = spec.workspace.frame
    targets = [component.field.split(".")[1:] for component in spec.action]

    def fill(message: Any, action: Sequence[float]) -> None:
        for (group, axis), value in zip(targets, action, strict=True):
            setattr(getattr(message.twist, group), axis, value)

    return message, fill


class CommandMessage:
    """Commands ready to be published: bytes, or, where those cannot be written in place, one message used again."""

    def __init__(self, spec: PolicySpec, as_array: bool, serialized: bool = True) -> None:
        self._message, self._fill = array_message(spec) if as_array else twist_message(spec)
        self.type: Any = type(self._message)
        self._stamped = not as_array
        self._buffer = bytearray()
        if serialized:
            self._learn(spec.act_dim)

    def _learn(self, count: int) -> None:
        """Find the places of the numbers in the library's bytes; whatever it does not read back is not used."""
        marks = SENTINELS[:count]
        self._fill(self._message, marks)
        template = serialize_message(self._message)
        self._places = [template.find(struct.pack("=d", mark)) for mark in marks]
        if min(self._places) < 0:
            return
        self._buffer = bytearray(template)
        trial, stamp_ns = [-mark for mark in marks], 1_000_000_007
        written = deserialize_message(self._written(trial, stamp_ns), self.type)
        if written != self._converted(trial, stamp_ns):
            self._buffer = bytearray()

    def of(self, action: Sequence[float], stamp_ns: int) -> Any:
        """The message, or its bytes, of an action (act_dim,) in SI units and the time of its observation [ns]."""
        return self._written(action, stamp_ns) if self._buffer else self._converted(action, stamp_ns)

    def _written(self, action: Sequence[float], stamp_ns: int) -> bytes:
        buffer = self._buffer
        if self._stamped:
            STAMP.pack_into(buffer, STAMP_AT, *divmod(stamp_ns, 1_000_000_000))
        for place, value in zip(self._places, action, strict=True):
            struct.pack_into("=d", buffer, place, value)
        return bytes(buffer)

    def _converted(self, action: Sequence[float], stamp_ns: int) -> Any:
        message = self._message
        if self._stamped:
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        self._fill(message, action)
        return message
