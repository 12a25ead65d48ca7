"""Whatever is raised, wherever: one logged cause, a named state, and a robot that stands."""

import itertools
import math
import subprocess
import sys
import threading
import time

import pytest
from box import BOX_BUNDLE
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from srdp_controller.processes import node_command
from srdp_controller.ros.controller_node import ControllerNode
from srdp_controller.ros.inputs import LATCHED
from srdp_controller.ros.preparation import message_problems
from srdp_controller.spec import PolicySpec

pytestmark = pytest.mark.ros
SETTINGS = {
    "engine": "student_k1",
    "autostart": False,
    "thread_priority": 0,
    "helper_priority": 0,
    "lock_memory": False,
    "cpu_dma_latency": False,
}
WORDS = ["--ros-args", *(word for name, value in SETTINGS.items() for word in ("-p", f"{name}:={str(value).lower()}"))]
WORDS += ["-p", f"model_dir:={BOX_BUNDLE}"]  # its teacher takes over within a few ms


def boom(*arguments, **keywords):
    raise RuntimeError("boom")


def moves(message):
    return math.hypot(message.twist.linear.x, message.twist.linear.y)


@pytest.fixture
def node(bench):
    """A controller in this process, spun by a plain executor; not configured."""
    made = ControllerNode(cli_args=WORDS)
    executor = SingleThreadedExecutor()
    executor.add_node(made)
    ended = threading.Event()

    def spin():
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.1)

    spinning = threading.Thread(target=spin, daemon=True)
    spinning.start()
    yield made
    made.stop_loop()
    made.release()
    ended.set()
    spinning.join(5.0)
    executor.shutdown()
    made.destroy_node()


@pytest.fixture
def driving(node, bench):
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert bench.until("STUDENT"), node.failure
    bench.run(0.5)
    assert moves(bench.commands[-1]) > 0.0
    return node


def state_of(node):
    return node._state_machine.current_state[1]


def test_an_exception_in_a_reader_is_a_refused_message(driving, bench, monkeypatch):
    reader = next(one for one in driving.session.inputs.inputs if one.topic == "/object_pose").reader
    with monkeypatch.context() as patched:
        patched.setattr(reader, "read", boom)
        assert bench.until("HOLD")
        assert "boom" in driving.session.inputs.refused_reason
    assert bench.until("STUDENT")


def test_an_exception_in_configure_leaves_it_unconfigured_and_it_may_be_tried_again(node, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(node, "load", boom)
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert state_of(node) == "unconfigured" and node.session is None
    assert "RuntimeError: boom" in node.failure
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert not node.failure


def test_an_exception_in_a_swap_leaves_what_drives_and_the_parameter_says_so(driving, bench, monkeypatch):
    monkeypatch.setattr(driving.session.preparation, "_load", boom)
    driving.set_parameters([Parameter("engine", value="student_k2")])
    bench.run(0.5)
    assert driving.get_parameter("engine").value == "student_k1"
    assert bench.mode == "STUDENT" and driving.session.cycle.slot.swaps == 0


def test_what_a_machine_lacks_is_named_before_anything_is_loaded():
    component = {"name": "x", "unit": "m", "lower": -1.0, "upper": 1.0}
    seen = {"topic": "/thing", "type": "my_msgs/msg/Thing", "field": "deep.x"}
    joint = {"name": "j", "unit": "rad/s", "lower": -1.0, "upper": 1.0, "field": "velocities[joint_1]"}
    group = {"name": "arm", "kind": "joint_velocity", "on_hold": "zero", "components": [joint]}
    group["output"] = {"topic": "~/jog", "type": "control_msgs/msg/JointJog"}
    spec = PolicySpec.model_validate(
        {
            "task": "test",
            "horizon": 4,
            "control_rate_hz": 20.0,
            "observation": [{**component, "source": seen}],
            "action_groups": [group],
        }
    )
    found = list(message_problems(spec))
    assert len(found) == 2 and "/thing: message type my_msgs/msg/Thing is not here" in found[0]
    assert "ros-$ROS_DISTRO-control-msgs" in found[1]


def test_an_engine_set_before_it_is_configured_is_the_one_that_drives(node):
    assert node.set_parameters([Parameter("engine", value="student_k2")])[0].successful
    assert not node.set_parameters([Parameter("provider", value="abacus")])[0].successful
    node.trigger_configure()
    assert node.session.cycle.slot.current.name == "student_k2"


def test_an_exception_in_the_engine_holds_then_stops_and_reset_recovers(driving, bench, monkeypatch):
    engine = driving.session.cycle.slot.current.engine
    with monkeypatch.context() as patched:
        patched.setattr(engine, "run", boom)
        assert bench.until("STOP")
        assert "boom" in driving.session.cycle.supervisor.reason
        bench.run(0.3)
        assert moves(bench.commands[-1]) == 0.0
    assert bench.call("/srdp_controller/reset").success
    assert bench.until("STUDENT")


def test_a_loop_that_dies_leaves_a_standing_robot_and_no_active_node(driving, bench, monkeypatch):
    statuses = []
    bench.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: statuses.extend(m.status), 10)
    bench.run(0.2)
    bench.commands.clear()
    monkeypatch.setattr(driving.session.cycle.telemetry, "record", boom)
    assert bench.until("STOP")
    bench.run(0.7)
    speeds = [moves(message) for message in bench.commands]
    assert speeds[-1] == 0.0 and max(speeds) > 0.0
    # at most 3 m/s^2, or 0.03 m/s a cycle, and a message may have been lost
    assert max(before - after for before, after in itertools.pairwise(speeds)) < 0.07
    assert state_of(driving) == "inactive"
    assert statuses[-1].level == DiagnosticStatus.ERROR and "RuntimeError: boom" in statuses[-1].message
    assert not bench.call("/srdp_controller/reset").success


