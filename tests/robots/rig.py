"""A robot and its controller as real processes over real DDS, with the test in between.

The robot's sensor topics are renamed to ``/robot/...``; the test hands every message on to where the controller
listens, until it cuts them. So it knows what the controller was told, what it commanded, and what the robot really did.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not here: source it, or install srdp_controller[ros]")

os.environ["ROS_DOMAIN_ID"] = str(216 + os.getpid() % 15)  # not where the tests of tests/ros are
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from srdp_controller.messages import message_class
from srdp_controller.processes import end_process, node_command
from srdp_controller.ros.client import set_parameters
from srdp_controller.spec import PolicySpec, fields_read

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 50.0
MAX_AGE_S, HOLD_TIME_S = 0.3, 0.8
EVERY = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
KEPT = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def read(message: Any, path: str) -> float:
    """A number of a message by its path, read in the plainest way: the test does not trust the package's reader."""
    names = getattr(message, "name", None) or getattr(message, "joint_names", None)
    for field, bracket in re.findall(r"([A-Za-z]\w*)(?:\[([^\]]+)\])?", path):
        if field == "positions":
            message = message.points[0]
        message = getattr(message, field)
        if bracket:
            message = message[int(bracket) if bracket.isdigit() else names.index(bracket)]
    return float(message)


class Rig:
    """Stands between robot and controller.

    Attributes:
        true: what the robot measured, by topic, with the time of receipt.
        told: what of it was handed on to the controller.
        commands: what the controller published, by action group.
        modes, episodes: what was announced.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self.node, self.client = Node("rig"), Node("rig_client")
        self.cut = False
        sources = {ref.topic: ref for one in spec.observation for ref, _ in fields_read(one.source, spec.kinematics)}
        self.true: dict[str, list[tuple[float, Any]]] = {topic: [] for topic in sources}
        self.told: dict[str, list[Any]] = {topic: [] for topic in sources}
        self.commands: dict[str, list[tuple[float, Any]]] = {group.name: [] for group in spec.action_groups}
        self.modes: list[tuple[float, str]] = []
        self.episodes: list[tuple[float, str]] = []
        for topic, reference in sources.items():
            self._relay(topic, message_class(reference.type))
        for group in spec.action_groups:
            topic = group.output.topic.replace("~", "/srdp_controller", 1)
            heard = self.commands[group.name]
            reliable = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
            self.node.create_subscription(message_class(group.output.type), topic, self._hear(heard), reliable)
        self.node.create_subscription(String, "/srdp_controller/mode", self._hear(self.modes, "data"), KEPT)
        self.node.create_subscription(Header, "/episode", self._hear(self.episodes, "frame_id"), KEPT)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _relay(self, topic: str, kind: type) -> None:
        publisher = self.node.create_publisher(kind, topic, 10)

        def hand_on(message: Any) -> None:
            self.true[topic].append((time.monotonic(), message))
            if not self.cut:
                self.told[topic].append(message)
                publisher.publish(message)

        self.node.create_subscription(kind, f"/robot{topic}", hand_on, EVERY)

    def _hear(self, heard: list[Any], field: str = "") -> Callable[[Any], None]:
        return lambda message: heard.append((time.monotonic(), getattr(message, field) if field else message))

    @property
    def mode(self) -> str:
        return self.modes[-1][1] if self.modes else ""

    def until(self, condition: Callable[[], bool], what: str, patience_s: float = 20.0) -> None:
        end = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < end, f"waited {patience_s} s for {what}; modes were {self.modes}"
            time.sleep(0.01)

    def reset(self) -> None:
        client = self.client.create_client(Trigger, "/srdp_controller/reset")
        assert client.wait_for_service(10.0)
        future = client.call_async(Trigger.Request())
        rclpy.spin_until_future_complete(self.client, future, timeout_sec=10.0)
        assert future.result().success

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.client.destroy_node()


@dataclass
class Played:
    """What happened while a robot was driven, its sensors were cut, and it was reset."""

    spec: PolicySpec
    rig: Rig
    swapped_s: float
    cut_s: float
    stopped_s: float
    reset_s: float
    ended_s: float
    controller: dict[str, Any]
    robot: dict[str, Any]
    log: str
    columns: list[str]
    rows: list[dict[str, float]]
    folder: Path


def play(task: str, spec: PolicySpec, bundle: Path, folder: Path, scenario: str) -> Played:
    """Drive the robot, swap the engine, cut the sensors, wait for STOP, reset, and end both processes."""
    topics = {ref.topic for one in spec.observation for ref, _ in fields_read(one.source, spec.kinematics)}
    renamed = [word for topic in sorted(topics) for word in ("-r", f"{topic}:=/robot{topic}")]
    robot = node_command("robot_node", {"task": task, "scenario": scenario, "seed": 1, "run_dir": folder})
    controller = node_command(
        "controller_node",
        {
            "model_dir": bundle,
            "engine": "student_k2",
            "update_rate": RATE_HZ,
            "observation.max_age": MAX_AGE_S,
            "fallback.hold_time": HOLD_TIME_S,
            "abstain.alpha": 0.1,
            "record": True,
            "run_dir": folder,
        },
    )
    rclpy.init()
    rig = Rig(spec)
    processes = []
    try:
        with (folder / "robot.log").open("w") as said, (folder / "controller.log").open("w") as heard:
            processes.append(subprocess.Popen([*robot, *renamed], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT))
            processes.append(subprocess.Popen(controller, cwd=ROOT, stdout=heard, stderr=subprocess.STDOUT))
        rig.until(lambda: rig.mode == "STUDENT", "the student", 30.0)
        time.sleep(4.0)
        swapped_s = time.monotonic()
        set_parameters(rig.client, {"engine": "student_k1"}, 10.0)
        time.sleep(3.0)
        episodes = len(rig.episodes)
        rig.until(lambda: len(rig.episodes) > episodes and rig.episodes[-1][1] == "begin", "an episode's beginning")
        time.sleep(0.1)  # on its way, and far from the end
        rig.until(lambda: rig.mode == "STUDENT", "the student in the new episode")
        rig.cut, cut_s = True, time.monotonic()
        rig.until(lambda: rig.mode == "STOP", "STOP")
        stopped_s = time.monotonic()
        time.sleep(1.0)
        rig.cut = False
        time.sleep(0.4)
        assert rig.mode == "STOP"  # only reset leaves it
        reset_s = time.monotonic()
        rig.reset()
        rig.until(lambda: rig.mode == "STUDENT", "the student after reset")
        time.sleep(1.0)
        ended_s = time.monotonic()
    finally:
        status = [end_process(process, 30.0) for process in reversed(processes)]
        rig.close()
        rclpy.shutdown()
    log = (folder / "controller.log").read_text() + (folder / "robot.log").read_text()
    assert status == [0, 0], log
    with (folder / "telemetry.csv").open() as file:
        lines = list(csv.DictReader(file))
    numbers = [{name: number(text) for name, text in line.items()} for line in lines]
    return Played(
        spec=spec,
        rig=rig,
        swapped_s=swapped_s,
        cut_s=cut_s,
        stopped_s=stopped_s,
        reset_s=reset_s,
        ended_s=ended_s,
        controller=json.loads((folder / "controller.json").read_text()),
        robot=json.loads((folder / "simulation.json").read_text()),
        log=log,
        columns=list(lines[0]),
        rows=numbers,
        folder=folder,
    )


def number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
