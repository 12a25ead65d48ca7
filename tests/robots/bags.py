"""Records MCAP bags of a robot's demonstrations, in the world's own time, as `ros2 bag record` would have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mcap_ros2.writer import Writer

from srdp_controller.spec import ARRAY
from srdp_controller.tasks.task import Task

START_NS = 1_700_000_000_000_000_000
REST_NS = 2_000_000_000  # between two episodes
BAR = "=" * 80 + "\n"
TIME = BAR + "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
HEADER = BAR + "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n" + TIME
DEFINITIONS = {
    "sensor_msgs/msg/JointState": "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\n"
    "float64[] effort\n" + HEADER,
    "geometry_msgs/msg/PointStamped": "std_msgs/Header header\ngeometry_msgs/Point point\n"
    + BAR
    + "MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
    + HEADER,
    "geometry_msgs/msg/PoseStamped": "std_msgs/Header header\ngeometry_msgs/Pose pose\n"
    + BAR
    + "MSG: geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n"
    + BAR
    + "MSG: geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
    + BAR
    + "MSG: geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w\n"
    + HEADER,
    ARRAY: "std_msgs/MultiArrayLayout layout\nfloat64[] data\n"
    + BAR
    + "MSG: std_msgs/MultiArrayLayout\nstd_msgs/MultiArrayDimension[] dim\nuint32 data_offset\n"
    + BAR
    + "MSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride\n",
    "std_msgs/msg/Header": "builtin_interfaces/Time stamp\nstring frame_id\n" + TIME,
    "std_msgs/msg/Bool": "bool data\n",
    "trajectory_msgs/msg/JointTrajectory": "std_msgs/Header header\nstring[] joint_names\n"
    "trajectory_msgs/JointTrajectoryPoint[] points\n"
    + BAR
    + "MSG: trajectory_msgs/JointTrajectoryPoint\nfloat64[] positions\nfloat64[] velocities\n"
    "float64[] accelerations\nfloat64[] effort\nbuiltin_interfaces/Duration time_from_start\n"
    + BAR
    + "MSG: builtin_interfaces/Duration\nint32 sec\nuint32 nanosec\n"
    + HEADER,
}


def stamp(time_ns: int) -> dict[str, int]:
    return {"sec": time_ns // 1_000_000_000, "nanosec": time_ns % 1_000_000_000}


def content(kind: str, frame: str, fields: list[str], values: list[float], time_ns: int) -> dict[str, Any]:
    """A message as the writer takes it."""
    header = {"stamp": stamp(time_ns), "frame_id": frame}
    if kind == "sensor_msgs/msg/JointState":
        message = {"header": header, "name": [], "position": [], "velocity": [], "effort": []}
        for field, value in zip(fields, values, strict=True):
            array, _, joint = field.partition("[")
            if joint[:-1] not in message["name"]:
                message["name"].append(joint[:-1])
            message[array].append(value)
        return message
    if kind == ARRAY:
        return {"layout": {"dim": [], "data_offset": 0}, "data": list(values)}
    message = {"header": header}
    for field, value in zip(fields, values, strict=True):
        inside = message
        *outer, last = field.split(".")
        for name in outer:
            inside = inside.setdefault(name, {})
        inside[last] = value
    return message


class Bag:
    """An MCAP file that is being written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._writer = Writer(self._file)
        self._schemas: dict[str, Any] = {}

    def write(self, topic: str, kind: str, message: dict[str, Any], time_ns: int) -> None:
        if kind not in self._schemas:
            self._schemas[kind] = self._writer.register_msgdef(kind, DEFINITIONS[kind])
        self._writer.write_message(topic, self._schemas[kind], message, time_ns, time_ns)

    def close(self) -> None:
        self._writer.finish()
        self._file.close()


def demonstrations(task: Task, episodes: int, seed: int = 0) -> Iterator[tuple[str, str, Any, int]]:
    """(topic, type, message, time) of an expert's episodes, in order; /episode says where they begin and end."""
    spec = task.spec()
    world = task.make_world(task.scenario("nominal"), seed)
    start_ns = START_NS
    for episode in range(episodes):
        rng = np.random.default_rng([seed, episode])
        expert = task.require_expert(rng)
        expert.reset()
        world.reset(rng)
        yield "/episode", "std_msgs/msg/Header", {"stamp": stamp(start_ns), "frame_id": "begin"}, start_ns
        every, tick = max(1, round(spec.step_s / world.tick_s)), 0
        while not world.outcome.finished:
            now_ns = start_ns + round(world.time_s * 1e9)
            for topic, values, measured_s in world.measurements():
                layout, measured_ns = world.topics[topic], start_ns + round(measured_s * 1e9)
                message = content(layout.type, layout.frame, list(layout.fields), list(values), measured_ns)
                yield topic, layout.type, message, now_ns
            if tick % every == 0:
                command = np.asarray(expert.act(world.truth), float)
                world.send(command.tolist())
                for group, place in spec.group_slices():
                    message = content(group.output.type, "", [], command[place].tolist(), now_ns)
                    yield group.output.topic, group.output.type, message, now_ns + 1_000_000
            world.tick()
            tick += 1
        end_ns = start_ns + round(world.time_s * 1e9)
        yield "/episode", "std_msgs/msg/Header", {"stamp": stamp(end_ns), "frame_id": "end"}, end_ns
        start_ns = end_ns + REST_NS
    world.close()


def record(path: Path, task: Task, episodes: int, seed: int = 0, without: tuple[str, ...] = ()) -> Path:
    """A bag of an expert's episodes, less some topics."""
    bag = Bag(path)
    for topic, kind, message, time_ns in demonstrations(task, episodes, seed):
        if topic not in without:
            bag.write(topic, kind, message, time_ns)
    bag.close()
    return path
