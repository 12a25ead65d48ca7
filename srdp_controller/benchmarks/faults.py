"""``srdp bench faults``: every fault we can think of, against the real controller, as a table.

For each fault a controller process is started and brought to STUDENT by a healthy robot of this module;
the fault is injected, kept, healed; then the recording says which mode was entered when, and every
command that came over DDS meanwhile is held against the limits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srdp_controller.benchmarks.fault_bundles import SLOW_STEPS, misbehaving_bundle
from srdp_controller.benchmarks.fault_clock_node import VARIABLE, set_offset
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import end_process, node_command, private_environment
from srdp_controller.progress import Report

JOINTS = [0.11316, 0.94705, 0.36785, -1.34959, -0.37755, 0.91374, -0.99858]  # tip at (-0.21, 0.045)
FAULT_S, RECOVERY_S = 1.0, 6.0
CUE_GOAL, FAR_GOAL = (0.15, 0.21), (-0.2, 0.3)
HELD = ("HOLD", "STOP")
TOLERANCE = 1e-6
LOST_MS = 1000.0  # of a recording, at most its last second


class Robot:
    """A healthy robot that stands still, and can be made to lie."""

    def __init__(self) -> None:
        import rclpy
        from geometry_msgs.msg import PoseStamped, TwistStamped
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from sensor_msgs.msg import JointState
        from std_msgs.msg import String
        from std_srvs.srv import Trigger

        from srdp_controller.ros.direct_take import LATCHED

        rclpy.init()
        self.node = Node("srdp_bench_faults")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._types = (JointState, PoseStamped)
        self._joints = self.node.create_publisher(JointState, "/joint_states", 5)
        self._poses = {name: self.node.create_publisher(PoseStamped, f"/{name}_pose", 5) for name in ("object", "goal")}
        self.node.create_subscription(String, "/srdp_controller/mode", self._on_mode, LATCHED)
        self.node.create_subscription(TwistStamped, "/srdp_controller/command", self._on_command, 100)
        self._reset = self.node.create_client(Trigger, "/srdp_controller/reset")
        self._trigger = Trigger.Request()
        self.mode = ""
        self.commands: list[tuple[float, float]] = []
        self.heal()

    def heal(self) -> None:
        """Be healthy."""
        self.joints = list(JOINTS)
        self.names = [f"lbr_iiwa_joint_{i}" for i in range(1, 8)]
        self.object, self.goal = (-0.15, 0.03), (0.15, 0.0)
        self.silent: set[str] = set()
        self.stamp_shift_ns = 0
        self.copies = 1
        self.alternate_stamps = False

    def _on_mode(self, message: Any) -> None:
        self.mode = message.data

    def _on_command(self, message: Any) -> None:
        self.commands.append((message.twist.linear.x, message.twist.linear.y))

    def publish(self) -> None:
        """One round of observations."""
        from builtin_interfaces.msg import Time

        joint_type, pose_type = self._types
        shift = self.stamp_shift_ns
        if self.alternate_stamps and round(time.monotonic() * 100) % 2:
            shift -= 100_000_000
        seconds, nanoseconds = divmod(time.time_ns() + shift, 1_000_000_000)
        stamp = Time(sec=seconds, nanosec=nanoseconds)
        for _ in range(self.copies):
            if "joint_states" not in self.silent:
                message = joint_type(name=self.names, position=self.joints[: len(self.names)])
                message.header.stamp = stamp
                self._joints.publish(message)
            for name, publisher in self._poses.items():
                if name not in self.silent:
                    pose = pose_type()
                    pose.header.stamp = stamp
                    pose.pose.position.x, pose.pose.position.y = getattr(self, name)
                    publisher.publish(pose)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Publish at 100 Hz and listen, for so long or until a condition holds; whether it does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.publish()
            following = time.monotonic() + 0.01
            while (left := following - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left)
        return until()

    def reset(self) -> None:
        """Ask the controller to leave STOP; the answer is not waited for."""
        self._reset.call_async(self._trigger)

    def close(self) -> None:
        """Leave the domain."""
        import rclpy

        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()


@dataclass
class Rig:
    """One controller process, its robot, and what a fault may need."""

    robot: Robot
    bundle: Path
    folder: Path
    environment: dict[str, str]
    parameters: dict[str, Any]
    controller: subprocess.Popen[bytes] | None = None
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    clock: Path | None = None  # says by what the controller's system clock is ahead
    recording: Path | None = None  # that of a controller that was killed
    killed_ns: int = 0

    def start(self) -> None:
        """Start the controller."""
        parameters = {"model_dir": str(self.bundle), "run_dir": str(self.folder), "record": True, **self.parameters}
        module, environment = "controller_node", self.environment
        if self.clock is not None:
            module, environment = "benchmarks.fault_clock_node", {**environment, VARIABLE: str(self.clock)}
        with (self.folder / "log.txt").open("ab") as log:
            self.controller = subprocess.Popen(
                node_command(module, parameters),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def set(self, **changes: str) -> None:
        """Set parameters of the controller; a refusal is an answer like any other."""
        from srdp_controller.ros.swap_client import set_parameters

        with contextlib.suppress(SrdpError):
            set_parameters(self.robot.node, changes, 5.0)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, how, and which modes are right answers to it."""

    name: str
    inject: Callable[[Rig], None]
    expected: tuple[str, ...]
    heal: Callable[[Rig], None] = lambda rig: None
    policy: str = ""
    misbehaviour: str = ""
    steps: int = SLOW_STEPS
    parameters: dict[str, Any] = field(default_factory=dict)
    ends: bool = False  # the controller's process ends in the fault
    fake_clock: bool = False  # the controller reads a clock that the fault can step


