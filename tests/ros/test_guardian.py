"""However the controller's process ends, the robot stands: heard by a subscriber of the test's own."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from srdp_controller.processes import node_command

pytestmark = pytest.mark.ros
RATE_HZ = 100.0
STEP = 2.0 / RATE_HZ  # the most that a command may change in a period: the default of safety.max_acceleration, m/s


def guardian_of(process):
    """The process that the controller forked first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def speed(message):
    return (message.twist.linear.x**2 + message.twist.linear.y**2) ** 0.5


@pytest.fixture
def driving(bench, start):
    """A controller that drives the robot at speed."""
    controller = start("controller_node", engine="student_k1", update_rate=RATE_HZ)
    assert bench.until("STUDENT", 30.0), controller.output
    bench.run(1.0)
    assert speed(bench.commands[-1]) > 0.02, "it does not move"
    return controller


def stands(bench, seconds=2.0):
    """Hear what follows: it is brought to rest within the limits, and nothing but rest comes after it."""
    last, before = bench.commands[-1], len(bench.commands)
    bench.run(seconds)
    heard = bench.commands[before:]
    assert heard and speed(heard[-1]) == 0.0, [speed(one) for one in heard]
    for earlier, later in itertools.pairwise([last, *heard]):
        change = [getattr(later.twist.linear, axis) - getattr(earlier.twist.linear, axis) for axis in "xy"]
        # a cycle or two may have been under way
        assert (change[0] ** 2 + change[1] ** 2) ** 0.5 <= 3.0 * STEP + 1e-6
    return heard


def test_a_killed_controllers_robot_is_brought_to_rest(driving, bench):
    guardian = guardian_of(driving.process)
    driving.process.kill()
    killed = time.monotonic()
    stands(bench)
    assert bench.until("STOP", 5.0)
    while Path(f"/proc/{guardian}").exists() and time.monotonic() < killed + 10.0:
        bench.run(0.1)
    assert not Path(f"/proc/{guardian}").exists()
    assert "the guardian has brought the robot to rest" in driving.output


def test_a_stopped_controller_drives_no_more_when_it_goes_on(driving, bench):
    driving.process.send_signal(signal.SIGSTOP)
    stands(bench)
    before = len(bench.commands)
    driving.process.send_signal(signal.SIGCONT)
    bench.run(1.0)
    assert len(bench.commands) == before
    assert driving.wait() == 1
    assert "and the guardian has stopped the robot" in driving.output and "Traceback" not in driving.output


def test_without_its_guardian_the_controller_stops(driving, bench):
    os.kill(guardian_of(driving.process), signal.SIGKILL)
    assert bench.until("STOP", 5.0)
    bench.run(0.5)
    assert speed(bench.commands[-1]) == 0.0
    assert driving.end() == 0
    assert "mode STOP: the guardian is gone" in driving.output


HANGING = """
import itertools, sys
from srdp_controller.ros.controller_node import ControllerNode, light_executor, run_node
class Hanging(ControllerNode):
    def make_loop(self, run, cycle, *rest):
        left = 150
        def hang(now_ns):
            nonlocal left
            left -= 1
            if left < 0:
                sum(itertools.repeat(0))  # for ever, with the interpreter's lock
            run(now_ns)
        return super().make_loop(hang, cycle, *rest)
sys.exit(run_node(Hanging, light_executor, sys.argv))
"""


def test_a_controller_that_hangs_with_the_interpreters_lock_is_ended(bench, tmp_path):
    words = node_command("controller_node", {"engine": "student_k1", "update_rate": RATE_HZ})
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-c", HANGING, *words[words.index("--ros-args") :]]
        controller = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert bench.until("STUDENT", 30.0), (tmp_path / "log").read_text()
        assert bench.until("STOP", 10.0)
        stood = bench.commands[-1]
        end = time.monotonic() + 15.0
        while controller.poll() is None and time.monotonic() < end:
            bench.run(0.1)
        assert speed(stood) == 0.0 and controller.poll() == -signal.SIGKILL
        assert "the controller does not answer; it is killed" in (tmp_path / "log").read_text()
    finally:
        controller.kill()
        controller.wait()


def test_a_controller_that_ends_in_order_needs_no_guardian(bench, start):
    controller = start("controller_node", engine="student_k1", update_rate=RATE_HZ, updaterate=50.0)
    assert bench.until("STUDENT", 30.0), controller.output
    guardian = guardian_of(controller.process)
    client = bench.node.create_client(ChangeState, "/srdp_controller/change_state")
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        end = time.monotonic() + 10.0
        while not future.done() and time.monotonic() < end:
            bench.run(0.02)
        assert future.result().success
        bench.run(0.5)
    bench.call("/srdp_controller/reset")
    assert bench.until("STUDENT", 10.0), controller.output
    assert controller.end() == 0
    assert "guardian" not in controller.output
    assert not Path(f"/proc/{guardian}").exists()
    assert "parameter updaterate is not one of this node's; did you mean update_rate?" in controller.output
