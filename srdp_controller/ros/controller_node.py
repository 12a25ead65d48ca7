"""``/srdp_controller``: a managed node that drives a robot with a distilled student at a fixed rate.

The node keeps the life cycle. What exists while it is configured is a ``Session``; the loop runs in a thread of
its own on absolute deadlines and takes its topics itself; a second thread reports while the loop rests; any
executor serves parameters and services.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from srdp_controller.control.cycle import Cycle
from srdp_controller.control.loop import wait_for_slack
from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.engine import Engine
from srdp_controller.engines.providers import EngineOptions, load_engine
from srdp_controller.errors import SrdpError, cause_of
from srdp_controller.ros.guardian import Guardian
from srdp_controller.ros.inputs import SerializedSubscription, Subscription
from srdp_controller.ros.loop_thread import LoopThread, Publish
from srdp_controller.ros.parameters import DeploymentParameters, declare, load_schema
from srdp_controller.ros.reporting import REPORT_EVERY_S, Reporter
from srdp_controller.ros.run_files import write_run, write_telemetry
from srdp_controller.ros.session import Session


class ControllerNode(LifecycleNode):
    """Lifecycle node; parameters are those of config/controller_parameters.yaml.

    ``failure`` says why it cannot be configured, or why its loop has ended; ``failed`` is set once a failed loop has
    brought the robot to rest, has been reported, and the node is inactive.
    """

    subscription_class: type[Subscription] = SerializedSubscription
    serialized = True  # what is taken and published are bytes
    reports_in_a_thread = True  # else in a timer of the executor, wherever the loop is
    load: Callable[[LoadedBundle, str, str, EngineOptions], Engine] = staticmethod(load_engine)

    def __init__(self, guardian: Guardian | None = None, **options: Any) -> None:
        """``options`` are those of ``rclpy.node.Node``."""
        super().__init__("srdp_controller", **options)
        self._forked = guardian
        self._ended = threading.Event()
        self._reporting: threading.Thread | None = None
        schema = load_schema("controller_parameters.yaml")
        self.values = declare(self, schema)
        self.parameters = DeploymentParameters(self, schema)
        self.failure = ""
        self.failed = threading.Event()
        self.session: Session | None = None
        self._session_lock = threading.Lock()  # the reporting thread must not meet half a session
        self.reporter = Reporter(self)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/dump_telemetry", self._on_dump)
        if self.reports_in_a_thread:

            def report_for_ever() -> None:
                while not self._ended.wait(REPORT_EVERY_S):
                    self.report()

            self._reporting = threading.Thread(target=report_for_ever, name="report", daemon=True)
            self._reporting.start()
        else:
            self.create_timer(REPORT_EVERY_S, self.report)

    def make_loop(self, run: Callable[[int], None], cycle: Cycle, publish: Publish, stopping_s: float) -> LoopThread:
        """What will call ``run`` at its rate."""
        slot = self.guardian.slot if self.guardian is not None else None
        return LoopThread(run, cycle, publish, stopping_s, self.values, slot)

    @property
    def guardian(self) -> Guardian | None:
        """Who stops the robot when this process cannot, where that is wanted."""
        return self._forked if self.values["guardian.enabled"] else None

    @property
    def mode_topic(self) -> str:
        """Where the mode is said."""
        return self.reporter.mode_topic

    # --- life cycle --------------------------------------------------------------------------

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load, verify and warm up everything; what does not fit is said in one error."""
        self.failure = ""
        self.failed.clear()

        def configure() -> None:
            session = Session(self, self.values, self.parameters.request())
            self.parameters.slot = session.cycle.slot
            self.session = session

        return self._transition("configure", configure, TransitionCallbackReturn.FAILURE)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start the loop."""

        def activate() -> None:
            assert self.session is not None
            if self.session.loop.failure:
                raise SrdpError(f"{self.session.loop.failure}; clean up and configure it again")
            self.session.loop.start()

        return self._transition("activate", activate, TransitionCallbackReturn.FAILURE)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Slow down to a standstill, then stop the loop."""
        return self._transition("deactivate", self.stop_loop)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Release engines and topics."""
        return self._transition("clean up", self.release)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Stop the loop and release everything."""

        def shut_down() -> None:
            self.stop_loop()
            self.release()

        return self._transition("shut down", shut_down)

    def _transition(
        self, name: str, step: Callable[[], None], otherwise: TransitionCallbackReturn = TransitionCallbackReturn.ERROR
    ) -> TransitionCallbackReturn:
        """Run a transition's step; whatever goes wrong there becomes one line that says why, and a state as it is."""
        try:
            step()
        except Exception as error:
            self.failure = cause_of(error) if isinstance(error, SrdpError) else f"cannot {name}: {cause_of(error)}"
            self.get_logger().error(self.failure)
            return otherwise
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """A loop that could not be stopped in order: free everything; the node is unconfigured."""
        self._transition("free everything", self.release)
        return TransitionCallbackReturn.SUCCESS

    def stop_loop(self) -> None:
        """Bring the robot to rest, then end the loop."""
        if self.session is not None:
            self.session.loop.stop()

    def release(self) -> None:
        """Stop the loop and free everything that was configured."""
        with self._session_lock:
            session, self.session, self.parameters.slot = self.session, None, None
            if session is not None:
                session.close()

    def destroy_node(self) -> None:
        """End the reporting, then leave the graph."""
        self._ended.set()
        if self._reporting is not None:
            self._reporting.join(timeout=2.0)
        super().destroy_node()

    # --- services and reports ----------------------------------------------------------------

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        session = self.session
        if session is None or session.loop.failure:
            response.message = session.loop.failure if session else "the controller is not configured"
            return response
        supervisor = session.cycle.supervisor
        response.success, response.message = True, f"mode was {supervisor.mode.value}: {supervisor.reason}"
        supervisor.request_reset()
        return response

    def _on_dump(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            if self.session is None:
                raise SrdpError("the controller is not configured")
            response.message = str(write_telemetry(self.session, Path(self.values["run_dir"] or ".")))
            response.success = True
        except Exception as error:
            response.message = cause_of(error)
        return response

    def report(self) -> None:
        """Say what is new, let the parameters say what drives, and leave the active state when the loop has failed."""
        try:
            with self._session_lock:
                session = self.session
                if session is not None:
                    session.loop.watch(REPORT_EVERY_S)
                    if self.guardian is not None and not self.guardian.alive():
                        session.cycle.supervisor.fault("the guardian is gone; start the node anew")
                    wait_for_slack(session.loop.state, session.loop.period_ns)  # Python runs one thread at a time
                failed = session is not None and session.loop.failure != "" and not self.failed.is_set()
                if session is not None and failed:
                    self.failure = session.loop.failure
                    self.get_logger().fatal(self.failure)
                    self.reporter.say_all(session, self.failure)
                else:
                    refusal = self.parameters.follow()
                    if refusal:
                        self.get_logger().error(refusal)
                    self.reporter.step(session, self.failure)
            if failed:
                self.trigger_deactivate()
                self.failed.set()
        except Exception as error:  # the robot is driven all the same
            self.reporter.warn("report", f"a report failed: {cause_of(error)}")


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
    """Run the node until SIGINT or SIGTERM; 0 after a sound run, 2 when it could not start, 1 when its loop failed."""
    return run_node(ControllerNode, light_executor, arguments)


def run_node(
    node_class: type[ControllerNode], make_executor: Callable[[], Executor], arguments: list[str] | None
) -> int:
    """Run a controller node on an executor; the exit status as in ``main``."""
    guardian = Guardian()  # first: a process with threads cannot be forked
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = node_class(guardian)
    except SrdpError as error:
        print(f"srdp_controller: {error}", file=sys.stderr)
        rclpy.shutdown()
        guardian.close()
        return 2
    executor = make_executor()
    executor.add_node(node)
    status = 0
    if node.values["autostart"]:
        node.trigger_configure()
        if node.session is not None:
            node.trigger_activate()
        if node.failure:
            status = 2
            stop.set()
    while not stop.is_set() and not node.failed.is_set():
        executor.spin_once(timeout_sec=0.1)
    node.stop_loop()
    if node.failed.is_set():
        status = 1
    try:
        if node.values["run_dir"] and node.session is not None:
            write_run(node.session, Path(node.values["run_dir"]), node.failure)
        node.release()
    except Exception as error:  # a full disk, say: the robot stands by now, and the rest is ended in order
        node.get_logger().error(f"cannot end in order: {cause_of(error)}")
        status = 1
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    guardian.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
