"""`srdp record` beside a running graph, and `srdp init --graph`: what is said, and what waits for commands."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import PoseStamped
from mcap.reader import make_reader
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String

from srdp_controller.recordings.mcap_file import bag_files, decoders
from srdp_controller.recordings.survey import survey
from srdp_controller.spec import load_spec

pytestmark = pytest.mark.ros
KEPT = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
URDF = """<robot name="arm">
  <joint name="shoulder" type="revolute"><parent link="base"/><child link="upper"/><axis xyz="0 0 1"/>
    <limit lower="-2.0" upper="2.0" velocity="1.5" effort="9"/></joint>
  <joint name="elbow" type="revolute"><parent link="upper"/><child link="lower"/><axis xyz="0 0 1"/>
    <origin xyz="0.3 0 0"/><limit lower="-1.0" upper="2.5" velocity="1.5" effort="9"/></joint>
  <joint name="flange" type="fixed"><parent link="lower"/><child link="tool"/><origin xyz="0.2 0 0"/></joint>
</robot>"""


class StandingArm(Node):
    """Two joints that stand, an object that somebody sees, and a controller that waits for commands."""

    def __init__(self):
        super().__init__("standing_arm")
        self.create_publisher(String, "/robot_description", KEPT).publish(String(data=URDF))
        self.states = self.create_publisher(JointState, "/joint_states", 10)
        self.object = self.create_publisher(PoseStamped, "/object_pose", 10)
        for controller in ("arm_velocity_controller", "gripper_controller"):
            self.create_subscription(Float64MultiArray, f"/{controller}/commands", lambda _: None, 10)
        self.create_timer(0.02, self.say)
        self.said = 0

    def say(self):
        stamp = self.get_clock().now().to_msg()
        states = JointState(name=["shoulder", "elbow", "gripper"], position=[0.5, 0.25, 0.04])
        states.header.stamp = stamp
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id, pose.pose.orientation.w = stamp, "base", 1.0
        pose.pose.position.x = 0.001 * self.said
        self.states.publish(states)
        self.object.publish(pose)
        self.said += 1


@pytest.fixture
def arm():
    rclpy.init()
    node, executor = StandingArm(), SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield node
    executor.shutdown()
    thread.join(5.0)
    node.destroy_node()
    rclpy.try_shutdown()


def srdp(folder, *arguments):
    command = [sys.executable, "-m", "srdp_controller.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=90, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_recording_holds_what_was_said_with_its_definitions(arm, tmp_path):
    status, said = srdp(
        tmp_path, "record", "bag", "/joint_states", "/object_pose", "--duration", "3", "--json", "r.json"
    )
    assert status == 0, said
    (path,) = bag_files(tmp_path / "bag")
    found, make = [], decoders(path)
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages(topics=["/object_pose"]):
            found.append(make(schema, channel)(message.data).pose.position.x)
    assert len(found) > 50
    # every message, each once, in order
    assert np.diff(np.round(1000 * np.array(found))).tolist() == [1.0] * (len(found) - 1)
    assert set(survey([path])) == {"/joint_states", "/object_pose"}
    topics = json.loads((tmp_path / "r.json").read_text())["topics"]
    assert topics["/object_pose"]["messages"] == len(found) and topics["/object_pose"]["publishers"] == 1
    status, said = srdp(tmp_path, "record", "other", "/joint_states", "/nobody", "--duration", "1")
    assert status == 1 and "nothing came on /nobody" in said
    status, said = srdp(tmp_path, "record", "bag", "--duration", "1")
    assert status == 2 and "bag is there already" in said


def test_a_spec_is_drafted_from_a_running_graph(arm, tmp_path):
    status, said = srdp(tmp_path, "init", "mine", "--graph", "2")
    assert status == 0, said
    assert "DECIDE: nobody commanded on /arm_velocity_controller/commands" in said
    spec = load_spec(tmp_path / "mine" / "spec.yaml")
    assert {one.source.topic for one in spec.observation} == {"/joint_states", "/object_pose"}
    group, gripper = spec.action_groups
    assert [one.measured_by for one in gripper.components] == ["gripper"]
    assert (group.kind, group.on_hold) == ("joint_velocity", "zero")
    assert [one.measured_by for one in group.components] == ["shoulder", "elbow"]
    # of the URDF that the robot itself publishes
    assert (group.components[1].position_lower, group.components[1].upper) == (-1.0, 1.5)
    assert [one.name for one in spec.observation if one.source.kind == "kinematics"] == ["tool_x", "tool_y", "tool_z"]
    # it stands; it will not always
    assert all(one.lower < one.centre - 0.9 for one in spec.observation)
    status, said = srdp(tmp_path, "check", "mine/recipe.yaml")
    assert status == 2 and "demonstrations: no such file or folder" in said


def test_a_graph_in_which_nothing_is_said_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "9")
    status, said = srdp(tmp_path, "init", "mine", "--graph", "1")
    assert status == 2 and "nothing was said in 1 s; is the robot running" in said
    assert not (tmp_path / "mine").exists()
