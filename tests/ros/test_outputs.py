"""Commands on the wire: each group's message, its stamp and its place on the topics."""

import itertools
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from srdp_controller.commands import output_fields, output_type
from srdp_controller.errors import SrdpError
from srdp_controller.messages import Extractor, package_installed
from srdp_controller.observation import NEVER_NS
from srdp_controller.ros.inputs import DirectSubscription
from srdp_controller.ros.outputs import CommandMessage, Outputs, TrajectoryMessage
from srdp_controller.spec import ActionGroup, PolicySpec
from srdp_controller.tasks.pushing.spec import pushing_spec

JOINTS = ("shoulder", "elbow", "wrist.1")


def joint_group(output="trajectory_msgs/msg/JointTrajectory", kind="joint_position", array="positions"):
    unit = "rad" if kind == "joint_position" else "rad/s"
    return {
        "name": "arm",
        "kind": kind,
        "on_hold": "last" if kind == "joint_position" else "zero",
        "components": [
            {
                "name": joint,
                "unit": unit,
                "field": f"{array}[{joint}]",
                "lower": -3.0,
                "upper": 3.0,
                "measured_by": f"measured_{joint}",
            }
            for joint in JOINTS
        ],
        "output": {"topic": "~/arm", "type": output},
    }


def arm_spec():
    gripper = {
        "name": "gripper",
        "kind": "gripper",
        "on_hold": "last",
        "components": [{"name": "width", "unit": "m", "field": "data[0]", "lower": 0.0, "upper": 0.1}],
        "output": {"topic": "/gripper/commands", "type": "std_msgs/msg/Float64MultiArray"},
    }
    source = {"kind": "topic", "topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
    observation = [
        {
            "name": f"measured_{joint}",
            "unit": "rad",
            "lower": -3.1,
            "upper": 3.1,
            "source": {**source, "field": f"position[{joint}]"},
        }
        for joint in JOINTS
    ]
    return PolicySpec.model_validate(
        {
            "task": "test",
            "observation": observation,
            "action_groups": [joint_group(), gripper],
            "horizon": 8,
            "control_rate_hz": 10.0,
        }
    )


@pytest.mark.parametrize("as_array", [False, True])
def test_commands_written_as_bytes_are_the_messages_of_the_library(as_array):
    group = pushing_spec().action_groups[0]
    written, converted = CommandMessage(group, as_array), CommandMessage(group, as_array, serialized=False)
    for action, stamp_ns in (([0.25, -0.5], 1_700_000_000_123_456_789), ([0.0, 3.14159], 0)):
        message = written.of(action, (), stamp_ns)
        assert isinstance(message, bytes)
        assert deserialize_message(message, written.type) == converted.of(action, (), stamp_ns)


@pytest.mark.parametrize("as_array", [False, True])
def test_a_simulated_robot_reads_back_what_was_commanded(as_array):
    group = pushing_spec().action_groups[0]
    message = CommandMessage(group, as_array, serialized=False).of([0.25, -0.5], (), 5)
    extractor = Extractor(output_type(group, as_array), output_fields(group, as_array))
    assert extractor.check(message) is None
    assert extractor.values(message) == [0.25, -0.5]


def test_a_trajectory_is_read_back_by_its_joints():
    group = arm_spec().action_groups[0]
    message = TrajectoryMessage(group, 0.1).of([0.1, 0.2, 0.3], [], 0)
    assert list(message.joint_names) == list(JOINTS)
    assert Extractor(group.output.type, output_fields(group)).values(message) == [0.1, 0.2, 0.3]


def test_a_trajectorys_points_lie_in_the_future_a_step_apart_and_hold_positions_only():
    group = arm_spec().action_groups[0]
    observed_ns = time.time_ns() - 30_000_000
    message = TrajectoryMessage(group, 0.1).of([0.0] * 3, [[0.1] * 3, [0.2] * 3], observed_ns)
    now_ns = time.time_ns()
    assert message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec == observed_ns
    since = [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in message.points]
    assert [later - earlier for earlier, later in itertools.pairwise(since)] == [100_000_000] * 2
    assert 0.05e9 < observed_ns + since[0] - now_ns <= 0.1e9
    assert [list(point.positions) for point in message.points] == [[0.0] * 3, [0.1] * 3, [0.2] * 3]
    assert not any(len(point.velocities) or len(point.accelerations) for point in message.points)


@pytest.mark.skipif(package_installed("control_msgs/msg/JointJog"), reason="control_msgs is here")
def test_a_joint_jog_without_control_msgs_is_refused_with_the_remedy():
    group = joint_group("control_msgs/msg/JointJog", "joint_velocity", "velocities")
    with pytest.raises(SrdpError, match="install or source the ROS 2 package control_msgs"):
        CommandMessage(ActionGroup.model_validate(group))


@pytest.fixture
def node():
    context = rclpy.Context()
    context.init()
    made = Node("robot", context=context)
    yield made
    made.destroy_node()
    context.try_shutdown()


def test_each_group_has_its_own_topic_and_the_stamp_of_the_observation(node):
    outputs = Outputs(node, arm_spec())
    arm = DirectSubscription(node, JointTrajectory, "/robot/arm")
    gripper = DirectSubscription(node, Float64MultiArray, "/gripper/commands")
    heard = {}
    until = time.monotonic() + 10.0
    measured_ns = time.monotonic_ns()
    system_ns = time.time_ns()
    while len(heard) < 2 and time.monotonic() < until:
        outputs.publish([0.1, 0.2, 0.3, 0.05], [[0.2, 0.3, 0.4, 0.06]], measured_ns)
        time.sleep(0.02)
        for name, subscription in (("arm", arm), ("gripper", gripper)):
            taken = subscription.take()
            if taken is not None:
                heard[name] = taken[0]
    assert list(heard["gripper"].data) == [0.05]
    assert [list(point.positions) for point in heard["arm"].points] == [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]]
    stamp = heard["arm"].header.stamp
    assert abs(stamp.sec * 10**9 + stamp.nanosec - system_ns) < 5_000_000
    outputs.publish([0.0] * 4, [], NEVER_NS)
    until = time.monotonic() + 10.0
    while heard["arm"].header.stamp.sec and time.monotonic() < until:
        time.sleep(0.02)
        heard["arm"] = (arm.take() or (heard["arm"],))[0]
    assert heard["arm"].header.stamp.sec == 0
    outputs.close()


