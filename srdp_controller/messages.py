"""ROS 2 message classes by name, and numeric fields of messages by path. No rclpy: only message packages.

A path is dots and brackets: ``pose.position.x``, ``data[4]``, ``position[joint_3]`` (of a JointState: the entry of
the joint of that name). It is checked against the message class when a spec is loaded, wherever the message's
package is installed; where it is not (a training machine without ROS), the controller node checks it when it is
configured.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from typing import Any

NUMBERS = ("float", "double", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "octet")
JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_ARRAYS = ("position", "velocity", "effort")
STEP = re.compile(r"([A-Za-z]\w*)(?:\[([^\[\]]+)\])?")


@functools.cache
def message_class(type_name: str) -> Any:
    """The class of a message type such as ``geometry_msgs/msg/PoseStamped``; None where its package is missing."""
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


def package_installed(type_name: str) -> bool:
    """Whether the message's package is here, so that its fields can be known."""
    try:
        importlib.import_module(f"{type_name.partition('/msg/')[0]}.msg")
    except ImportError:
        return False
    return True


def parse_path(path: str) -> list[tuple[str, str | None]] | None:
    """(field, what stands in its brackets) of each step; None where the path is not well formed."""
    steps = []
    for part in _split(path):
        match = STEP.fullmatch(part)
        if match is None:
            return None
        steps.append((match[1], match[2]))
    return steps or None


def _split(path: str) -> list[str]:
    """Split at dots that stand in no bracket: a joint's name may hold dots."""
    return re.split(r"\.(?![^\[]*\])", path)


@functools.cache
def check_path(type_name: str, path: str) -> str | None:
    """What is wrong with a path to a number in a message, naming what there is; None where nothing is.

    Where the message's package is not installed only the path's form is checked.
    """
    steps = parse_path(path)
    if steps is None:
        return f"field {path!r} is not of the form a.b, a[3] or a[name]"
    if not package_installed(type_name):
        return None
    kind = message_class(type_name)
    if kind is None:
        return f"there is no message type {type_name}"
    for place, (name, bracket) in enumerate(steps):
        known = kind.get_fields_and_field_types()
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f"; did you mean {near[0]}?" if near else ""
            return f"field {path!r}: {kind.__name__} has no {name!r}, it has {', '.join(known)}{guess}"
        inner = known[name]
        sequence = re.fullmatch(r"sequence<(.+?)(?:, \d+)?>|(.+)\[(\d+)\]", inner)
        if sequence is not None:
            inner, size = sequence[1] or sequence[2], sequence[3]
            joints = type_name == JOINT_STATE and name in JOINT_ARRAYS
            if bracket is None:
                return f"field {path!r}: {name} is an array; name one entry, e.g. {name}[{'joint_1' if joints else 0}]"
            if not joints and not bracket.isdigit():
                return f"field {path!r}: {bracket!r} is no index of the array {name}"
            if size is not None and int(bracket) >= int(size):
                return f"field {path!r}: {name} has {size} entries"
        elif bracket is not None:
            return f"field {path!r}: {name} is no array"
        last = place == len(steps) - 1
        if "/" not in inner:
            if not last:
                return f"field {path!r}: {name} is a {inner}, it has no fields"
            return None if inner.startswith(NUMBERS) else f"field {path!r}: {name} is a {inner}, not a number"
        if last:
            inside = message_class(inner.replace("/", "/msg/", 1)).get_fields_and_field_types()
            return f"field {path!r}: {name} is a {inner}; name one of its numbers: {', '.join(inside)}"
        kind = message_class(inner.replace("/", "/msg/", 1))
    return None
