"""``/srdp_controller``: a managed node that drives a robot with a distilled student at a fixed rate.

The loop runs in a thread of its own on absolute deadlines and takes its observation topics itself;
the executor keeps parameters, services and diagnostics.
"""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from srdp_controller.control.assembly import build_controller, safety_limits
from srdp_controller.control.clock import sleep_then_spin, sleep_until
from srdp_controller.control.controller import Controller, nowhere
from srdp_controller.control.deployment import (
    Deployment,
    Wanted,
    fits,
    measure,
    require_chunk,
    require_fit,
    require_same_robot,
)
from srdp_controller.control.late_cycles import LateCycles
from srdp_controller.control.loop import LoopState, LoopTiming, rehearsal_before, run_loop, wait_for_slack
from srdp_controller.control.planner import PlanWorker
from srdp_controller.control.privileges import (
    Privilege,
    ShallowIdle,
    lock_memory,
    raise_helpers,
    use_affinity,
    use_fifo,
)
from srdp_controller.control.supervisor import Mode
from srdp_controller.control.telemetry import CLOSED, FAILED, LOST, STATUS, Telemetry
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.engines.engine import Engine
from srdp_controller.engines.engine_cache import cache_folder
from srdp_controller.engines.providers import NATIVE, EngineOptions, load_engine
from srdp_controller.engines.signature import require_signature
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_json
from srdp_controller.observation import NEVER_NS, ObservationAssembler
from srdp_controller.provenance import describe_run
from srdp_controller.resources import find_resource
from srdp_controller.ros.command import CommandMessage
from srdp_controller.ros.diagnostics import Diagnostics, Thresholds, run_record
from srdp_controller.ros.direct_take import LATCHED, LATEST, SerializedSubscription, Subscription, extractor
from srdp_controller.ros.parameters import declare, load_schema, refuse
from srdp_controller.ros.recorder import require_mcap
from srdp_controller.ros.serialized import MessageReader, SerializedReader

FUTURE_TOLERANCE_NS = 5_000_000
TELEMETRY_ROWS = 120_000
REPORT_EVERY_S = 0.05
CREDIBLE_NS = 10_000_000_000
COLLECTION_NS = 500_000  # slack that a collection of the youngest generation needs


def bundle_folder(model_dir: str) -> Path:
    """The folder that a ``model_dir`` parameter stands for; empty: the shipped bundle."""
    return Path(model_dir) if model_dir else find_resource("models/pushing")


class _Input:
    """One observation topic: subscription, extraction and the check of its messages."""

    def __init__(self, node: ControllerNode, assembler: ObservationAssembler, topic: str) -> None:
        plan = assembler.plans[topic]
        joints = {name for kinematics, _, _ in plan.kinematics for name in kinematics.joint_names}
        frame = assembler.spec.workspace.frame
        message_type, extract, check = extractor(plan.type, plan.fields, frame, joints)
        plain = MessageReader(extract, check)
        self.reader = SerializedReader(message_type, extract, plain) if node.serialized else plain
        self.subscription = node.subscription_class(node, message_type, topic, LATCHED if plan.optional else LATEST)
        self.topic = topic
        self.checked: object = None