def _robot(**changes: Any) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        for name, value in changes.items():
            setattr(rig.robot, name, value)

    return inject


def _kill(number: int) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        assert rig.controller is not None
        rig.killed_ns = time.time_ns()
        rig.controller.send_signal(number)
        rig.controller.wait(20)
        rig.recording = rig.folder / "killed.mcap"
        os.link(rig.folder / "recording.mcap", rig.recording)  # the recorder outlives the controller and ends it

    return inject


def _restart(rig: Rig) -> None:
    (rig.folder / "recording.mcap").unlink()
    rig.robot.mode = ""
    rig.start()


AN_HOUR_NS = 3_600_000_000_000


def _step_clock(controller_ns: int, robot_ns: int) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        assert rig.clock is not None
        set_offset(rig.clock, controller_ns)
        rig.robot.stamp_shift_ns = robot_ns

    return inject


def _hog(rig: Rig) -> None:
    for _ in range(os.cpu_count() or 1):
        rig.others.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))


def _no_hog(rig: Rig) -> None:
    for process in rig.others:
        process.kill()
        process.wait()
    rig.others.clear()


def _damaged_bundle(rig: Rig) -> None:
    target = rig.folder / "damaged"
    shutil.copytree(rig.bundle, target)
    graph = target / "student_k1.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    rig.set(model_dir=str(target), engine="student_k1")


def _parameter_flood(rig: Rig) -> None:
    for number in range(200):
        rig.set(engine=f"student_k{number + 100}")
        rig.robot.publish()


def _swap_flood(rig: Rig) -> None:
    names = ("student_k1", "student_k2", "student_k8", "student_k4")
    end = time.monotonic() + 1.0
    number = 0
    while time.monotonic() < end:
        rig.set(engine=names[number % len(names)])
        number += 1
        rig.robot.run(0.001)