CONTROLLERS = yaml.safe_load((Path(__file__).resolve().parents[2] / "config" / "ros2_control.yaml").read_text())


@pytest.mark.parametrize("name", ["joint_trajectory_controller", "forward_velocity", "forward_position"])
def test_the_example_for_ros2_control_takes_what_the_node_publishes(name):
    """What the controllers' sources check of a message (ros2_controllers, August 2026)."""
    kind = CONTROLLERS["controller_manager"]["ros__parameters"][name]["type"]
    parameters = CONTROLLERS[name]["ros__parameters"]
    joints, trajectory = parameters["joints"], kind.endswith("JointTrajectoryController")
    moves = trajectory or parameters["interface_name"] == "position"
    described = joint_group() if trajectory else joint_group("std_msgs/msg/Float64MultiArray", "joint_velocity", "data")
    described["kind"], described["on_hold"] = ("joint_position", "last") if moves else ("joint_velocity", "zero")
    component = {**described["components"][0], "unit": "rad" if moves else "rad/s"}
    fields = [f"positions[{joint}]" if trajectory else f"data[{place}]" for place, joint in enumerate(joints)]
    described["components"] = [
        {**component, "name": joint, "field": field, "measured_by": joint}
        for joint, field in zip(joints, fields, strict=True)
    ]
    group = ActionGroup.model_validate(described)
    command = [0.1 * place for place in range(len(joints))]
    if not trajectory:
        message = deserialize_message(CommandMessage(group).of(command, [], 0), Float64MultiArray)
        assert list(message.data) == command  # as many as it has interfaces, in their order
        return
    message = TrajectoryMessage(group, 0.05).of(command, [command] * 7, time.time_ns())
    assert parameters["positions_upsampling"] == {"enable": False}
    assert parameters["constraints"]["goal_time"] < parameters["cmd_timeout"]  # or it is ignored
    assert sorted(message.joint_names) == sorted(joints)
    times = [point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec for point in message.points]
    assert times[0] > 0.0 and all(before < after for before, after in itertools.pairwise(times))
    assert all(len(point.positions) == len(joints) and not point.velocities for point in message.points)
