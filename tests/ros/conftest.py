"""Real nodes over real DDS, on a private domain and localhost only."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not here: source it, or install srdp_controller[ros]")

os.environ["ROS_DOMAIN_ID"] = str(101 + os.getpid() % 90)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from srdp_controller.processes import node_command
from srdp_controller.ros.inputs import LATCHED

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"lbr_iiwa_joint_{i}" for i in range(1, 8)]
JOINTS = [0.11316, 0.94705, 0.36785, -1.34959, -0.37755, 0.91374, -0.99858]  # tip at (-0.21, 0.045)


def _remappings(remaps: dict[str, str]) -> list[str]:
    return [word for old, new in remaps.items() for word in ("--ros-args", "-r", f"{old}:={new}")]


class Process:
    """A node in a process of its own, with its output in a file."""

    def __init__(self, module: str, folder: Path, prefix=(), remaps=None, **parameters):
        self.log = folder / f"{module}.log"
        parameters.setdefault("run_dir", str(folder))
        self._file = self.log.open("w")
        self.process = subprocess.Popen(
            [*prefix, *node_command(module, parameters), *_remappings(remaps or {})],
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def end(self, patience: float = 15.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._file.close()
        return status

    def wait(self, patience: float = 30.0) -> int:
        status = self.process.wait(patience)
        self._file.close()
        return status


class Bench:
    """The test's own node: publishes chosen observations, hears commands and modes."""

    def __init__(self):
        self.node = Node("test_bench")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.joints = self.node.create_publisher(JointState, "/joint_states", 5)
        self.poses = {name: self.node.create_publisher(PoseStamped, f"/{name}_pose", 5) for name in ("object", "goal")}
        self.names = NAMES
        self.positions = list(JOINTS)
        self.frame = ""
        self.mode = ""
        self.modes = []
        self.commands = []
        self.object = (-0.15, 0.03)
        self.goal = (0.15, 0.0)
        self.silent = set()
        self.age_ns = 0  # of what it publishes
        self.node.create_subscription(String, "/srdp_controller/mode", self._on_mode, LATCHED)
        self.node.create_subscription(TwistStamped, "/srdp_controller/command", self._on_command, 100)

    def _on_mode(self, message):
        self.mode = message.data
        self.modes.append(message.data)

    def _on_command(self, message):
        self.commands.append(message)

    def publish(self):
        stamp = (self.node.get_clock().now() - Duration(nanoseconds=self.age_ns)).to_msg()
        if "joint_states" not in self.silent:
            message = JointState(name=self.names, position=self.positions[: len(self.names)])
            message.header.stamp = stamp
            self.joints.publish(message)
        for name in ("object", "goal"):
            if name in self.silent:
                continue
            message = PoseStamped()
            message.header.stamp = stamp
            message.header.frame_id = self.frame
            message.pose.position.x, message.pose.position.y = getattr(self, name)
            self.poses[name].publish(message)

    def run(self, seconds: float):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.publish()
            next_time = time.monotonic() + 0.01
            while (left := next_time - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left)

    def until(self, mode: str, patience: float = 15.0) -> bool:
        end = time.monotonic() + patience
        while time.monotonic() < end and self.mode != mode:
            self.run(0.05)
        return self.mode == mode

    def call(self, service: str):
        client = self.node.create_client(Trigger, service)
        assert client.wait_for_service(10.0)
        future = client.call_async(Trigger.Request())
        end = time.monotonic() + 10.0
        while not future.done() and time.monotonic() < end:
            self.run(0.02)
        return future.result()


@pytest.fixture(scope="session")
def model_dir(shipped_dir: Path) -> Path:
    """What the node runs by default."""
    return shipped_dir


@pytest.fixture
def bench():
    gc.collect()  # the nodes of earlier tests in this process: until they are freed, their services take requests
    rclpy.init()
    made = Bench()
    yield made
    made.executor.shutdown()
    made.node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def start(tmp_path):
    started = []

    def _start(module: str, **parameters) -> Process:
        process = Process(module, tmp_path, **parameters)
        started.append(process)
        return process

    yield _start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


@pytest.fixture
def read_json(tmp_path):
    return lambda name: json.loads((tmp_path / name).read_text())
