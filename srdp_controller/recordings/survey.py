"""What a bag holds: every number of every topic, with its rate, range and gaps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import DatasetError
from srdp_controller.messages import JOINT_ARRAYS
from srdp_controller.recordings.mcap_file import damage_named, decoders, is_stamped, open_bag, ros_name
from srdp_controller.recordings.streams import EPISODE_TOPIC, Stream
from srdp_controller.spec import ARRAY, JOG, TRAJECTORY, TWIST

DESCRIPTION_TOPIC = "/robot_description"
LARGEST_MESSAGE = 65_536  # bytes: images and point clouds hold no state that a vector could take
WIDEST = 64  # numbers of a message: more are a map, an image or covariances
IGNORED = re.compile(r"^/(rosout|parameter_events|clock|diagnostics.*|tf|tf_static|robot_description|episode)$")
COMMAND_NAME = re.compile(r"(command|cmd|reference|setpoint|target|joint_trajectory|servo)", re.IGNORECASE)
CONSTANT = 1e-9  # of a column's size


@dataclass
class TopicSurvey:
    """One topic's numbers over all bags: ``values`` (n, fields) at ``times`` [s], NaN where a message lacks one."""

    topic: str
    type: str
    stamped: bool
    frame: str = ""
    fields: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of arrival
    measured: list[float] = field(default_factory=list)  # by the stamp; of arrival where there is none
    rows: list[list[float]] = field(default_factory=list)
    left_out: str = ""  # why nothing of it was read

    @property
    def rate_hz(self) -> float:
        """Messages a second, of the median pause."""
        pauses = np.diff(self.times)
        pauses = pauses[pauses > 0.0]
        return float(1.0 / np.median(pauses)) if len(pauses) else 0.0

    def column(self, path: str) -> np.ndarray:
        """The values (n,) of one field."""
        return np.array([row[self.fields.index(path)] for row in self.rows])

    def constant(self, path: str) -> bool:
        """Whether a field never changes."""
        values = self.column(path)
        return bool(np.ptp(values) <= CONSTANT * max(1.0, float(np.abs(values).max())))


def looks_like_commands(one: TopicSurvey) -> bool:
    """Whether a topic is one on which somebody commands, by its type and its name."""
    return one.type in (TRAJECTORY, JOG) or (one.type in (TWIST, ARRAY) and bool(COMMAND_NAME.search(one.topic)))


def numbers(message: Any, before: str = "") -> Iterator[tuple[str, float]]:
    """(path, value) of every number of a decoded message, headers and layouts apart."""
    if before == "" and hasattr(message, "name") and hasattr(message, "position"):  # a JointState
        for array in JOINT_ARRAYS:
            values = getattr(message, array)
            if len(values) == len(message.name):
                yield from (
                    (f"{array}[{joint}]", float(value)) for joint, value in zip(message.name, values, strict=True)
                )
        return
    for name in getattr(message, "__slots__", ()):
        value, path = getattr(message, name), f"{before}{name}"
        if name in ("header", "layout") or "covariance" in name:
            continue
        if isinstance(value, bool | int | float):
            yield path, float(value)
        elif hasattr(value, "__slots__"):
            yield from numbers(value, f"{path}.")
        elif not isinstance(value, str | bytes):
            for place, one in enumerate(value):
                if isinstance(one, bool | int | float):
                    yield f"{path}[{place}]", float(one)


def survey(files: list[Path]) -> dict[str, TopicSurvey]:
    """Every topic of the bags.

    Raises:
        DatasetError: a bag is damaged, or two of them disagree about a topic's type.
    """
    found: dict[str, TopicSurvey] = {}
    for path in files:
        file, reader, _ = open_bag(path)
        make = decoders(path)
        known: dict[int, Any] = {}
        with file, damage_named(path):
            for schema, channel, message in reader.iter_messages():
                if IGNORED.match(channel.topic) or schema is None:
                    continue
                one = found.setdefault(
                    channel.topic, TopicSurvey(channel.topic, ros_name(schema.name), is_stamped(schema))
                )
                if one.type != ros_name(schema.name):
                    raise DatasetError(f"{path}: topic {channel.topic} is {ros_name(schema.name)}, before {one.type}")
                if len(message.data) > LARGEST_MESSAGE:
                    one.left_out = f"messages of {len(message.data) // 1024} KiB"
                if one.left_out:
                    continue
                if channel.id not in known:
                    known[channel.id] = make(schema, channel)
                _take(one, known[channel.id](message.data), message.log_time)
    return found


def _take(one: TopicSurvey, message: Any, time_ns: int) -> None:
    if one.type.endswith("/JointTrajectory"):
        here = list(message.points[0].positions) if message.points else []
        values = {f"positions[{joint}]": float(v) for joint, v in zip(message.joint_names, here, strict=False)}
    else:
        values = dict(numbers(message))
    if len(values) > WIDEST:
        one.left_out = f"{len(values)} numbers a message"
        return
    new = [path for path in values if path not in one.fields]
    if new:
        one.fields += new
        for row in one.rows:
            row += [float("nan")] * len(new)
    if one.stamped and not one.frame:
        one.frame = str(message.header.frame_id)
    one.times.append(time_ns * 1e-9)
    stamp = message.header.stamp if one.stamped else None
    one.measured.append(one.times[-1] if stamp is None else stamp.sec + 1e-9 * stamp.nanosec)
    one.rows.append([values.get(path, float("nan")) for path in one.fields])


def read_description(files: list[Path]) -> str:
    """The robot's URDF as ``/robot_description`` said it last; empty where it was not recorded.

    Raises:
        DatasetError: a bag is damaged.
    """
    text = ""
    for path in files:
        file, reader, _ = open_bag(path)
        make = decoders(path)
        with file, damage_named(path):
            for schema, channel, message in reader.iter_messages(topics=[DESCRIPTION_TOPIC]):
                if schema is not None and ros_name(schema.name) == "std_msgs/msg/String":
                    text = str(make(schema, channel)(message.data).data)
    return text


def read_marks(files: list[Path]) -> Stream:
    """The messages of ``/episode`` in bags: what it says, by time; none where it was not recorded.

    Raises:
        DatasetError: a bag is damaged.
    """
    marks = Stream()
    for path in files:
        file, reader, _ = open_bag(path)
        make = decoders(path)
        with file, damage_named(path):
            for schema, channel, message in reader.iter_messages(topics=[EPISODE_TOPIC]):
                said = make(schema, channel)(message.data)
                stamp_ns = said.stamp.sec * 1_000_000_000 + said.stamp.nanosec
                marks.add(message.log_time, stamp_ns, said.frame_id, None)
    marks.sort()
    return marks
