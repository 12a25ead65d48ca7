"""Subscriptions that the loop takes itself: no executor, no callback, no waiting.

The executor never sees them (their callback group is never ready), so no other thread holds the
interpreter lock to convert their messages while a cycle is due.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any, Protocol

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


class NeverReady(CallbackGroup):
    """A callback group that no executor ever serves."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


LATEST = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
LATCHED = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Subscription(Protocol):
    """A topic's newest message, on demand."""

    handle: Any

    def __init__(self, node: Node, message_type: Any, topic: str, qos: QoSProfile = LATEST) -> None: ...

    def take(self) -> tuple[Any, int] | None:
        """The newest message and when the middleware received it (system clock, ns), or None."""

    def close(self) -> None:
        """Leave the topic."""


class DirectSubscription:
    """Newest message of a topic, taken on demand by the thread that needs it."""

    _serialized = False

    def __init__(self, node: Node, message_type: Any, topic: str, qos: QoSProfile = LATEST) -> None:
        self._type = message_type
        self.handle = node.create_subscription(
            message_type, topic, lambda message: None, qos, callback_group=NeverReady()
        )
        # an executor that is driven by events takes messages without asking the group: it must not know of this one
        node._subscriptions.remove(self.handle)
        self._taking = self.handle.handle

    def close(self) -> None:
        """Leave the topic."""
        self.handle.destroy()

    def take(self) -> tuple[Any, int] | None:
        """The newest message and when the middleware received it (system clock, ns), or None."""
        newest = None
        while True:
            taken = self._taking.take_message(self._type, self._serialized)
            if taken is None:
                return newest
            message, info = taken
            newest = (message, info["received_timestamp"])


class SerializedSubscription(DirectSubscription):
    """As ``DirectSubscription``, but its messages stay the bytes that came."""

    _serialized = True


Extract = Callable[[Any], list[float]]


TWO_TURNS_RAD = 4.0 * math.pi


def extractor(
    type_name: str, fields: list[str], frame: str, chain_joints: Container[str] = ()
) -> tuple[Any, Extract, Callable[[Any], str | None]]:
    """Message class, values of ``fields`` of a message in order, and a check of its shape, unit and frame.

    The check returns None or what is wrong with the message (a joint that is missing, say, angles that can
    only be degrees, or a pose in another frame than ``frame``; a pose without a frame is taken to be in it).
    ``chain_joints`` are those of a kinematic chain, whose angles no limit of the observation sees.
    """
    if type_name == "sensor_msgs/msg/JointState":
        from sensor_msgs.msg import JointState

        names = [field[field.index("[") + 1 : -1] for field in fields]
        arrays = [field[: field.index("[")] for field in fields]
        order: dict[tuple[str, ...], list[int]] = {}

        def joint_values(message: Any) -> list[float]:
            key = tuple(message.name)
            index = order.get(key)
            if index is None:
                index = order[key] = [key.index(name) for name in names]
            position, velocity = message.position, message.velocity
            return [(position if array == "position" else velocity)[i] for array, i in zip(arrays, index, strict=True)]

        def joint_check(message: Any) -> str | None:
            known = set(message.name)
            missing = [name for name in names if name not in known]
            if missing:
                return f"joint {missing[0]!r} is not in the message (it has {len(known)} joints)"
            if len(message.position) != len(message.name):
                return f"{len(message.position)} positions for {len(message.name)} joints"
            for name, value in zip(message.name, message.position, strict=True):
                if name in chain_joints and TWO_TURNS_RAD < abs(value) < math.inf:
                    return f"joint {name!r} at {value:.4g} rad is beyond two turns: are these degrees?"
            return None

        return JointState, joint_values, joint_check
    from geometry_msgs.msg import PoseStamped

    paths = [field.split(".") for field in fields]

    def pose_values(message: Any) -> list[float]:
        values = []
        for path in paths:
            value = message
            for part in path:
                value = getattr(value, part)
            values.append(value)
        return values

    def pose_check(message: Any) -> str | None:
        given = message.header.frame_id
        if given and given != frame:
            return f"its frame is {given!r}, the bundle's is {frame!r}; publish it in that frame"
        return None

    return PoseStamped, pose_values, pose_check
