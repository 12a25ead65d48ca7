"""Messages read as bytes say what the library says, and what is published is heard, over real DDS."""

import math
import time
from typing import ClassVar

import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import PoseStamped, WrenchStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Imu, JointState, Joy
from std_msgs.msg import Float32MultiArray, Float64MultiArray

from srdp_controller.messages import Extractor
from srdp_controller.observation import NEVER_NS, ObservationAssembler
from srdp_controller.ros import inputs
from srdp_controller.ros.inputs import LATCHED, Inputs, MessageReader, SerializedReader
from srdp_controller.spec import PolicySpec

NAMES = ["shoulder", "elbow", "wrist"]
numbers = st.floats(allow_nan=True, allow_infinity=True)
angles = st.lists(st.floats(-6.0, 6.0), min_size=3, max_size=3)


def joint_readers(fields=("position[wrist]", "position[shoulder]"), chain=("wrist",)):
    extractor = Extractor("sensor_msgs/msg/JointState", list(fields), "", set(chain))
    return SerializedReader(extractor), MessageReader(extractor)


def joint_message(position, names=NAMES, velocity=(), stamp=(3, 14), frame="base"):
    message = JointState(name=list(names), position=list(position), velocity=list(velocity))
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    message.header.frame_id = frame
    return message


def same(reader, plain, message):
    read, expected = reader.read(serialize_message(message)), plain.read(message)
    assert read[2] == expected[2]
    if expected[2] is None:
        assert read[0] == expected[0]
    assert [repr(value) for value in read[1]] == [repr(value) for value in expected[1]]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), st.integers(0, 2**31 - 1)), min_size=2, max_size=6)
)
def test_joint_states_read_from_bytes_are_those_of_the_library(messages):
    reader, plain = joint_readers()
    same(reader, plain, joint_message([0.1, 0.2, 0.3]))
    for position, seconds in messages:
        same(reader, plain, joint_message(position, stamp=(seconds, seconds % 1_000_000_000)))


@settings(max_examples=40)
@given(st.lists(st.tuples(angles, angles, st.permutations(NAMES), st.booleans()), min_size=2, max_size=12))
def test_a_sender_that_reorders_its_joints_or_drops_a_field_is_read_rightly(messages):
    reader, plain = joint_readers(("velocity[elbow]", "position[wrist]"))
    for position, velocity, names, longer in messages:
        extra = ["gripper"] if longer else []
        same(reader, plain, joint_message(position + [0.5] * longer, names + extra, velocity + [0.25] * longer))


def test_bytes_are_read_without_the_library_once_it_has_read_such_a_message(monkeypatch):
    for velocity in ((), (0.1, 0.2, 0.3)):
        reader, _ = joint_readers()
        reader.read(serialize_message(joint_message([0.1, 0.2, 0.3], velocity=velocity)))
        with monkeypatch.context() as patched:
            patched.setattr(inputs, "deserialize_message", lambda *_: pytest.fail("the library was asked"))
            later = joint_message([1.1, 1.2, 1.3], velocity=velocity, stamp=(5, 6))
            assert reader.read(serialize_message(later)) == (5_000_000_006, [1.3, 1.1], None)


def test_what_is_wrong_is_found_after_a_sound_message_too():
    reader, _ = joint_readers()
    for _ in range(3):
        assert reader.read(serialize_message(joint_message([0.1, 0.2, 0.3])))[2] is None
    assert "are these degrees" in reader.read(serialize_message(joint_message([0.1, 0.2, 90.0])))[2]
    assert "not in the message" in reader.read(serialize_message(joint_message([0.1, 0.2], NAMES[:2])))[2]
    assert "2 positions for 3" in reader.read(serialize_message(joint_message([0.1, 0.2])))[2]
    assert reader.read(serialize_message(joint_message([0.1, 0.2, 0.4])))[1] == [0.4, 0.1]


@settings(max_examples=40)
@given(st.lists(st.tuples(numbers, numbers, numbers, st.sampled_from(["world", "", "map"])), min_size=2, max_size=8))
def test_poses_read_from_bytes_are_those_of_the_library(poses):
    fields = ["pose.position.y", "pose.orientation.z", "pose.position.x"]
    extractor = Extractor("geometry_msgs/msg/PoseStamped", fields, "world")
    reader, plain = SerializedReader(extractor), MessageReader(extractor)
    for x, y, turn, frame in poses:
        message = PoseStamped()
        message.header.frame_id = frame
        message.pose.position.x, message.pose.position.y, message.pose.orientation.z = x, y, turn
        same(reader, plain, message)


