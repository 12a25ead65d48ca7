"""What the node says while it runs: the log, ``~/mode``, ``~/engine`` and ``/diagnostics``."""

from __future__ import annotations

import time
from collections.abc import Iterator

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import String

from srdp_controller.control.deployment import Deployment
from srdp_controller.control.privileges import Privilege
from srdp_controller.control.supervisor import Mode
from srdp_controller.ros.diagnostics import Diagnostics, Thresholds
from srdp_controller.ros.inputs import LATCHED
from srdp_controller.ros.session import Session

REPORT_EVERY_S = 0.05


class Reporter:
    """Says what there is to say, a little at a time: with cold caches the whole would hold the interpreter for long."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mode = node.create_publisher(String, "~/mode", LATCHED)
        self._engine = node.create_publisher(String, "~/engine", LATCHED)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._session: Session | None = None
        self._failure = ""
        self._status: Diagnostics | None = None
        self._said: dict[str, str] = {}
        self._refused_said = 0
        self._refused_at = self._hold_said = 0.0
        self._mode_sent: Mode | None = None
        self._deployment_sent: Deployment | None = None
        self._privileges_said: list[Privilege] = []
        self._steps = self._forever()

    def step(self, session: Session | None, failure: str) -> None:
        """Say what is new; once a second, in steps, diagnostics too."""
        if session is not self._session:
            self._session, self._status, self._refused_said = session, None, 0
            self._mode_sent = self._deployment_sent = None
        self._failure = failure
        next(self._steps)

    def say_all(self, session: Session | None, failure: str) -> None:
        """Say everything now: the loop has ended, or there is none."""
        self.step(session, failure)
        for _ in self._diagnose():
            pass

    def warn(self, key: str, text: str) -> None:
        """Log a text of its kind, unless it is the same as the last one."""
        if text and self._said.get(key) != text:
            self._said[key] = text
            self._node.get_logger().warning(text)

    def inform(self, key: str, text: str) -> None:
        """As ``warn``; in a line of its own, since rclpy's logger allows one severity for each line of code."""
        if self._said.get(key) != text:
            self._said[key] = text
            self._node.get_logger().info(text)

    def _forever(self) -> Iterator[None]:
        while True:
            diagnosis = self._diagnose()
            for _ in range(round(1.0 / REPORT_EVERY_S)):
                if self._session is not None:
                    self._report(self._session)
                next(diagnosis, None)
                yield

    def _report(self, session: Session) -> None:
        if session.loop.privileges is not self._privileges_said:
            self._privileges_said = session.loop.privileges
            for privilege in self._privileges_said:
                say = self.warn if "refused" in privilege.text else self.inform
                say(privilege.name, f"{privilege.name}: {privilege.text}")
        for kind, text in (session.recording.complaints() if session.recording else {}).items():
            self.warn(kind, text)
        self.warn("episodes", session.episodes.refused)
        self._report_engine(session)
        self._report_mode(session)
        self._report_refused(session)

    def _report_engine(self, session: Session) -> None:
        slot = session.cycle.slot
        slot.sweep()
        if slot.current is not self._deployment_sent:
            self._deployment_sent = slot.current
            self._engine.publish(String(data=slot.current.name))
            self.inform("engine", f"engine {slot.current.request} drives")

    def _report_mode(self, session: Session) -> None:
        supervisor = session.cycle.supervisor
        mode = supervisor.mode
        reason = "" if mode is Mode.STUDENT else f": {supervisor.reason}"
        if mode is not self._mode_sent:
            self._mode_sent = mode
            self._mode.publish(String(data=mode.value))
            self.inform("mode", f"mode {mode.value}{reason}")
        elif mode is Mode.HOLD and time.monotonic() - self._hold_said >= 1.0:
            self.inform("mode", f"mode {mode.value}{reason}")
            self._hold_said = time.monotonic()

    def _report_refused(self, session: Session) -> None:
        inputs = session.inputs
        new = inputs.refused - self._refused_said
        if new and time.monotonic() - self._refused_at >= 1.0:
            self._node.get_logger().warning(f"{new} messages refused, last {inputs.refused_reason}")
            self._refused_said, self._refused_at = inputs.refused, time.monotonic()

    def _diagnose(self) -> Iterator[None]:
        session = self._session
        if session is None:
            status = DiagnosticStatus(name="srdp_controller: control loop", hardware_id="srdp_controller")
            status.level = DiagnosticStatus.ERROR if self._failure else DiagnosticStatus.STALE
            status.message = self._failure or "not configured"
        else:
            if self._status is None:
                self._status = Diagnostics(session, Thresholds.of(session.loop.values))
            status = yield from self._status.status(self._failure)
        yield
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        yield
        self._diagnostics.publish(array)