NO_ABSTENTION = {"abstain.enabled": False}
FAULTS = (
    Fault("object pose stops coming", _robot(silent={"object"}), HELD),
    Fault("every publisher dies", _robot(silent={"object", "goal", "joint_states"}), HELD),
    Fault("NaN in the object pose", _robot(object=(math.nan, 0.0)), HELD),
    Fault("infinity in the joint states", _robot(joints=[math.inf, *JOINTS[1:]]), HELD),
    Fault("a joint is missing", _robot(names=[f"lbr_iiwa_joint_{i}" for i in range(1, 7)]), HELD),
    Fault("object pose out of range", _robot(object=(5.0, 0.0)), HELD),
    Fault("stamps 0.5 s in the future", _robot(stamp_shift_ns=500_000_000), HELD),
    Fault("stamps 0.5 s in the past", _robot(stamp_shift_ns=-500_000_000), HELD),
    Fault("every message three times", _robot(copies=3), ("STUDENT",)),
    Fault("messages out of order", _robot(alternate_stamps=True), ("STUDENT",)),
    Fault("goal far outside the data", _robot(goal=FAR_GOAL), ("TEACHER",)),
    Fault("outside the data, teacher answers NaN", _robot(goal=FAR_GOAL), HELD, policy="teacher", misbehaviour="nan"),
    Fault("outside the data, teacher fails", _robot(goal=FAR_GOAL), HELD, policy="teacher", misbehaviour="fail"),
    Fault(
        "outside the data, teacher hangs",
        _robot(goal=FAR_GOAL),
        HELD,
        policy="teacher",
        misbehaviour="slow",
        steps=20 * SLOW_STEPS,
    ),
    Fault(
        "engine answers NaN",
        _robot(goal=CUE_GOAL),
        HELD,
        policy="student_k4",
        misbehaviour="nan",
        parameters=NO_ABSTENTION,
    ),
    Fault(
        "engine fails in the runtime",
        _robot(goal=CUE_GOAL),
        HELD,
        policy="student_k4",
        misbehaviour="fail",
        parameters=NO_ABSTENTION,
    ),
    Fault(
        "engine becomes slow (a quarter of a second)",
        _robot(goal=CUE_GOAL),
        ("STUDENT", *HELD),
        policy="student_k4",
        misbehaviour="slow",
        parameters=NO_ABSTENTION,
    ),
    Fault("swap to a damaged bundle", _damaged_bundle, ("STUDENT",)),
    Fault("200 wrong parameters in a row", _parameter_flood, ("STUDENT",)),
    Fault("engine swaps without a pause", _swap_flood, ("STUDENT",)),
    Fault("a busy process on every core", _hog, ("STUDENT",), _no_hog),
    Fault(
        "the controller's clock steps by an hour",
        _step_clock(AN_HOUR_NS, 0),
        HELD,
        _step_clock(0, 0),
        fake_clock=True,
    ),
    Fault(
        "everybody's clock steps by an hour, and back",
        _step_clock(AN_HOUR_NS, AN_HOUR_NS),
        ("STUDENT",),
        _step_clock(0, 0),
        fake_clock=True,
    ),
    Fault("the recording reaches its limit", lambda rig: None, ("STUDENT",), parameters={"record_limit": 0.02}),
    Fault("SIGTERM", _kill(signal.SIGTERM), ("ended",), _restart, ends=True),
    Fault("SIGKILL", _kill(signal.SIGKILL), ("ended",), _restart, ends=True),
)


def _entered(recording: Path, after_ns: int, before_ns: int) -> list[tuple[str, float]]:
    """Modes that were entered while the fault lasted, and how long after it began [ms], from the recording."""
    from mcap_ros2.reader import read_ros2_messages

    return [
        (entry.ros_msg.data, (entry.log_time_ns - after_ns) * 1e-6)
        for entry in read_ros2_messages(str(recording), topics=["/srdp_controller/mode"])
        if after_ns <= entry.log_time_ns < before_ns
    ]


def _answer(entered: list[tuple[str, float]], expected: tuple[str, ...]) -> tuple[str, float]:
    """The mode that a fault led to: the first that is a right answer, but for a student that should have gone on."""
    others = [item for item in entered if item[0] != "STUDENT"]
    if not others:
        return "STUDENT", 0.0
    if "STUDENT" in expected:
        return others[0]
    return next((item for item in others if item[0] in expected), others[0])


def _lost_ms(rig: Rig, record: dict[str, Any]) -> float:
    """What the recording lacks: of the last moments of a controller that was killed, or of the whole run."""
    from mcap_ros2.reader import read_ros2_messages

    path = rig.recording or rig.folder / "recording.mcap"
    stamps = [entry.log_time_ns for entry in read_ros2_messages(str(path), topics=["/srdp_controller/cycle"])]
    if rig.recording is not None:
        return max(0.0, (rig.killed_ns - max(stamps)) * 1e-6)
    return max(0.0, (record["cycles"] - len(stamps)) * 1e3 / record["update_rate_hz"])