@settings(max_examples=200)
@given(st.data())
def test_damaged_bytes_are_refused_or_read_as_the_library_reads_them(data):
    reader, plain = joint_readers()
    raw = bytearray(serialize_message(joint_message([0.1, 0.2, 0.3])))
    reader.read(bytes(raw))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    stamp_ns, values, wrong = reader.read(damaged)
    if wrong is None:
        expected = plain.read(deserialize_message(damaged, JointState))
        assert (stamp_ns, [repr(value) for value in values]) == (expected[0], [repr(value) for value in expected[1]])


OTHERS = {
    Odometry: ("nav_msgs/msg/Odometry", ["twist.twist.linear.x", "pose.covariance[7]", "pose.pose.position.y"]),
    Imu: ("sensor_msgs/msg/Imu", ["orientation.w", "linear_acceleration.z", "angular_velocity.x"]),
    WrenchStamped: ("geometry_msgs/msg/WrenchStamped", ["wrench.force.z", "wrench.torque.x"]),
    Joy: ("sensor_msgs/msg/Joy", ["axes[2]", "axes[0]"]),
    Float64MultiArray: ("std_msgs/msg/Float64MultiArray", ["data[1]"]),
    Float32MultiArray: ("std_msgs/msg/Float32MultiArray", ["data[2]", "data[0]"]),
}


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.__name__)
def test_any_message_is_read_in_place_as_the_library_reads_it(kind, monkeypatch):
    type_name, fields = OTHERS[kind]
    extractor = Extractor(type_name, fields)
    reader, plain = SerializedReader(extractor), MessageReader(extractor)
    messages = [kind() for _ in range(3)]
    for number, message in enumerate(messages):
        if hasattr(message, "header"):
            message.header.frame_id, message.header.stamp.sec = "camera", number + 5
        if kind is Odometry:
            message.twist.twist.linear.x, message.pose.covariance[7] = 0.5 + number, 2.5
        elif kind is Imu:
            message.orientation.w, message.linear_acceleration.z = 0.5, 9.81 + number
        elif kind is WrenchStamped:
            message.wrench.force.z, message.wrench.torque.x = 1.5 + number, -2.0
        elif kind is Joy:
            message.axes, message.buttons = [0.25 + number, 0.0, -1.0], [1]
        else:
            message.data = [0.1, 0.2 + number, -0.5]
    later = messages.pop()
    for message in messages:  # from the second it learns what is only padding
        reader.read(serialize_message(message))
    raw = serialize_message(later)
    monkeypatch.setattr(inputs, "deserialize_message", lambda *_: pytest.fail("the library was asked"))
    assert reader.read(raw) == (plain.read(later)[0], plain.read(later)[1], None)


def test_what_pads_a_message_may_be_anything(monkeypatch):
    reader = SerializedReader(Extractor("nav_msgs/msg/Odometry", ["pose.pose.position.x"]))
    message = Odometry()
    message.header.frame_id, message.pose.pose.position.x = "camera", 0.5
    raw = bytearray(serialize_message(message))
    for garbage in (1, 2, 3):
        raw[23], raw[29:36] = garbage, bytes([garbage] * 7)  # behind the frame, and before the first number
        if garbage == 3:
            monkeypatch.setattr(inputs, "deserialize_message", lambda *_: pytest.fail("the library was asked"))
        assert reader.read(bytes(raw)) == (0, [0.5], None)


def test_a_message_with_too_many_numbers_is_left_to_the_library():
    extractor = Extractor("std_msgs/msg/Float64MultiArray", ["data[299]"])
    reader = SerializedReader(extractor)
    for number in range(3):
        message = Float64MultiArray(data=[0.0] * 299 + [float(number)])
        assert reader.read(serialize_message(message))[1] == [number]


# --- over DDS -----------------------------------------------------------------------------------


def one_topic_spec(unit="1", **source):
    return PolicySpec.model_validate(
        {
            "task": "test",
            "observation": [
                {"name": "x", "unit": unit, "lower": -10.0, "upper": 10.0, "source": {"kind": "topic", **source}}
            ],
            "action_groups": [
                {
                    "name": "gripper",
                    "kind": "gripper",
                    "on_hold": "last",
                    "components": [{"name": "width", "unit": "m", "field": "data[0]", "lower": 0.0, "upper": 0.1}],
                    "output": {"type": "std_msgs/msg/Float64MultiArray"},
                }
            ],
            "horizon": 8,
            "control_rate_hz": 10.0,
        }
    )


