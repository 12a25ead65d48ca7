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
import math
import operator
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from srdp_controller.errors import SrdpError

NUMBERS = ("float", "double", "boolean", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_ARRAYS = {"position": "positions", "velocity": "velocities", "effort": "efforts"}  # and their plurals
TWO_TURNS_RAD = 4.0 * math.pi
ORDERS = 8  # orders of a JointState's joints that are remembered: senders that shuffle them cost time, not memory
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


def parse_path(path: str) -> list[tuple[str, str | None]]:
    """(field, what stands in its brackets) of each step.

    Raises:
        ValueError: it is not well formed.
    """
    steps = []
    for part in re.split(r"\.(?![^\[]*\])", path):  # at dots that stand in no bracket: a joint's name may hold dots
        match = STEP.fullmatch(part)
        if match is None:
            raise ValueError(f"field {path!r} is not of the form a.b, a[3] or a[name]")
        steps.append((match[1], match[2]))
    return steps


@functools.cache
def check_path(type_name: str, path: str) -> str | None:
    """What is wrong with a path to a number in a message, naming what there is; None where nothing is.

    Where the message's package is not installed only the path's form is checked.
    """
    try:
        steps = parse_path(path)
    except ValueError as error:
        return str(error)
    kind = message_class(type_name)
    if kind is None:
        return f"there is no message type {type_name}" if package_installed(type_name) else None
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


Getter = Callable[[Any], Any]


def _getter(path: str) -> tuple[Getter, list[tuple[str, Getter, int]]]:
    """What reads a path, and every array on it: its name, what reads it, and the index that is read."""
    getters: list[Getter] = []
    arrays: list[tuple[str, Getter, int]] = []
    for name, bracket in parse_path(path):
        getters.append(operator.attrgetter(name))
        if bracket is not None:
            arrays.append((name, _chained(*getters), int(bracket)))
            getters.append(operator.itemgetter(int(bracket)))
    return _chained(*getters), arrays


def _chained(*getters: Getter) -> Getter:
    def get(message: Any) -> Any:
        for getter in getters:
            message = getter(message)
        return message

    return get


def _joint_entry(type_name: str, path: str) -> tuple[str, str] | None:
    """(array, joint) where the path is an entry of a JointState's array; None for any other path."""
    array, joint = parse_path(path)[0]
    return (array, joint) if type_name == JOINT_STATE and array in JOINT_ARRAYS and joint is not None else None


def known_class(type_name: str) -> Any:
    """As ``message_class``.

    Raises:
        SrdpError: the message's package is not installed, or has no such message.
    """
    kind = message_class(type_name)
    if kind is None:
        package = type_name.partition("/")[0]
        raise SrdpError(f"message type {type_name} is not here; install or source the ROS 2 package {package}")
    return kind


class Extractor:
    """Reads the numbers at ``fields``, in their order, from messages of one type, and says what is wrong with one.

    Args:
        type_name: e.g. ``sensor_msgs/msg/JointState``.
        fields: paths of numbers (see the module's text); JointState arrays by the joint's name.
        frame: a message whose header names another frame is refused, one without a frame is taken to be in it; empty:
            any frame.
        chain_joints: joints of a kinematic chain: no limit of the observation sees their angles, so angles that can
            only be degrees are refused here.
        stamped: whether the messages begin with a header, for messages that were decoded without their class; None:
            the class tells, which must be installed.

    Raises:
        SrdpError: the type is not installed, or a path leads to no number in it.
    """

    def __init__(
        self,
        type_name: str,
        fields: Sequence[str],
        frame: str = "",
        chain_joints: Collection[str] = (),
        stamped: bool | None = None,
    ) -> None:
        self.type: Any = known_class(type_name) if stamped is None else message_class(type_name)
        wrong = next((text for text in (check_path(type_name, path) for path in fields) if text is not None), None)
        if wrong is not None:
            raise SrdpError(f"{type_name}: {wrong}")
        self.fields = list(fields)
        self.chain_joints = frozenset(chain_joints)
        if stamped is None:
            stamped = self.type.get_fields_and_field_types().get("header") == "std_msgs/Header"
        self.stamped = stamped
        self._frame = frame if self.stamped else ""
        self._joints: list[tuple[int, str, str]] = []  # place among the values, array, joint
        self._others: list[tuple[int, Getter]] = []
        self._arrays: list[tuple[str, Getter, int]] = []
        for place, path in enumerate(self.fields):
            entry = _joint_entry(type_name, path)
            if entry is not None:
                self._joints.append((place, *entry))
                continue
            getter, arrays = _getter(path)
            self._others.append((place, getter))
            self._arrays += arrays
        self._orders: dict[tuple[str, ...], list[int] | str] = {}
        plain = [path for path in self.fields if "[" not in path]
        self._plain = operator.attrgetter(*plain) if len(plain) == len(self.fields) > 1 else None

    def values(self, message: Any) -> list[float]:
        """The numbers, in the order of ``fields``, of a message that ``check`` accepts."""
        if self._plain is not None:
            return list(map(float, self._plain(message)))
        values = [0.0] * len(self.fields)
        if self._joints:
            order = self._order(message)
            for (place, array, _), index in zip(self._joints, order, strict=False):
                values[place] = getattr(message, array)[index]
        for place, getter in self._others:
            values[place] = float(getter(message))
        return values

    def check(self, message: Any) -> str | None:
        """None, or what is wrong with the message (a joint that is missing, say, or another frame)."""
        if self._frame:
            given = message.header.frame_id
            if given and given != self._frame:
                return f"its frame is {given!r}, the bundle's is {self._frame!r}; publish it in that frame"
        for name, getter, index in self._arrays:
            size = len(getter(message))
            if index >= size:
                return f"{name}[{index}] is not in the message ({name} has {size} entries)"
        if not self._joints:
            return None
        order = self._order(message)
        if isinstance(order, str):
            return order
        many = len(message.name)
        for (_, array, joint), index in zip(self._joints, order, strict=True):
            values = getattr(message, array)
            if len(values) != many:
                return f"{len(values)} {JOINT_ARRAYS[array]} for {many} joints"
            if array == "position" and joint in self.chain_joints and TWO_TURNS_RAD < abs(values[index]) < math.inf:
                return f"joint {joint!r} at {values[index]:.4g} rad is beyond two turns: are these degrees?"
        return None

    def stamp_ns(self, message: Any) -> int | None:
        """The header's stamp [ns]; None where the type has no header."""
        if not self.stamped:
            return None
        stamp = message.header.stamp
        return int(stamp.sec * 1_000_000_000 + stamp.nanosec)

    def _order(self, message: Any) -> list[int] | str:
        """Where each joint stands in this sender's arrays, or which joint does not."""
        names = tuple(message.name)
        order = self._orders.get(names)
        if order is None:
            missing = next((joint for _, _, joint in self._joints if joint not in names), None)
            if missing is None:
                order = [names.index(joint) for _, _, joint in self._joints]
            else:
                order = f"joint {missing!r} is not in the message (it has {len(names)} joints)"
            if len(self._orders) < ORDERS:
                self._orders[names] = order
        return order


class MessageWriter:
    """Writes numbers to ``fields`` of one message of a type, which is used again and again.

    Arrays are as long as the greatest index needs. A JointState has the joints that ``fields`` name, in that order;
    an entry of its arrays that no field names is NaN.

    Raises:
        SrdpError: the type is not installed, or a path leads to no number in it.
    """

    def __init__(self, type_name: str, fields: Sequence[str], frame: str = "") -> None:
        reader = Extractor(type_name, fields)
        self.type = reader.type
        self._message = self.type()
        self._stamp = self._message.header.stamp if reader.stamped else None
        if reader.stamped:
            self._message.header.frame_id = frame
        entries = [_joint_entry(type_name, path) for path in fields]
        joints = list(dict.fromkeys(entry[1] for entry in entries if entry is not None))
        if joints:
            self._message.name = joints
        for array in {entry[0] for entry in entries if entry is not None}:
            setattr(self._message, array, [math.nan] * len(joints))
        self._places = [
            self._place([(entry[0], str(joints.index(entry[1])))] if entry else parse_path(path))
            for path, entry in zip(fields, entries, strict=True)
        ]

    def _place(self, steps: list[tuple[str, str | None]]) -> tuple[Callable[[Any, Any, Any], None], Any, Any, type]:
        """How a number is written, into what, where in it, and as what."""
        following = self._message
        for name, bracket in steps:
            write: Callable[[Any, Any, Any], None] = setattr
            inside: Any = following
            where: Any = name
            inner = inside.get_fields_and_field_types()[name]
            convert = float if "float" in inner or "double" in inner else int
            following = getattr(inside, name)
            if bracket is not None:
                write, inside, where = operator.setitem, following, int(bracket)
                while len(inside) <= where:
                    kind = re.sub(r"sequence<(.+?)(, \d+)?>", r"\1", inner)
                    inside.append(known_class(kind.replace("/", "/msg/", 1))() if "/" in kind else convert(0))
                following = inside[where]
        return write, inside, where, convert

    def message(self, values: Sequence[float], stamp_ns: int) -> Any:
        """The one message, with ``values`` at the fields and the stamp [ns] in its header, if it has one."""
        if self._stamp is not None:
            self._stamp.sec, self._stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        for (write, inside, where, convert), value in zip(self._places, values, strict=True):
            write(inside, where, float(value) if convert is float else round(value))
        return self._message