def _unsafe(commands: list[tuple[float, float]], limits: dict[str, Any]) -> int:
    lower, upper = limits["lower"], limits["upper"]
    return sum(
        not all(
            math.isfinite(v) and low - TOLERANCE <= v <= high + TOLERANCE
            for v, low, high in zip(c, lower, upper, strict=True)
        )
        or math.hypot(*c) > limits["speed"] + TOLERANCE
        for c in commands
    )


def _run(
    fault: Fault, bundle: Path, robot: Robot, environment: dict[str, str], limits: dict[str, Any]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        used = bundle
        if fault.policy:
            used = misbehaving_bundle(bundle, folder / "bundle", fault.policy, fault.misbehaviour, fault.steps)  # type: ignore[arg-type]
        rig = Rig(robot, used, folder, environment, fault.parameters)
        if fault.fake_clock:
            rig.clock = folder / "clock"
            set_offset(rig.clock, 0)
        robot.heal()
        robot.mode = ""
        robot.commands = []
        rig.start()
        try:
            if not robot.run(30.0, lambda: robot.mode == "STUDENT"):
                raise SrdpError(f"{fault.name}: no STUDENT within 30 s: {(folder / 'log.txt').read_text()[-400:]}")
            robot.run(0.5)
            injected_ns = time.time_ns()
            fault.inject(rig)
            robot.run(FAULT_S)
            robot.heal()
            fault.heal(rig)
            asked = time.monotonic()

            def recovered() -> bool:
                nonlocal asked
                if robot.mode == "STOP" and time.monotonic() - asked > 0.5:
                    asked = time.monotonic()
                    robot.reset()
                return robot.mode == "STUDENT"

            if not fault.ends:
                robot.run(0.3)
            healthy = robot.run(20.0 if fault.ends else RECOVERY_S, recovered)
            robot.run(0.3)
            assert rig.controller is not None
            alive = rig.controller.poll() is None
            ended_ns = time.time_ns()  # then the controller stops because it is told to
        finally:
            _no_hog(rig)
            status = end_process(rig.controller, 20.0) if rig.controller is not None else None
        record = json.loads((folder / "controller.json").read_text())
        entered = [] if fault.ends else _entered(folder / "recording.mcap", injected_ns, ended_ns)
        mode, taken = ("ended", 0.0) if fault.ends else _answer(entered, fault.expected)
        unsafe = _unsafe(robot.commands, limits) + record["limit_violations"]
        lost_ms = _lost_ms(rig, record)
        whole = lost_ms <= LOST_MS or "record_limit" in fault.parameters
        return {
            "name": fault.name,
            "mode": mode,
            "expected": list(fault.expected),
            "modes": [name for name, _ in entered],
            "time_to_mode_ms": taken,
            "cycles": record["cycles"],
            "commands": record["commands"],
            "unsafe_commands": unsafe,
            "recording_lost_ms": lost_ms,
            "recovered": bool(healthy and alive and status == 0),
            "passed": bool(
                mode in fault.expected
                and unsafe == 0
                and whole
                and record["commands"] == record["cycles"]
                and healthy
                and alive
                and status == 0
            ),
        }


def bench_faults(bundle: Path, *, only: str, report: Report) -> dict[str, Any]:
    """Run the fault matrix (those whose name contains ``only``); returns the contract's keys.

    Raises:
        SrdpError: no fault has such a name, or a controller did not start.
    """
    chosen = [fault for fault in FAULTS if only.lower() in fault.name.lower()]
    if not chosen:
        raise SrdpError(f"--only {only}: no such fault; there are: {'; '.join(fault.name for fault in FAULTS)}")
    from srdp_controller.ros.parameters import load_schema

    environment = private_environment()
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        os.environ[name] = environment[name]
    spec = load_bundle(bundle).spec
    lower, upper = spec.action_limits()
    schema = load_schema("controller_parameters.yaml")
    limits = {"lower": lower.tolist(), "upper": upper.tolist(), "speed": schema["safety.max_speed"]["default"]}
    robot = Robot()
    rows = []
    try:
        for index, fault in enumerate(chosen):
            rows.append(_run(fault, bundle.resolve(), robot, environment, limits))
            report("faults", index + 1, len(chosen), f"{fault.name}: {rows[-1]['mode']}")
    finally:
        robot.close()
    return {"seed": 0, "faults": rows, "failed": not all(row["passed"] for row in rows)}