@pytest.fixture
def node():
    context = rclpy.Context()
    context.init()
    made = Node("inputs_test", context=context)
    yield made
    made.destroy_node()
    context.try_shutdown()


def heard(taking, assembler, value, publish=lambda: None, patience=10.0):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        publish()
        taking.take(time.monotonic_ns())
        if assembler.vector[0] == pytest.approx(value):
            return True
        time.sleep(0.02)
    return False


def array(value):
    return Float64MultiArray(data=[value])


ARRAY = {"topic": "/fixture", "type": "std_msgs/msg/Float64MultiArray", "field": "data[0]"}


def test_an_ordinary_publisher_of_an_optional_topic_is_heard(node):
    assembler = ObservationAssembler(one_topic_spec(**ARRAY, default=1.0))
    taking = Inputs(node, assembler)
    publisher = node.create_publisher(Float64MultiArray, "/fixture", 1)
    assert assembler.vector[0] == 1.0
    assert heard(taking, assembler, 2.5, lambda: publisher.publish(array(2.5)))
    taking.close()


def test_what_was_latched_before_an_optional_topic_was_subscribed_to_is_heard(node):
    publisher = node.create_publisher(Float64MultiArray, "/fixture", LATCHED)
    publisher.publish(array(-3.5))
    time.sleep(0.2)
    assembler = ObservationAssembler(one_topic_spec(**ARRAY, default=1.0))
    taking = Inputs(node, assembler)
    assert heard(taking, assembler, -3.5)
    taking.close()


def test_a_message_without_a_header_is_as_old_as_its_reception(node):
    assembler = ObservationAssembler(one_topic_spec(**ARRAY))
    taking = Inputs(node, assembler)
    publisher = node.create_publisher(Float64MultiArray, "/fixture", 1)
    before = time.monotonic_ns()
    assert heard(taking, assembler, 0.5, lambda: publisher.publish(array(0.5)))
    assert before < assembler.plans["/fixture"].measured_ns <= time.monotonic_ns()


@pytest.mark.parametrize("serialized", [True, False])
def test_what_is_wrong_with_a_message_is_counted_and_said_and_nothing_is_raised(node, serialized):
    source = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "velocity[elbow]"}
    assembler = ObservationAssembler(one_topic_spec("rad/s", **source))

    class Given:
        """A subscription whose next message the test puts in."""

        messages: ClassVar[list] = []

        def __init__(self, *_):
            pass

        def take(self):
            message = self.messages.pop()
            if isinstance(message, Exception):
                raise message
            return (serialize_message(message) if serialized else message), time.time_ns()

    taking = Inputs(node, assembler, serialized=serialized, subscription=Given)

    def now(ahead_s=0.0):
        return divmod(time.time_ns() + round(ahead_s * 1e9), 1_000_000_000)

    for message, cause in (
        (joint_message([0.1, 0.2, 0.3], stamp=now()), "0 velocities for 3 joints"),
        (joint_message([0.1], ["wrist"], [0.1], stamp=now()), "'elbow' is not in the message"),
        (joint_message([0.1] * 3, velocity=[0.1, math.nan, 0.1], stamp=now()), "x is not finite"),
        (joint_message([0.1] * 3, velocity=[0.1, 11.0, 0.1], stamp=now()), "x is 11, outside its limits -10 to 10"),
        (joint_message([0.1] * 3, velocity=[0.1] * 3, stamp=now(ahead_s=1.0)), "in the future; synchronise the clocks"),
        (RuntimeError("the middleware failed"), "RuntimeError: the middleware failed"),
    ):
        refused = taking.refused
        Given.messages.append(message)
        assert taking.take(time.monotonic_ns()) == 0
        assert taking.refused == refused + 1
        assert taking.refused_reason.startswith("/joint_states: ")
        assert cause in taking.refused_reason
        assert assembler.plans["/joint_states"].measured_ns == NEVER_NS
    Given.messages.append(joint_message([0.1] * 3, velocity=[0.1, 0.5, 0.1], stamp=now()))
    assert taking.take(time.monotonic_ns()) > 0
    assert assembler.vector[0] == pytest.approx(0.5)
