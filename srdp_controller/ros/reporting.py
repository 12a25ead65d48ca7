"""What the node says while it runs: the log, ``~/mode``, ``~/engine`` and ``/diagnostics``."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import String

from srdp_controller.control.deployment import Deployment
from srdp_controller.control.histogram import Window
from srdp_controller.control.privileges import Privilege
from srdp_controller.control.supervisor import Mode
from srdp_controller.ros.inputs import LATCHED
from srdp_controller.ros.run_files import counters
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
                self._status = Diagnostics(session)
            status = yield from self._status.status(self._failure)
        yield
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        yield
        self._diagnostics.publish(array)


class Diagnostics:
    """Makes the status: rolling figures since the last one, and those of the whole run."""

    def __init__(self, session: Session) -> None:
        self._session, self._values = session, session.loop.values
        statistics, loop = session.cycle.statistics, session.loop.state
        self._windows = {
            "lateness": Window(loop.lateness),
            "execution": Window(loop.execution),
            "inference": Window(statistics.inference),
            "latency": Window(statistics.latency),
            "observation_age": Window(statistics.observation_age),
        }
        self._overruns = self._cycles = 0

    def status(self, failure: str) -> Generator[None, None, DiagnosticStatus]:
        """The status, made in steps: WARN off the student or when cycles came late, ERROR when stopped or very late.

        With cold caches the whole would hold the interpreter for longer than a fast loop has to spare.
        """
        cycle, loop, values = self._session.cycle, self._session.loop.state, self._values
        recent = {name: window.advance() for name, window in self._windows.items()}
        if loop.cycles < self._cycles:  # the statistics began anew
            self._overruns = self._cycles = 0
        overruns, cycles = loop.overruns - self._overruns, loop.cycles - self._cycles
        self._overruns, self._cycles = loop.overruns, loop.cycles
        yield
        rolling: dict[str, Any] = {}
        for name, histogram in recent.items():
            for share, label in ((0.5, "p50"), (0.99, "p99")):
                rolling[f"recent_{name}_{label}_us"] = round(histogram.quantile(share) * 1e-3, 1)
            rolling[f"recent_{name}_max_us"] = round(histogram.largest * 1e-3, 1)
        yield
        whole = whole_run(self._session)
        yield
        mode = cycle.supervisor.mode
        status = DiagnosticStatus(name="srdp_controller: control loop", hardware_id="srdp_controller")
        late = rolling["recent_lateness_p99_us"] * 1e-6
        old = rolling["recent_observation_age_p99_us"] * 1e-6 > values["diagnostics.age_warn"]
        status.level, status.message = DiagnosticStatus.OK, mode.value
        overrunning = overruns > max(1, values["diagnostics.overruns_warn"] * cycles)
        if mode in (Mode.TEACHER, Mode.HOLD) or late > values["diagnostics.lateness_warn"] or overrunning or old:
            status.level = DiagnosticStatus.WARN
        swamped = overruns > max(1, values["diagnostics.overruns_error"] * cycles)
        if mode is Mode.STOP or late > values["diagnostics.lateness_error"] or swamped or failure:
            status.level = DiagnosticStatus.ERROR
        if mode is not Mode.STUDENT:
            status.message = f"{mode.value}: {cycle.supervisor.reason}"
        if overrunning:
            status.message += (
                f"; {overruns} overruns of {cycles} cycles: wanted {whole['update_rate_hz']:.0f} Hz, a cycle took "
                f"{rolling['recent_execution_p99_us']:.0f} us (p99), {loop.missed_cycles} cycles missed in all"
            )
        if old:
            status.message += f"; observations are older than {values['diagnostics.age_warn'] * 1e3:.0f} ms (p99)"
        if failure:
            status.message = failure
        in_modes = {f"cycles_{kind.value}": count for kind, count in cycle.statistics.modes.items()}
        entries = whole | rolling | in_modes
        yield
        status.values = [KeyValue(key=key, value=str(value)) for key, value in entries.items()]
        return status


def whole_run(session: Session) -> dict[str, Any]:
    """Counters and percentiles since the loop began."""
    cycle, loop, statistics = session.cycle, session.loop.state, session.cycle.statistics
    return {
        **counters(session),
        "lateness_p99_us": round(loop.lateness.quantile(0.99) * 1e-3, 1),
        "execution_p99_us": round(loop.execution.quantile(0.99) * 1e-3, 1),
        "inference_p50_us": round(statistics.inference.quantile(0.5) * 1e-3, 1),
        "latency_p50_us": round(statistics.latency.quantile(0.5) * 1e-3, 1),
        "observation_age_p50_ms": round(statistics.observation_age.quantile(0.5) * 1e-6, 2),
        "latent_distance": f"{statistics.score:.4g}",
        "threshold": f"{cycle.slot.current.threshold:.4g}",
        **{f"interventions_{name}": count for name, count in cycle.safety.interventions_by_cause.items()},
    }
