"""The controller's status for ``/diagnostics``."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from srdp_controller.control.histogram import Window
from srdp_controller.control.supervisor import Mode
from srdp_controller.ros.session import Session


@dataclass(frozen=True)
class Thresholds:
    """When /diagnostics says WARN and when ERROR, of the last interval: p99s [s], and overruns' share of the cycles."""

    lateness_warn: float = 0.001
    lateness_error: float = 0.005
    overruns_warn: float = 0.001
    overruns_error: float = 0.1
    age_warn: float = 0.15

    @classmethod
    def of(cls, values: Any) -> Thresholds:
        """From the ``diagnostics.*`` parameters."""
        return cls(**{item.name: values[f"diagnostics.{item.name}"] for item in fields(cls)})


class Diagnostics:
    """Makes the status: rolling figures since the last one, and those of the whole run."""

    def __init__(self, session: Session, thresholds: Thresholds) -> None:
        self._session, self._thresholds = session, thresholds
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
        cycle, loop, thresholds = self._session.cycle, self._session.loop.state, self._thresholds
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
        old = rolling["recent_observation_age_p99_us"] * 1e-6 > thresholds.age_warn
        status.level, status.message = DiagnosticStatus.OK, mode.value
        overrunning = overruns > max(1, thresholds.overruns_warn * cycles)
        if mode in (Mode.TEACHER, Mode.HOLD) or late > thresholds.lateness_warn or overrunning or old:
            status.level = DiagnosticStatus.WARN
        swamped = overruns > max(1, thresholds.overruns_error * cycles)
        if mode is Mode.STOP or late > thresholds.lateness_error or swamped or failure:
            status.level = DiagnosticStatus.ERROR
        if mode is not Mode.STUDENT:
            status.message = f"{mode.value}: {cycle.supervisor.reason}"
        if overrunning:
            status.message += (
                f"; {overruns} overruns of {cycles} cycles: wanted {whole['update_rate_hz']:.0f} Hz, a cycle took "
                f"{rolling['recent_execution_p99_us']:.0f} us (p99), {loop.missed_cycles} cycles missed in all"
            )
        if old:
            status.message += f"; observations are older than {thresholds.age_warn * 1e3:.0f} ms (p99)"
        if failure:
            status.message = failure
        in_modes = {f"cycles_{kind.value}": count for kind, count in cycle.statistics.modes.items()}
        entries = whole | rolling | in_modes
        yield
        status.values = [KeyValue(key=key, value=str(value)) for key, value in entries.items()]
        return status


def whole_run(session: Session) -> dict[str, Any]:
    """Counters and percentiles since the loop began."""
    cycle, loop = session.cycle, session.loop.state
    statistics, slot = cycle.statistics, cycle.slot
    causes = {f"interventions_{name}": count for name, count in cycle.safety.interventions_by_cause.items()}
    return {
        "engine": slot.current.name,
        "update_rate_hz": session.loop.values["update_rate"],
        "cycles": loop.cycles,
        "commands": statistics.commands,
        "overruns": loop.overruns,
        "missed_cycles": loop.missed_cycles,
        "lateness_p99_us": round(loop.lateness.quantile(0.99) * 1e-3, 1),
        "execution_p99_us": round(loop.execution.quantile(0.99) * 1e-3, 1),
        "inference_p50_us": round(statistics.inference.quantile(0.5) * 1e-3, 1),
        "latency_p50_us": round(statistics.latency.quantile(0.5) * 1e-3, 1),
        "observation_age_p50_ms": round(statistics.observation_age.quantile(0.5) * 1e-6, 2),
        "latent_distance": f"{statistics.score:.4g}",
        "threshold": f"{slot.current.threshold:.4g}",
        "abstentions": cycle.abstention.count,
        "alarms_between_episodes": statistics.alarms_between_episodes,
        "swaps": slot.swaps,
        "rollbacks": slot.rollbacks,
        "filter_interventions": cycle.safety.interventions,
        **causes,
        "limit_violations": cycle.safety.violations,
        "rejected_messages": session.inputs.refused,
    }