class ControllerNode(LifecycleNode):
    """Lifecycle node around ``Controller``; parameters are those of config/controller_parameters.yaml.

    Whoever spins it calls ``report`` between two spins (``run_node`` does), or from a timer.
    """

    subscription_class: type[Subscription] = SerializedSubscription
    serialized = True  # what is taken and published are bytes
    load: Callable[[LoadedBundle, str, str, EngineOptions], Engine] = staticmethod(load_engine)

    def __init__(self) -> None:
        super().__init__("srdp_controller")
        self.values = declare(self, load_schema("controller_parameters.yaml"))
        self.failure = ""
        self._controller: Controller | None = None
        self._bundle: LoadedBundle | None = None
        self._loop_state = LoopState()
        self._period_ns = 0
        self._diagnostics: Diagnostics | None = None
        self._thread: threading.Thread | None = None
        self._running = False
        self._reverting = False
        self._said: dict[str, str] = {}
        self._rejected_said = 0
        self._rejected_at = self._mode_said = 0.0
        self._mode_sent: Mode | None = None
        self._deployment_sent: Deployment | None = None
        self._privileges: list[Privilege] = []
        self._privileges_said: list[Privilege] = []
        self._idle = ShallowIdle()
        self._recorder: subprocess.Popen[bytes] | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        self._mode_publisher = self.create_publisher(String, "~/mode", LATCHED)
        self._engine_publisher = self.create_publisher(String, "~/engine", LATCHED)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/dump_telemetry", self._on_dump)
        self._late_cycles: LateCycles | None = None
        self._report_due = 0.0
        self._reports = self._report_in_steps()

    # --- lifecycle ---------------------------------------------------------------------------

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load, verify and warm up everything; one clear error where that fails."""
        try:
            self._configure()
        except SrdpError as error:
            self.failure = str(error)
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start the loop."""
        self._running = True
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Slow down to a standstill, then stop the loop."""
        self.stop_loop()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Release the engines."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Stop the loop and release everything."""
        self.stop_loop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        values = self.values
        wanted = Wanted(values["engine"], values["model_dir"], values["provider"])
        folder = bundle_folder(wanted.model_dir)
        self._bundle = bundle = self._load_bundle(folder)
        self._asked = wanted
        self._latest: Deployment | None = None
        spec = bundle.spec
        self._period_ns = round(1e9 / values["update_rate"])
        first = self._prepare(wanted)
        assembler = ObservationAssembler(spec)
        self._inputs = [_Input(self, assembler, topic) for topic in assembler.plans]
        self._command = CommandMessage(spec, values["command.type"] == "float64_multi_array", self.serialized)
        self._command_publisher = self.create_publisher(self._command.type, "~/command", 1)
        self._rehearsal_ns = rehearsal_before(round(values["rehearsal_time"] * 1e9), self._period_ns)
        # nobody listens to it, so publishing warms the middleware's code and sends nothing
        self._practice_publisher = (
            self.create_publisher(self._command.type, "~/_rehearsal", 1) if self._rehearsal_ns else None
        )
        safety_limits(values, spec)  # before anything is started
        if values["helper_priority"] >= values["thread_priority"] > 0:
            raise SrdpError(
                f"parameter helper_priority: {values['helper_priority']}: expected less than thread_priority "
                f"({values['thread_priority']}), or others would delay the control thread"
            )
        if values["record"]:
            require_mcap()
        telemetry = Telemetry(
            TELEMETRY_ROWS, tuple(component.name for component in spec.observation), shared=values["record"]
        )
        if values["record"]:
            self._recorder = self._start_recorder(telemetry)
        self._controller = build_controller(
            values,
            assembler,
            first,
            self._prepare,
            PlanWorker(first.teacher, "teacher"),
            PlanWorker(first.engine, "planner"),
            telemetry,
            self._take,
            self._publish,
            self._practise if self._rehearsal_ns else nowhere,
        )
        self._controller.loop = self._loop_state
        self._assembler = assembler
        self.get_logger().info(
            f"bundle {folder}: engine {first.name} on {first.engine.provider}, "
            f"run time {first.run_time_ns * 1e-3:.0f} us in a period of {self._period_ns * 1e-3:.0f} us"
            f"{' (planning ahead)' if first.ahead else ''}, "
            f"abstention threshold {first.threshold:.3g}"
        )

    def _start_recorder(self, telemetry: Telemetry) -> subprocess.Popen[bytes]:
        assert telemetry.ring is not None and self._bundle is not None
        folder = Path(self.values["run_dir"] or ".")
        path = folder / "recording.mcap"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            telemetry.ring.unlink()
            raise SrdpError(f"record: {path}: {error.strerror}; choose another run_dir") from None
        command = [sys.executable, "-m", "srdp_controller.ros.recorder", str(telemetry.ring.path), str(path)]
        command += ["--columns", json.dumps(telemetry.columns), "--frame", self._bundle.spec.workspace.frame]
        command += ["--limit-bytes", str(round(self.values["record_limit"] * 1e6)), "--parent", str(os.getpid())]
        return subprocess.Popen(command)

    def _stop_recorder(self) -> None:
        if self._recorder is None or self._controller is None:
            return
        ring = self._controller.telemetry.ring
        assert ring is not None
        ring.header[CLOSED] = 1
        try:
            self._recorder.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            self._recorder.kill()
        self._recorder = None

    def _load_bundle(self, folder: Path) -> LoadedBundle:
        bundle = load_bundle(folder)
        if self.values["trusted_keys"]:
            require_signature(bundle, list(self.values["trusted_keys"]))
        return bundle

    def _load_engine(self, bundle: LoadedBundle, name: str, provider: str) -> Engine:
        values = self.values
        options = EngineOptions(values["engine_cache"], values["precision"], values["provider_fallback"])
        if provider in NATIVE:
            folder = cache_folder(bundle, options.cache)
            self.get_logger().info(f"{name}: {provider} engine from {folder}; it is built now where it is not there")
        engine = self.load(bundle, name, provider, options)
        if options.fall_back and engine.provider != provider:
            self.get_logger().warning(f"{name} runs on {engine.provider}: provider {provider} cannot be used here")
        return engine

    def _prepare(self, wanted: Wanted) -> Deployment:
        """Load, verify, warm up and measure an engine; refuse one that does not fit period or robot."""
        assert self._bundle is not None
        folder = bundle_folder(wanted.model_dir)
        bundle = self._bundle if folder == self._bundle.folder else self._load_bundle(folder)
        require_same_robot(self._bundle.spec, bundle.spec, str(folder))
        name = wanted.engine
        engine = self._load_engine(bundle, name, wanted.provider)
        run_time = measure(engine, 100 if engine.evaluations <= 16 else 20)
        planning, spec = self.values["planning.mode"], bundle.spec
        ahead = planning == "ahead" or (planning == "auto" and not fits(run_time, self._period_ns))
        if ahead:
            chunk_ns = round(spec.horizon * spec.step_s * 1e9)
            require_chunk(name, run_time, chunk_ns, round(self.values["observation.max_age"] * 1e9))
        else:
            require_fit(name, run_time, self._period_ns)
        threshold = math.inf
        if self.values["abstain.enabled"] and name != "teacher":
            threshold = bundle.calibration().threshold(name, self.values["abstain.alpha"])
        last = self._latest
        if last is not None and (last.wanted.model_dir, last.wanted.provider) == (wanted.model_dir, wanted.provider):
            teacher = last.teacher
        else:
            teacher = self._load_engine(bundle, "teacher", wanted.provider)
        self._latest = Deployment(wanted, engine, threshold, run_time, teacher, ahead)
        return self._latest

    def _release(self) -> None:
        if self._controller is not None:
            self._stop_recorder()
            self._controller.teacher.close()
            self._controller.ahead.close()
            self._controller = self._diagnostics = None
            for source in self._inputs:
                source.subscription.close()
            self.destroy_publisher(self._command_publisher)
            if self._practice_publisher is not None:
                self.destroy_publisher(self._practice_publisher)

    # --- the loop's thread -------------------------------------------------------------------

    def _run(self) -> None:
        values = self.values
        controller = self._controller
        assert controller is not None
        self._privileges = [
            use_fifo(values["thread_priority"]),
            use_affinity(values["cpu_affinity"]),
            lock_memory(values["lock_memory"]),
            self._idle.open(values["cpu_dma_latency"]),
            self._raise_helpers(),
        ]
        sys.setswitchinterval(2e-4)
        gc.collect()
        gc.freeze()
        gc.disable()
        spin_ns = round(values["spin_time"] * 1e9)
        timing = LoopTiming(
            self._period_ns,
            sleep_then_spin(spin_ns) if spin_ns else sleep_until,
            values["overruns.manage"],
            self._rehearsal_ns,
        )
        self._late_cycles = LateCycles(self._period_ns) if values["statistics.late_cycles"] else None
        cycle, running = self._counted_cycle(), lambda: self._running
        if self._late_cycles is not None:
            timing, cycle = replace(timing, wait=self._late_cycles.wait(timing.wait)), self._late_cycles.cycle(cycle)
        try:
            run_loop(timing, self._loop_state, cycle, running, self._collect_garbage, controller.rehearse)
        except Exception as error:  # the loop's thread must say why it died, whatever it was
            self.failure = f"the control loop failed: {type(error).__name__}: {error}"
            self.get_logger().fatal(self.failure)
        finally:
            gc.enable()
            self._idle.close()
            if self._late_cycles is not None:
                self._late_cycles.close()

    def _raise_helpers(self) -> Privilege:
        assert self._controller is not None
        priority = self.values["helper_priority"] if self.values["thread_priority"] else 0
        return raise_helpers(priority, self._controller.long_running_threads())

    def _counted_cycle(self) -> Callable[[int], None]:
        """The controller's cycle; before the first one after ``statistics.warm_up`` the statistics begin anew."""
        controller = self._controller
        assert controller is not None
        warm_up_cycles = round(self.values["statistics.warm_up"] * 1e9) // self._period_ns
        if not warm_up_cycles:
            return controller.cycle
        loop, state, left = self._loop_state, controller.state, warm_up_cycles

        def cycle(now_ns: int) -> None:
            nonlocal left
            if left >= 0:
                left -= 1
                if left < 0:
                    loop.restart_statistics()
                    state.restart_statistics()
                    if self._late_cycles is not None:
                        self._late_cycles.clear()
            controller.cycle(now_ns)

        return cycle

    def _collect_garbage(self, deadline_ns: int) -> None:
        if deadline_ns - time.monotonic_ns() > COLLECTION_NS and gc.get_count()[0] > 5000:
            gc.collect(0)

    def _take(self, now_ns: int) -> int:
        assembler = self._assembler
        controller = self._controller
        assert controller is not None
        newest = 0
        system_ns = time.time_ns()
        offset = system_ns - now_ns
        for source in self._inputs:
            taken = source.subscription.take()
            if taken is None:
                continue
            message, received_ns = taken
            stamp_ns, values, wrong = source.reader.read(message)
            age_ns = system_ns - stamp_ns
            if wrong is None and age_ns < -FUTURE_TOLERANCE_NS:
                wrong = f"its stamp is {-age_ns * 1e-6:.1f} ms in the future; synchronise the clocks"
            if wrong is None:
                component = assembler.update(source.topic, values, now_ns - age_ns)
                if component is None:
                    received = received_ns - offset
                    if abs(now_ns - received) < CREDIBLE_NS:  # the system clock may have been stepped since
                        newest = max(newest, received)
                    continue
                wrong = f"{component} is not finite or outside its limits"
            controller.state.rejected_messages += 1
            controller.state.rejected_reason = f"{source.topic}: {wrong}"
        return newest

    def _publish(self, command: list[float], observed_ns: int) -> None:
        self._command_publisher.publish(self._command.of(command, self._stamp_ns(observed_ns)))

    def _practise(self, command: list[float], observed_ns: int) -> None:
        assert self._practice_publisher is not None
        self._practice_publisher.publish(self._command.of(command, self._stamp_ns(observed_ns)))

    @staticmethod
    def _stamp_ns(observed_ns: int) -> int:
        """The observation's time on the system clock, for a stamp [ns]; 0 where there is none."""
        return 0 if observed_ns == NEVER_NS else time.time_ns() - (time.monotonic_ns() - observed_ns)

    def stop_loop(self) -> None:
        """Bring the tool to rest through the safety filter, then end the loop's thread."""
        if self._thread is None or self._controller is None:
            return
        self._controller.supervisor.fault("deactivated")
        give_up = time.monotonic() + 1.0
        while time.monotonic() < give_up and self._thread.is_alive():
            if self._controller.supervisor.mode is Mode.STOP and not any(self._controller.safety.command):
                break
            time.sleep(0.005)
        self._running = False
        self._thread.join(timeout=2.0)
        self._thread = None

    # --- the executor's thread ---------------------------------------------------------------

    def _on_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        changes = {
            parameter.name: parameter.value
            for parameter in parameters
            if parameter.name in ("engine", "model_dir", "provider")
        }
        if not changes or self._reverting or self._controller is None:
            return SetParametersResult(successful=True)
        wanted = replace(self._asked, **changes)
        try:
            load_bundle(bundle_folder(wanted.model_dir)).policy(wanted.engine)
        except SrdpError as error:
            return refuse(str(error))
        self._asked = wanted
        self._controller.slot.request(wanted)
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        controller = self._controller
        response.success = controller is not None
        if controller is None:
            response.message = "the controller is not configured"
        else:
            response.message = f"mode was {controller.supervisor.mode.value}: {controller.supervisor.reason}"
            controller.supervisor.request_reset()
        return response

    def _on_dump(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        folder = Path(self.values["run_dir"] or ".")
        try:
            response.message = str(self.write_telemetry(folder))
            response.success = True
        except OSError as error:
            response.message = f"{folder}: {error.strerror}"
        return response

    def _say(self, key: str, text: str, warn: bool = False) -> None:
        if self._said.get(key) != text:
            self._said[key] = text
            if warn:  # two lines: rclpy's logger allows one severity for each line of code
                self.get_logger().warning(text)
            else:
                self.get_logger().info(text)

    def _report_changes(self) -> None:
        controller = self._controller
        for privilege in self._privileges:
            self._say(privilege.name, f"{privilege.name}: {privilege.text}", warn="refused" in privilege.text)
        self._privileges_said += self._privileges
        self._privileges = []
        if controller is None:
            return
        ring = controller.telemetry.ring
        if ring is not None and ring.header[STATUS] == FAILED:
            self._say("recorder", "the recording failed and has ended; its own line says why", warn=True)
        if ring is not None and ring.header[LOST]:
            self._say("lost", "the recorder fell behind: the recording has gaps", warn=True)
        slot = controller.slot
        slot.sweep()
        if slot.refusal:
            self.get_logger().error(f"swap refused: {slot.refusal}; {slot.current.name} goes on")
            slot.refusal = ""
            self._asked = current = slot.current.wanted
            self._reverting = True
            for name in ("engine", "model_dir", "provider"):
                self.set_parameters([Parameter(name, Parameter.Type.STRING, getattr(current, name))])
            self._reverting = False
        if slot.current is not self._deployment_sent:
            self._deployment_sent = slot.current
            self._engine_publisher.publish(String(data=slot.current.name))
            self._say("engine", f"engine {slot.current.wanted} drives")
        mode = controller.supervisor.mode
        reason = "" if mode is Mode.STUDENT else f": {controller.supervisor.reason}"
        if mode is not self._mode_sent:
            self._mode_sent = mode
            self._mode_publisher.publish(String(data=mode.value))
            self._say("mode", f"mode {mode.value}{reason}")
        elif mode is Mode.HOLD and time.monotonic() - self._mode_said >= 1.0:
            self._say("mode", f"mode {mode.value}{reason}")
            self._mode_said = time.monotonic()
        self._report_rejections(controller)

    def _report_rejections(self, controller: Controller) -> None:
        state = controller.state
        new = state.rejected_messages - self._rejected_said
        if new and time.monotonic() - self._rejected_at >= 1.0:
            self.get_logger().warning(f"{new} messages refused, last {state.rejected_reason}")
            self._rejected_said = state.rejected_messages
            self._rejected_at = time.monotonic()

    def report(self) -> float:
        """Say what there is to say, a little at a time and while the loop rests; returns when more is due [s from now].

        For the thread that spins the node's executor. A timer would interrupt the loop wherever that is.
        """
        left = self._report_due - time.monotonic()
        if left > 0.0:
            return left
        self._report_due = time.monotonic() + REPORT_EVERY_S
        wait_for_slack(self._loop_state, self._period_ns)
        next(self._reports)
        return REPORT_EVERY_S

    def _report_in_steps(self) -> Iterator[None]:
        """Changes as they come, and diagnostics once a second."""
        while True:
            diagnosis = self._diagnose()
            for _ in range(round(1.0 / REPORT_EVERY_S)):
                self._report_changes()
                next(diagnosis, None)
                yield

    def _diagnose(self) -> Iterator[None]:
        controller = self._controller
        if controller is None:
            status = DiagnosticStatus(name="srdp_controller: control loop", hardware_id="srdp_controller")
            status.level, status.message = DiagnosticStatus.STALE, self.failure or "not configured"
        else:
            if self._diagnostics is None:
                self._diagnostics = Diagnostics(controller, self._loop_state, Thresholds.of(self.values))
            status = yield from self._diagnostics.status(self.values["update_rate"], self.failure)
        yield
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        yield
        self._diagnostics_publisher.publish(array)

    # --- after the run -----------------------------------------------------------------------

    def write_telemetry(self, folder: Path) -> Path:
        """Write the recorded cycles as CSV; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "telemetry.csv"
        telemetry = self._controller.telemetry if self._controller else Telemetry(1)
        header = ",".join(telemetry.columns)
        np.savetxt(path, telemetry.rows(), delimiter=",", header=header, comments="", fmt="%.6g")
        return path

    def write_run(self, folder: Path) -> None:
        """Write ``controller.json`` and the telemetry of the run."""
        controller = self._controller
        if controller is None:
            return
        record = run_record(
            controller, self._loop_state, self.values, self._privileges_said + self._privileges, self.failure
        )
        if self._late_cycles is not None:
            record["late_cycles"] = self._late_cycles.record()
        write_json(folder / "controller.json", {**describe_run("controller_node", self.values["seed"]), **record})
        if self.values["record"]:
            self.write_telemetry(folder)


def light_executor() -> Executor:
    """The executor that holds the interpreter's lock for the shortest time.

    That driven by events (rclpy of ROS 2 Kilted and later) keeps its books in C++; an executor that waits on
    sets builds them anew in Python whenever it wakes up, and the control thread waits for it now and then.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 0 after a sound run, 2 when it could not start."""
    return run_node(ControllerNode, light_executor, arguments)


def run_node(
    node_class: type[ControllerNode], make_executor: Callable[[], Executor], arguments: list[str] | None
) -> int:
    """Run a controller node on an executor; the exit status as in ``main``."""
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = node_class()
    except SrdpError as error:
        print(f"srdp_controller: {error}", file=sys.stderr)
        rclpy.shutdown()
        return 2
    executor = make_executor()
    executor.add_node(node)
    status = 0
    if node.values["autostart"]:
        node.trigger_configure()
        if node.failure:
            status = 2
            stop.set()
        else:
            node.trigger_activate()
    while not stop.is_set() and not node.failure:
        executor.spin_once(timeout_sec=node.report())
    node.stop_loop()
    if node.values["run_dir"]:
        node.write_run(Path(node.values["run_dir"]))
    if node.failure and status == 0:
        status = 1
    node._release()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return status


if __name__ == "__main__":
    sys.exit(main())