def test_an_engine_that_does_not_return_is_noticed_and_the_robot_stands(driving, bench, monkeypatch):
    returns = threading.Event()
    monkeypatch.setattr(driving.session.cycle.slot.current.engine, "run", lambda: returns.wait(20.0))
    bench.commands.clear()
    assert bench.until("STOP", 5.0)
    bench.run(0.3)
    assert moves(bench.commands[-1]) == 0.0 and "has not returned" in driving.failure
    assert state_of(driving) == "inactive"
    before = len(bench.commands)
    returns.set()
    bench.run(0.3)
    assert len(bench.commands) == before  # what it computed meanwhile is not driven


DYING = """
import sys
from srdp_controller.ros.controller_node import ControllerNode, light_executor, run_node
class Dying(ControllerNode):
    def make_loop(self, run, cycle, *rest):
        def record(*arguments):
            raise RuntimeError("boom")
        cycle.telemetry.record = record
        return super().make_loop(run, cycle, *rest)
sys.exit(run_node(Dying, light_executor, sys.argv))
"""


def test_a_process_whose_loop_dies_ends_with_status_1_and_one_cause(tmp_path):
    words = node_command("controller_node", {"engine": "student_k1", "run_dir": str(tmp_path)})
    command = [sys.executable, "-c", DYING, *words[words.index("--ros-args") :]]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    output = ended.stdout + ended.stderr
    assert ended.returncode == 1, output
    assert output.count("FATAL") == 1 and "the control loop failed: RuntimeError: boom" in output
    assert "Traceback" not in output
    assert "boom" in (tmp_path / "controller.json").read_text()


def test_an_optional_topic_is_heard_from_an_ordinary_publisher(driving, bench):
    post = bench.node.create_publisher(PoseStamped, "/post_pose", 5)
    message = PoseStamped()
    message.pose.position.x, message.pose.position.y = 0.01, 0.02
    names = [component.name for component in driving.session.preparation.bundle.spec.observation]
    end = time.monotonic() + 5.0
    while time.monotonic() < end and driving.session.cycle._assembler.vector[names.index("post_x")] != pytest.approx(
        0.01
    ):
        message.header.stamp = bench.node.get_clock().now().to_msg()
        post.publish(message)
        bench.run(0.05)
    assert driving.session.cycle._assembler.vector[names.index("post_y")] == pytest.approx(0.02)


def announce(publisher, bench, what):
    message = Header(frame_id=what)
    message.stamp = bench.node.get_clock().now().to_msg()
    publisher.publish(message)


def test_a_new_episode_discards_what_was_observed_before_it(driving, bench):
    cycle = driving.session.cycle
    publisher = bench.node.create_publisher(Header, "/episode", LATCHED)
    bench.run(0.5)
    bench.silent = {"object"}
    announce(publisher, bench, "begin")
    assert bench.until("HOLD", 0.2)  # at once, long before the last message is too old
    assert "a new episode: waiting for" in cycle.supervisor.reason
    bench.silent = set()
    assert bench.until("STUDENT")
    assert cycle.abstention.count == 0


def test_alarms_between_two_episodes_are_counted_apart(driving, bench):
    cycle = driving.session.cycle
    publisher = bench.node.create_publisher(Header, "/episode", LATCHED)
    bench.run(0.5)
    announce(publisher, bench, "end")
    bench.run(0.2)
    bench.goal = (-0.2, 0.3)  # far outside the data
    assert bench.until("TEACHER")
    assert cycle.statistics.alarms_between_episodes == 1 and cycle.abstention.count == 0
    bench.goal = (0.15, 0.0)
    announce(publisher, bench, "begin")
    assert bench.until("STUDENT")


def test_telemetry_cannot_be_dumped_before_there_is_any(node, bench):
    response = bench.call("/srdp_controller/dump_telemetry")
    assert not response.success and "not configured" in response.message
    assert isinstance(response, Trigger.Response)
