"""Messages read and written as bytes say what the library says."""

import math

import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.resources import find_resource
from srdp_controller.ros.command import CommandMessage
from srdp_controller.ros.direct_take import extractor
from srdp_controller.ros.serialized import MessageReader, SerializedReader

NAMES = ["shoulder", "elbow", "wrist"]
numbers = st.floats(allow_nan=True, allow_infinity=True)
angles = st.lists(st.floats(-6.0, 6.0), min_size=3, max_size=3)


def joint_readers(fields=("position[wrist]", "position[shoulder]"), chain=("wrist",)):
    message_type, extract, check = extractor("sensor_msgs/msg/JointState", list(fields), "", set(chain))
    plain = MessageReader(extract, check)
    return SerializedReader(message_type, extract, plain), plain


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


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), st.integers(0, 2**31 - 1)), min_size=2, max_size=6)
)
def test_joint_states_read_from_bytes_are_those_of_the_library(messages):
    reader, plain = joint_readers()
    same(reader, plain, joint_message([0.1, 0.2, 0.3]))
    for position, seconds in messages:
        same(reader, plain, joint_message(position, stamp=(seconds, seconds % 1_000_000_000)))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(angles, angles, st.permutations(NAMES), st.booleans()), min_size=2, max_size=12))
def test_a_sender_that_reorders_its_joints_or_drops_a_field_is_read_rightly(messages):
    reader, plain = joint_readers(("velocity[elbow]", "position[wrist]"))
    for position, velocity, names, longer in messages:
        extra = ["gripper"] if longer else []
        same(reader, plain, joint_message(position + [0.5] * longer, names + extra, velocity + [0.25] * longer))


def test_bytes_are_read_without_the_library_once_it_has_read_such_a_message(monkeypatch):
    from srdp_controller.ros import serialized

    for velocity in ((), (0.1, 0.2, 0.3)):
        reader, _ = joint_readers()
        reader.read(serialize_message(joint_message([0.1, 0.2, 0.3], velocity=velocity)))
        with monkeypatch.context() as patched:
            patched.setattr(serialized, "deserialize_message", lambda *_: pytest.fail("the library was asked"))
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


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(numbers, numbers, numbers, st.sampled_from(["world", "", "map"])), min_size=2, max_size=8))
def test_poses_read_from_bytes_are_those_of_the_library(poses):
    fields = ["pose.position.y", "pose.orientation.z", "pose.position.x"]
    message_type, extract, check = extractor("geometry_msgs/msg/PoseStamped", fields, "world")
    plain = MessageReader(extract, check)
    reader = SerializedReader(message_type, extract, plain)
    for x, y, turn, frame in poses:
        message = PoseStamped()
        message.header.frame_id = frame
        message.pose.position.x, message.pose.position.y, message.pose.orientation.z = x, y, turn
        same(reader, plain, message)


@settings(deadline=None, max_examples=200)
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


@pytest.mark.parametrize("as_array", [False, True])
def test_commands_written_as_bytes_are_the_messages_of_the_library(as_array):
    spec = load_bundle(find_resource("models/pushing")).spec
    written, converted = CommandMessage(spec, as_array), CommandMessage(spec, as_array, serialized=False)
    for action, stamp_ns in (([0.25, -0.5], 1_700_000_000_123_456_789), ([0.0, math.pi], 0)):
        message = written.of(action, stamp_ns)
        assert isinstance(message, bytes)
        assert deserialize_message(message, written.type) == converted.of(action, stamp_ns)
