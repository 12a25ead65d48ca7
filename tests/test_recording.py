"""The recorder: another process, a real file, read back with the MCAP reader."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mcap_ros2", reason="needs the MCAP packages: make setup")

from mcap_ros2.reader import read_ros2_messages

from srdp_controller.control.telemetry import CLOSED, FAILED, FINISHED, RECORDED, STATUS, SharedRing, Telemetry
from srdp_controller.ros.run_files import recorder_command
from srdp_controller.spec import PolicySpec

ROOT = Path(__file__).resolve().parent.parent


def component(name, unit, field, **more):
    return {"name": name, "unit": unit, "field": field, "lower": -1.0, "upper": 1.0, **more}


def observed(name, field):
    source = {"topic": "/state", "type": "geometry_msgs/msg/PoseStamped", "field": field}
    return {"name": name, "unit": "m", "source": source, "lower": -1e3, "upper": 1e3}


SPEC = PolicySpec.model_validate(
    {
        "task": "test",
        "horizon": 4,
        "control_rate_hz": 20.0,
        "observation": [observed("tip_x", "pose.position.x"), observed("Object-Y", "pose.position.y")],
        "action_groups": [
            {
                "name": "tool",
                "kind": "twist",
                "on_hold": "zero",
                "output": {"type": "geometry_msgs/msg/TwistStamped", "frame": "table"},
                "components": [
                    component("velocity_x", "m/s", "twist.linear.x"),
                    component("turn", "rad/s", "twist.angular.z"),
                ],
            },
            {
                "name": "gripper",
                "kind": "gripper",
                "on_hold": "last",
                "output": {"topic": "/gripper/commands", "type": "std_msgs/msg/Float64MultiArray"},
                "components": [component("width", "m", "data[0]")],
            },
        ],
    }
)


def record(telemetry, index):
    row = (0.01 * index, index % 4, 100.0 + index, 200.0, 3.0, 0.5)
    telemetry.record(row, [0.001 * index, -0.1, 0.04], np.array([0.1, index]))


def start(telemetry, path, limit=10**9):
    command = recorder_command(telemetry, SPEC, Path(path), limit)
    recorder = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not Path(path).exists():  # it takes seconds to start on a busy machine
        time.sleep(0.01)
    return recorder


def messages(path, topic):
    return [entry.ros_msg for entry in read_ros2_messages(str(path), topics=[topic])]


@pytest.fixture
def telemetry():
    made = Telemetry(2000, SPEC, shared=True)
    yield made
    made.ring.unlink()


def test_every_cycle_is_read_back_with_its_names(telemetry, tmp_path):
    recorder = start(telemetry, tmp_path / "r.mcap")
    for index in range(300):
        record(telemetry, index)
        time.sleep(0.001)
    telemetry.ring.header[CLOSED] = 1
    assert recorder.wait(20) == 0, recorder.stderr.read()
    assert telemetry.ring.header[STATUS] == FINISHED and telemetry.ring.header[RECORDED] == 300
    cycles = messages(tmp_path / "r.mcap", "/srdp_controller/cycle")
    assert len(cycles) == 300
    assert [cycle.inference_us for cycle in cycles] == [100.0 + index for index in range(300)]
    assert cycles[7].object_y == 7 and cycles[7].tip_x == pytest.approx(0.1)
    commands = messages(tmp_path / "r.mcap", "/srdp_controller/command")
    assert len(commands) == 300 and commands[5].twist.linear.x == pytest.approx(0.005)
    assert commands[5].twist.angular.z == pytest.approx(-0.1)
    assert [list(message.data) for message in messages(tmp_path / "r.mcap", "/gripper/commands")] == [[0.04]] * 300
    assert cycles[5].command_width == 0.04 and cycles[5].command_turn == -0.1
    assert commands[0].header.frame_id == "table"
    assert abs(commands[0].header.stamp.sec - time.time()) < 60
    modes = [message.data for message in messages(tmp_path / "r.mcap", "/srdp_controller/mode")]
    assert modes[:5] == ["STUDENT", "TEACHER", "HOLD", "STOP", "STUDENT"]


WRITER = """
import os, sys, time
sys.path.insert(0, {root!r})
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.ros.run_files import recorder_command
from pathlib import Path
import subprocess, numpy
spec = load_bundle({root!r} + "/models/pushing").spec
telemetry = Telemetry(500, spec, shared=True)
recorder = subprocess.Popen(recorder_command(telemetry, spec, Path(sys.argv[1]), 10**6), cwd={root!r})
print(recorder.pid, telemetry.ring.path, flush=True)
while not Path(sys.argv[1]).exists():  # it takes seconds to start on a busy machine
    time.sleep(0.01)
for index in range(10**6):
    telemetry.record((0.01 * index, 0, 1.0, 1.0, 1.0, 1.0), [0.0, 0.0], numpy.zeros(spec.obs_dim))
    print(index, flush=True)
    time.sleep(0.005)
"""


def test_when_the_controller_is_killed_the_recording_still_ends_whole(tmp_path):
    path = tmp_path / "r.mcap"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(root=str(ROOT)), str(path)], stdout=subprocess.PIPE, text=True
    )
    _, ring = writer.stdout.readline().split()
    lines = [writer.stdout.readline()]
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        lines.append(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.read().splitlines()
    writer.wait()
    until = time.monotonic() + 10
    while Path(ring).exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(ring).exists()  # the recorder cleans up
    cycles = messages(path, "/srdp_controller/cycle")
    assert len(cycles) >= len([line for line in lines if line.strip()])


def test_a_full_disk_ends_the_recording_and_nothing_else(telemetry, tmp_path):
    recorder = start(telemetry, "/dev/full")
    for index in range(1500):
        record(telemetry, index)
    assert recorder.wait(20) == 1
    assert "No space left" in recorder.stderr.read()
    assert telemetry.ring.header[STATUS] == FAILED
    record(telemetry, 1500)
    assert len(telemetry.rows()) == 1501


def test_the_recording_ends_at_its_limit_and_stays_readable(telemetry, tmp_path):
    recorder = start(telemetry, tmp_path / "r.mcap", limit=40_000)
    for index in range(1500):
        record(telemetry, index)
        time.sleep(0.0005)
    telemetry.ring.header[CLOSED] = 1
    assert recorder.wait(20) == 0
    assert "limit of 40000 bytes" in recorder.stderr.read()
    found = messages(tmp_path / "r.mcap", "/srdp_controller/cycle")
    assert 50 < len(found) < 1500


def test_the_ring_keeps_the_newest_rows_and_another_process_sees_them():
    telemetry = Telemetry(10, SPEC, shared=True)
    for index in range(25):
        record(telemetry, index)
    other = SharedRing(telemetry.ring.path)
    assert other.rows.shape == (10, len(telemetry.columns))
    np.testing.assert_allclose(telemetry.rows()[:, 0], 0.01 * np.arange(15, 25))
    np.testing.assert_allclose(other.rows[4], telemetry.rows()[-1])
    telemetry.ring.unlink()
