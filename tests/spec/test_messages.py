"""Paths to numbers in messages, and what is read from and written to them."""

import math

import pytest

pytest.importorskip("sensor_msgs", reason="no ROS message packages here")

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Int32

from srdp_controller.errors import SrdpError
from srdp_controller.messages import Extractor, MessageWriter, check_path

JOINT_STATE = "sensor_msgs/msg/JointState"


@pytest.mark.parametrize(
    ("type_name", "path", "problem"),
    [
        ("geometry_msgs/msg/PoseStamped", "pose.positon.x", "did you mean position"),
        ("geometry_msgs/msg/PoseStamped", "pose.position", "name one of its numbers: x, y, z"),
        ("geometry_msgs/msg/PoseStamped", "header.frame_id", "not a number"),
        (JOINT_STATE, "positions[a]", "did you mean position"),
        (JOINT_STATE, "position[a", "not of the form"),
        (JOINT_STATE, "position", "name one entry, e.g. position\\[joint_1\\]"),
        ("std_msgs/msg/Float64MultiArray", "data[first]", "no index of the array"),
        ("nav_msgs/msg/Odometry", "pose.covariance[36]", "has 36 entries"),
        ("sensor_msgs/msg/NoSuch", "data", "no message type"),
    ],
)
def test_a_wrong_path_is_told_with_its_cause(type_name, path, problem):
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(check_path(type_name, path))
    with pytest.raises(SrdpError):
        Extractor(type_name, [path])


@pytest.mark.parametrize(
    ("type_name", "fields"),
    [
        ("geometry_msgs/msg/PoseStamped", ["pose.orientation.w", "pose.position.x"]),
        ("nav_msgs/msg/Odometry", ["pose.covariance[7]", "twist.twist.angular.z"]),
        ("sensor_msgs/msg/Joy", ["buttons[2]", "axes[3]"]),
        ("geometry_msgs/msg/WrenchStamped", ["wrench.force.z"]),
        ("std_msgs/msg/Int32", ["data"]),
        ("trajectory_msgs/msg/JointTrajectory", ["points[1].positions[2]", "points[0].effort[0]"]),
        (JOINT_STATE, ["effort[elbow.2]", "position[wrist]", "velocity[elbow.2]"]),
    ],
)
def test_what_is_written_is_read_back(type_name, fields):
    values = [float(number) for number in range(2, 2 + len(fields))]
    message = MessageWriter(type_name, fields, "base").message(values, 3_000_000_004)
    extractor = Extractor(type_name, fields, "base")
    assert extractor.values(message) == values
    assert all(type(value) is float for value in extractor.values(message))
    assert extractor.stamp_ns(message) == (3_000_000_004 if hasattr(message, "header") else None)


def test_joints_are_found_by_name_whatever_their_order():
    extractor = Extractor(JOINT_STATE, ["velocity[b]", "position[a]", "effort[b]"])
    for names, numbers in ((["a", "b"], [1.0, 2.0]), (["b", "c", "a"], [2.0, 9.0, 1.0])):
        message = JointState(
            name=names,
            position=numbers,
            velocity=[number + 10 for number in numbers],
            effort=[number + 20 for number in numbers],
        )
        assert extractor.check(message) is None
        assert extractor.values(message) == [12.0, 1.0, 22.0]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (JointState(name=["b"], position=[0.0]), "joint 'a' is not in the message (it has 1 joints)"),
        (JointState(name=["a", "b"], position=[0.0]), "1 positions for 2 joints"),
        (JointState(), "joint 'a' is not in the message (it has 0 joints)"),
        (JointState(name=["a"], position=[90.0]), "joint 'a' at 90 rad is beyond two turns: are these degrees?"),
    ],
)
def test_a_joint_state_that_lacks_something_is_refused(message, problem):
    assert Extractor(JOINT_STATE, ["position[a]"], chain_joints={"a"}).check(message) == problem


def test_an_empty_velocity_array_is_refused():
    message = JointState(name=["a"], position=[0.0])
    assert Extractor(JOINT_STATE, ["velocity[a]"]).check(message) == "0 velocities for 1 joints"
    assert Extractor(JOINT_STATE, ["position[a]"]).check(message) is None


def test_an_index_beyond_the_array_is_refused():
    extractor = Extractor("sensor_msgs/msg/Joy", ["axes[2]"])
    assert extractor.check(Joy(axes=[0.0, 0.0])) == "axes[2] is not in the message (axes has 2 entries)"
    assert extractor.check(Joy(axes=[0.0, 0.0, 0.0])) is None


def test_another_frame_is_refused_and_none_is_not():
    extractor = Extractor("geometry_msgs/msg/PoseStamped", ["pose.position.x"], "table")
    message = PoseStamped()
    assert extractor.check(message) is None
    message.header.frame_id = "table"
    assert extractor.check(message) is None
    message.header.frame_id = "map"
    assert extractor.check(message) == "its frame is 'map', the bundle's is 'table'; publish it in that frame"


def test_a_message_without_a_header_has_neither_stamp_nor_frame():
    extractor = Extractor("std_msgs/msg/Int32", ["data"], "table")
    assert extractor.check(Int32(data=4)) is None
    assert extractor.stamp_ns(Int32(data=4)) is None


def test_a_joint_that_no_field_names_is_written_as_not_measured():
    message = MessageWriter(JOINT_STATE, ["position[a]", "velocity[b]"]).message([1.0, 2.0], 0)
    assert list(message.name) == ["a", "b"]
    assert math.isnan(message.position[1])
    assert math.isnan(message.velocity[0])
    assert list(message.effort) == []
