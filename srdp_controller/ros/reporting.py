"""What the node says while it runs: the log, ``~/mode``, ``~/engine`` and ``/diagnostics``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import String

from srdp_controller.control.deployment import Deployment
from srdp_controller.control.histogram import Window
from srdp_controller.control.privileges import Privilege
from srdp_controller.control.supervisor import Mode, Supervisor
from srdp_controller.ros.inputs import LATCHED
from srdp_controller.ros.run_files import counters, times_of
from srdp_controller.ros.session import Session

REPORT_EVERY_S = 0.05


WINDOWS = ("lateness", "execution", "inference", "latency", "observation_age", "command_age")


class Reporter:
    """Says what there is to say, a little at a time: with cold caches the whole would hold the interpreter for long."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mode = node.create_publisher(String, "~/mode", LATCHED)
        self._engine = node.create_publisher(String, "~/engine", LATCHED)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._failure = ""
        self._said: dict[str, str] = {}
        self._refused_at = self._hold_said = 0.0
        self._privileges_said: list[Privilege] = []
        self._follow(None)
        self._steps = self._forever()

    @property
    def mode_topic(self) -> str:
        """What ``~/mode`` is called after remapping."""
        return str(self._mode.topic_name)

    def _follow(self, session: Session | None) -> None:
        """Begin to report on a session."""
        self._session = session
        self._refused_said = self._overruns = self._cycles = 0
        self._mode_sent: Mode | None = None
        self._deployment_sent: Deployment | None = None
        times = times_of(session) if session is not None else {}
        self._windows = {name: Window(times[name]) for name in WINDOWS if name in times}

    def step(self, session: Session | None, failure: str) -> None:
        """Say what is new; once a second, in steps, diagnostics too."""
        if session is not self._session:
            self._follow(session)
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
        slot, inputs = session.cycle.slot, session.inputs
        slot.sweep()
        if slot.current is not self._deployment_sent:
            self._deployment_sent = slot.current
            self._engine.publish(String(data=slot.current.name))
            of_several = f", of {slot.current.candidates} candidates" if slot.current.candidates > 1 else ""
            self.inform("engine", f"engine {slot.current.request}{of_several} drives")
        self._report_mode(session.cycle.supervisor)
        new = inputs.refused - self._refused_said
        if new and time.monotonic() - self._refused_at >= 1.0:
            self._node.get_logger().warning(f"{new} messages refused, last {inputs.refused_reason}")
            self._refused_said, self._refused_at = inputs.refused, time.monotonic()

    def _report_mode(self, supervisor: Supervisor) -> None:
        mode = supervisor.mode
        if mode is not self._mode_sent:
            self._mode_sent = mode
            self._mode.publish(String(data=mode.value))
        elif mode is not Mode.HOLD or time.monotonic() - self._hold_said < 1.0:
            return
        else:  # its reason may be another one by now
            self._hold_said = time.monotonic()
        self.inform("mode", f"mode {described(supervisor)}")

    def _diagnose(self) -> Iterator[None]:
        status = DiagnosticStatus(name="srdp_controller: control loop", hardware_id="srdp_controller")
        if self._session is None:
            status.level = DiagnosticStatus.ERROR if self._failure else DiagnosticStatus.STALE
            status.message = self._failure or "not configured"
        else:
            yield from self._fill(status, self._session)
        yield
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        yield
        self._diagnostics.publish(array)

    def _fill(self, status: DiagnosticStatus, session: Session) -> Iterator[None]:
        """Fill the status, in steps: WARN off the student or when cycles came late, ERROR when stopped or very late."""
        cycle, loop, values = session.cycle, session.loop.state, session.loop.values
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
        whole = whole_run(session)
        yield
        mode = cycle.supervisor.mode
        late = rolling["recent_lateness_p99_us"] * 1e-6
        old = rolling["recent_observation_age_p99_us"] * 1e-6 > values["diagnostics.age_warn"]
        budget = cycle.slot.current.budget
        spent = budget is not None and rolling["recent_command_age_p99_us"] * 1e-6 > budget.age_s
        overrunning = overruns > max(1, values["diagnostics.overruns_warn"] * cycles)
        swamped = overruns > max(1, values["diagnostics.overruns_error"] * cycles)
        if mode is Mode.STOP or late > values["diagnostics.lateness_error"] or swamped or self._failure:
            status.level = DiagnosticStatus.ERROR
        elif mode is not Mode.STUDENT or late > values["diagnostics.lateness_warn"] or overrunning or old or spent:
            status.level = DiagnosticStatus.WARN
        else:
            status.level = DiagnosticStatus.OK
        status.message = described(cycle.supervisor)
        if overrunning:
            status.message += (
                f"; {overruns} overruns of {cycles} cycles: wanted {whole['update_rate_hz']:.0f} Hz, a cycle took "
                f"{rolling['recent_execution_p99_us']:.0f} us (p99), {loop.missed_cycles} cycles missed in all"
            )
        if old:
            status.message += f"; observations are older than {values['diagnostics.age_warn'] * 1e3:.0f} ms (p99)"
        if budget is not None and spent:
            status.message += (
                f"; commands come from observations {rolling['recent_command_age_p99_us'] * 1e-3:.0f} ms old (p99), "
                f"more than the bundle's latency budget of {budget.age_s * 1e3:.0f} ms"
            )
        status.message = self._failure or status.message
        in_modes = {f"cycles_{kind.value}": count for kind, count in cycle.statistics.modes.items()}
        yield
        status.values = [KeyValue(key=key, value=str(value)) for key, value in (whole | rolling | in_modes).items()]


def described(supervisor: Supervisor) -> str:
    """The mode, and why it is not the student that drives."""
    mode = supervisor.mode
    return mode.value if mode is Mode.STUDENT else f"{mode.value}: {supervisor.reason}"


def whole_run(session: Session) -> dict[str, Any]:
    """Counters and percentiles since the loop began."""
    times, cycle = times_of(session), session.cycle
    return {
        **counters(session),
        "lateness_p99_us": round(times["lateness"].quantile(0.99) * 1e-3, 1),
        "execution_p99_us": round(times["execution"].quantile(0.99) * 1e-3, 1),
        "inference_p50_us": round(times["inference"].quantile(0.5) * 1e-3, 1),
        "latency_p50_us": round(times["latency"].quantile(0.5) * 1e-3, 1),
        "observation_age_p50_ms": round(times["observation_age"].quantile(0.5) * 1e-6, 2),
        "latent_distance": f"{cycle.statistics.score:.4g}",
        "threshold": f"{cycle.slot.current.threshold:.4g}",
        **{f"interventions_{name}": count for name, count in cycle.safety.interventions_by_cause.items()},
    }
