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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcap_ros2.reader import read_ros2_messages
from tyro.conf import Positional

from srdp_controller.benchmarks.fault_bundles import SLOW_STEPS, Misbehaviour, misbehaving_bundle
from srdp_controller.benchmarks.loop import cpu_hogs
from srdp_controller.benchmarks.still_robot import PROVOKED, Cue, StillRobot, find_scene
from srdp_controller.control.build import default_values
from srdp_controller.control.limits.common import stricter
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import (
    default_engine,
    end_process,
    join_private_domain,
    node_command,
    private_environment,
)
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report import tables
from srdp_controller.report.run import every_cycle_commanded
from srdp_controller.ros.client import set_parameters
from srdp_controller.spec import ActionGroup

FAULT_S, RECOVERY_S = 1.0, 6.0
HELD = ("HOLD", "STOP")
TOLERANCE = 1e-6
LEFT_OUT = dict.fromkeys(("cycles", "commands", "unsafe_commands"), 0) | {
    "expected": [],
    "modes": [],
    "time_to_mode_ms": 0.0,
    "last_command": {},
    "recording_lost_ms": 0.0,
    "recovered": True,
    "passed": True,
}
LOST_MS = 1000.0  # of a recording, at most its last second


@dataclass
class Rig:
    """One controller process, its robot, and what a fault may need."""

    robot: StillRobot
    bundle: Path
    engine: str
    others_than_engine: list[str]
    cue: Cue | None
    folder: Path
    parameters: dict[str, Any]
    controller: subprocess.Popen[bytes] | None = None
    hogs: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    clock: Path | None = None  # says by what the controller's system clock is ahead
    recording: Path | None = None  # that of a controller that was killed
    killed_ns: int = 0

    def start(self) -> None:
        """Start the controller."""
        common = {"engine": self.engine, "model_dir": str(self.bundle), "run_dir": str(self.folder), "record": True}
        parameters = {**common, **self.parameters}
        module, words = ("benchmarks.nodes", ["clock", str(self.clock)]) if self.clock else ("controller_node", [])
        with (self.folder / "log.txt").open("ab") as log:
            self.controller = subprocess.Popen(
                node_command(module, parameters, words),
                env=private_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def set(self, **changes: str) -> None:
        """Set parameters of the controller; a refusal is an answer like any other."""
        with contextlib.suppress(SrdpError):
            set_parameters(self.robot.node, changes, 5.0)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, how, and which modes are right answers to it."""

    name: str
    inject: Callable[[Rig], object]
    expected: tuple[str, ...]
    heal: Callable[[Rig], None] = lambda rig: None
    policy: Literal["", "engine", "teacher"] = ""
    misbehaviour: Misbehaviour = "nan"
    steps: int = SLOW_STEPS
    parameters: dict[str, Any] = field(default_factory=dict)
    ends: bool = False  # the controller's process ends in the fault
    needs: str = ""  # what a robot or a bundle may lack
    fake_clock: bool = False  # the controller reads a clock that the fault can step


def _robot(**changes: Any) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        for name, value in changes.items():
            setattr(rig.robot, name, value)

    return inject


def _silence(everything: bool) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        rig.robot.silent = set(rig.robot.values if everything else rig.robot.scene.required[-1:])

    return inject


def _write(value: float, last: bool) -> Callable[[Rig], None]:
    """The first or last required topic's first value becomes ``value``."""

    def inject(rig: Rig) -> None:
        rig.robot.values[rig.robot.scene.required[-1 if last else 0]][0] = value

    return inject


def _cut(rig: Rig) -> None:
    rig.robot.cut = set(rig.robot.can_be_cut[:1])


def _out_of_range(rig: Rig) -> None:
    assert rig.cue is not None
    component = rig.robot.scene.spec.observation[rig.cue.index]
    rig.robot.values[rig.cue.topic][rig.cue.place] = 2.0 * component.upper - component.lower


def _far(rig: Rig) -> None:
    assert rig.cue is not None
    rig.robot.values[rig.cue.topic][rig.cue.place] = rig.cue.value


def _kill(number: int) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        assert rig.controller is not None
        rig.killed_ns = time.time_ns()
        rig.controller.send_signal(number)
        rig.controller.wait(20)
        rig.recording = rig.folder / "killed.mcap"
        os.link(rig.folder / "recording.mcap", rig.recording)  # the recorder outlives the controller and ends it

    return inject


def _stop_process(rig: Rig) -> None:
    assert rig.controller is not None
    rig.killed_ns = time.time_ns()
    rig.controller.send_signal(signal.SIGSTOP)


def _continue_process(rig: Rig) -> None:
    """It goes on, finds that the guardian has stopped the robot, and ends."""
    assert rig.controller is not None
    rig.controller.send_signal(signal.SIGCONT)
    rig.controller.wait(20)
    rig.recording = rig.folder / "killed.mcap"
    os.link(rig.folder / "recording.mcap", rig.recording)
    _restart(rig)


def _restart(rig: Rig) -> None:
    (rig.folder / "recording.mcap").unlink()
    rig.robot.mode = ""
    rig.start()


AN_HOUR_NS = 3_600_000_000_000


def set_clock_offset(file: Path, offset_ns: int) -> None:
    """Step the clock of the controller (``benchmarks.nodes``) that reads ``file``."""
    with file.open("r+b" if file.exists() else "wb") as target:
        target.write(offset_ns.to_bytes(8, sys.byteorder, signed=True))


def _step_clock(controller_ns: int, robot_ns: int) -> Callable[[Rig], None]:
    def inject(rig: Rig) -> None:
        assert rig.clock is not None
        set_clock_offset(rig.clock, controller_ns)
        rig.robot.stamp_shift_ns = robot_ns

    return inject


def _damaged_bundle(rig: Rig) -> None:
    target, other = rig.folder / "damaged", rig.others_than_engine[0]
    shutil.copytree(rig.bundle, target)
    graph = target / load_bundle(target).policy(other).file
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    rig.set(model_dir=str(target), engine=other)


def _parameter_flood(rig: Rig) -> None:
    for number in range(200):
        rig.set(engine=f"no_engine_{number}")
        rig.robot.publish()


def _swap_flood(rig: Rig) -> None:
    names = [*rig.others_than_engine, rig.engine]
    end = time.monotonic() + 1.0
    number = 0
    while time.monotonic() < end:
        rig.set(engine=names[number % len(names)])
        number += 1
        rig.robot.run(0.001)


ENGINE: dict[str, Any] = {"policy": "engine", "parameters": {"abstain.enabled": False}, "needs": "component"}
FAULTS = (
    Fault("a required topic stops coming", _silence(False), HELD),
    Fault("every publisher dies", _silence(True), HELD),
    Fault("NaN in a message", _write(math.nan, True), HELD),
    Fault("infinity in a message", _write(math.inf, False), HELD),
    Fault("a message lacks an entry", _cut, HELD, needs="array"),
    Fault("a value out of range", _out_of_range, HELD, needs="component"),
    Fault("stamps 0.5 s in the future", _robot(stamp_shift_ns=500_000_000), HELD, needs="stamp"),
    Fault("stamps 0.5 s in the past", _robot(stamp_shift_ns=-500_000_000), HELD, needs="stamp"),
    Fault("every message three times", _robot(copies=3), ("STUDENT",)),
    Fault("messages out of order", _robot(alternate_stamps=True), ("STUDENT",)),
    Fault("far outside the data", _far, ("TEACHER",), needs="abstention"),
    Fault(
        "outside the data, teacher answers NaN", _far, HELD, policy="teacher", misbehaviour="nan", needs="abstention"
    ),
    Fault("outside the data, teacher fails", _far, HELD, policy="teacher", misbehaviour="fail", needs="abstention"),
    Fault(
        "outside the data, teacher hangs",
        _far,
        HELD,
        policy="teacher",
        misbehaviour="slow",
        steps=20 * SLOW_STEPS,
        needs="abstention",
    ),
    Fault("engine answers NaN", _far, HELD, **ENGINE, misbehaviour="nan"),
    Fault("engine fails in the runtime", _far, HELD, **ENGINE, misbehaviour="fail"),
    Fault("engine becomes slow (a quarter of a second)", _far, ("STUDENT", *HELD), **ENGINE, misbehaviour="slow"),
    Fault("swap to a damaged bundle", _damaged_bundle, ("STUDENT",), needs="swap"),
    Fault("200 wrong parameters in a row", _parameter_flood, ("STUDENT",)),
    Fault("engine swaps without a pause", _swap_flood, ("STUDENT",), needs="swap"),
    Fault(
        "a busy process on every core",
        lambda rig: rig.hogs.enter_context(cpu_hogs(True)),
        ("STUDENT",),
        lambda rig: rig.hogs.close(),
    ),
    Fault(
        "the controller's clock steps by an hour",
        _step_clock(AN_HOUR_NS, 0),
        HELD,
        _step_clock(0, 0),
        fake_clock=True,
        needs="stamp",
    ),
    Fault(
        "everybody's clock steps by an hour, and back",
        _step_clock(AN_HOUR_NS, AN_HOUR_NS),
        ("STUDENT",),
        _step_clock(0, 0),
        fake_clock=True,
    ),
    Fault("the recording reaches its limit", lambda rig: None, ("STUDENT",), parameters={"record_limit": 0.02}),
    Fault("SIGSTOP, and SIGCONT a second later", _stop_process, ("ended",), _continue_process, ends=True),
    Fault("SIGTERM", _kill(signal.SIGTERM), ("ended",), _restart, ends=True),
    Fault("SIGKILL", _kill(signal.SIGKILL), ("ended",), _restart, ends=True),
)


def _entered(recording: Path, after_ns: int, before_ns: int) -> list[tuple[str, float]]:
    """Modes that were entered while the fault lasted, and how long after it began [ms], from the recording."""
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
    path = rig.recording or rig.folder / "recording.mcap"
    stamps = [entry.log_time_ns for entry in read_ros2_messages(str(path), topics=["/srdp_controller/cycle"])]
    if rig.recording is not None:
        return max(0.0, (rig.killed_ns - max(stamps)) * 1e-6)
    return max(0.0, (record["cycles"] - len(stamps)) * 1e3 / record["update_rate_hz"])


def _unsafe(commands: list[tuple[ActionGroup, list[float]]], speed: float) -> int:
    """Commands outside any limit of their group, or not finite."""

    def inside(group: ActionGroup, values: list[float]) -> bool:
        for component, value in zip(group.components, values, strict=True):
            if not component.lower - TOLERANCE <= value <= component.upper + TOLERANCE:  # NaN is in no range
                return False
        linear = [v for c, v in zip(group.components, values, strict=True) if c.field.startswith("twist.linear")]
        return not linear or math.hypot(*linear) <= stricter(group.max_speed, speed) + TOLERANCE

    return sum(not inside(group, values) for group, values in commands)


def _lacks(robot: StillRobot, bundle: LoadedBundle, cue: Cue | None) -> dict[str, str]:
    """What faults need and this robot or bundle has not, with the reason."""
    found = {}
    if not robot.can_be_cut:
        found["array"] = "no required topic has an array"
    if not robot.stamped & set(robot.scene.required):
        found["stamp"] = "no required topic has a stamp"
    if len(bundle.content.policies) < 2:
        found["swap"] = "the bundle has one policy"
    if cue is None:
        found["component"] = found["abstention"] = "no required component is a field of a message"
    elif cue.score < PROVOKED or "teacher" not in bundle.content.policies:
        found["abstention"] = f"nothing provokes it: {cue.name} at {cue.value:.3g} scores {cue.score:.2f} thresholds"
    return found


def _run(fault: Fault, bundle: LoadedBundle, engine: str, robot: StillRobot, cue: Cue | None) -> dict[str, Any]:
    """A row of the matrix: a controller, a fault, and what became of both."""
    with tempfile.TemporaryDirectory() as name:
        folder, used = Path(name), bundle.folder.resolve()
        if fault.policy:
            assert cue is not None
            policy = engine if fault.policy == "engine" else fault.policy
            used = misbehaving_bundle(used, folder / "bundle", policy, cue, fault.misbehaviour, fault.steps)
        others = [one for one in bundle.content.policies if one not in (engine, "teacher")] or ["teacher"]
        rig = Rig(robot, used, engine, others, cue, folder, fault.parameters)
        if fault.fake_clock:
            rig.clock = folder / "clock"
            set_clock_offset(rig.clock, 0)
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

            def drives() -> bool:
                nonlocal asked
                if robot.mode == "STOP" and time.monotonic() - asked > 0.5:
                    asked = time.monotonic()
                    robot.reset()
                return robot.mode == "STUDENT"

            if not fault.ends:
                robot.run(0.3)
            healthy = robot.run(20.0 if fault.ends else RECOVERY_S, drives)
            robot.run(0.3)
            assert rig.controller is not None
            alive = rig.controller.poll() is None
            ended_ns = time.time_ns()  # then the controller stops because it is told to
        finally:
            rig.hogs.close()
            status = end_process(rig.controller, 20.0) if rig.controller is not None else None
        record = json.loads((folder / "controller.json").read_text())
        entered = [] if fault.ends else _entered(folder / "recording.mcap", injected_ns, ended_ns)
        mode, taken = ("ended", 0.0) if fault.ends else _answer(entered, fault.expected)
        unsafe = _unsafe(robot.commands, default_values()["safety.max_speed"]) + record["limit_violations"]
        lost_ms = _lost_ms(rig, record)
        whole = lost_ms <= LOST_MS or "record_limit" in fault.parameters
        recovered = bool(healthy and alive and status == 0)
        sound = unsafe == 0 and whole and every_cycle_commanded(record)
        return {
            "name": fault.name,
            "mode": mode,
            "expected": list(fault.expected),
            "modes": [name for name, _ in entered],
            "time_to_mode_ms": taken,
            "cycles": record["cycles"],
            "commands": record["commands"],
            "unsafe_commands": unsafe,
            "last_command": {group.name: values for group, values in robot.commands},
            "recording_lost_ms": lost_ms,
            "recovered": recovered,
            "passed": mode in fault.expected and sound and recovered,
        }


def bench_faults(
    bundle: Positional[Path] = Path("models/pushing"), *, only: str = "", engine: str = "", task: str = ""
) -> dict[str, Any]:
    """The fault matrix: which mode each fault leads to, and how soon.

    Args:
        bundle: bundle folder
        only: faults whose name contains this
        engine: a policy of the bundle; default: its middle student
        task: whose world shows the scene; default: the bundle's, else every component at its centre

    Raises:
        SrdpError: no fault has such a name, or a controller did not start.
    """
    chosen = [fault for fault in FAULTS if only.lower() in fault.name.lower()]
    if not chosen:
        raise SrdpError(f"--only {only}: no such fault; there are: {'; '.join(fault.name for fault in FAULTS)}")
    join_private_domain()
    report, loaded = ProgressPrinter(), load_bundle(bundle)
    engine = engine or default_engine(loaded)
    scene = find_scene(loaded.spec, task)
    cue = scene.cue(loaded, engine)
    robot = StillRobot(scene)
    rows: list[dict[str, Any]] = []
    try:
        lacks = _lacks(robot, loaded, cue)
        for index, fault in enumerate(chosen):
            if fault.needs in lacks:
                rows.append({"name": fault.name, **LEFT_OUT, "mode": f"left out: {lacks[fault.needs]}"})
            else:
                rows.append(_run(fault, loaded, engine, robot, cue))
            report("faults", index + 1, len(chosen), f"{fault.name}: {rows[-1]['mode']}")
    finally:
        robot.close()
    print(tables.faults({"faults": rows}))
    failed = [row["name"] for row in rows if not row["passed"]]
    for name in failed:
        print(f"FAILED: {name}")
    return {"seed": 0, "engine": engine, "cue": asdict(cue) if cue else None, "faults": rows, "failed": bool(failed)}
