"""What the controller says of itself: its diagnostic status, and the record of a whole run."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from srdp_controller.control.controller import Controller
from srdp_controller.control.histogram import Window
from srdp_controller.control.loop import LoopState
from srdp_controller.control.privileges import Privilege
from srdp_controller.control.supervisor import Mode


@dataclass(frozen=True)
class Thresholds:
    """When /diagnostics says WARN and when ERROR, of the last interval: p99s [s], and overruns' share of the cycles."""

    lateness_warn: float = 0.001
    lateness_error: float = 0.005
    overruns_warn: float = 0.001
    overruns_error: float = 0.1
    age_warn: float = 0.15

    @classmethod
    def of(cls, values: dict[str, Any]) -> Thresholds:
        """From the ``diagnostics.*`` parameters."""
        return cls(**{item.name: values[f"diagnostics.{item.name}"] for item in fields(cls)})


class Diagnostics:
    """Makes the status for /diagnostics: rolling figures since the last one, and those of the whole run."""

    def __init__(self, controller: Controller, loop: LoopState, thresholds: Thresholds) -> None:
        self._controller, self._loop, self._thresholds = controller, loop, thresholds
        state = controller.state
        self._windows = {
            "lateness": Window(loop.lateness),
            "execution": Window(loop.execution),
            "inference": Window(state.inference),
            "latency": Window(state.latency),
            "observation_age": Window(state.observation_age),
        }
        self._overruns = self._cycles = 0

    def status(self, update_rate: float, failure: str) -> Generator[None, None, DiagnosticStatus]:
        """The status, made in steps: WARN off the student or when cycles came late, ERROR when stopped or very late.

        With cold caches the whole would hold the interpreter for longer than a fast loop has to spare.
        """
        controller, loop, thresholds = self._controller, self._loop, self._thresholds
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
        whole = whole_run(controller, loop, update_rate)
        yield
        state, mode = controller.state, controller.supervisor.mode
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
            status.message = f"{mode.value}: {controller.supervisor.reason}"
        if overrunning:
            status.message += (
                f"; {overruns} overruns of {cycles} cycles: wanted {update_rate:.0f} Hz, a cycle took "
                f"{rolling['recent_execution_p99_us']:.0f} us (p99), {loop.missed_cycles} cycles missed in all"
            )
        if old:
            status.message += f"; observations are older than {thresholds.age_warn * 1e3:.0f} ms (p99)"
        if failure:
            status.message = failure
        entries = whole | rolling | {f"cycles_{kind.value}": count for kind, count in state.modes.items()}
        yield
        status.values = [KeyValue(key=key, value=str(value)) for key, value in entries.items()]
        return status


def whole_run(controller: Controller, loop: LoopState, update_rate: float) -> dict[str, Any]:
    """Counters and percentiles since the loop began, for /diagnostics."""
    state = controller.state
    return {
        "engine": controller.slot.current.name,
        "update_rate_hz": update_rate,
        "cycles": loop.cycles,
        "commands": state.commands,
        "overruns": loop.overruns,
        "missed_cycles": loop.missed_cycles,
        "lateness_p99_us": round(loop.lateness.quantile(0.99) * 1e-3, 1),
        "execution_p99_us": round(loop.execution.quantile(0.99) * 1e-3, 1),
        "inference_p50_us": round(state.inference.quantile(0.5) * 1e-3, 1),
        "latency_p50_us": round(state.latency.quantile(0.5) * 1e-3, 1),
        "observation_age_p50_ms": round(state.observation_age.quantile(0.5) * 1e-6, 2),
        "latent_distance": f"{state.score:.4g}",
        "threshold": f"{controller.slot.current.threshold:.4g}",
        "abstentions": controller.abstention.count,
        "swaps": controller.slot.swaps,
        "rollbacks": controller.slot.rollbacks,
        "filter_interventions": controller.safety.interventions,
        "limit_violations": controller.safety.violations,
        "rejected_messages": state.rejected_messages,
    }


def run_record(
    controller: Controller, loop: LoopState, values: dict[str, Any], privileges: list[Privilege], failure: str
) -> dict[str, Any]:
    """Counters and percentiles of a whole run, for ``controller.json``."""
    state = controller.state
    return {
        "engine": controller.slot.current.name,
        "provider": controller.slot.current.engine.provider,
        "update_rate_hz": values["update_rate"],
        "cycles": loop.cycles,
        "commands": state.commands,
        "overruns": loop.overruns,
        "missed_cycles": loop.missed_cycles,
        "lateness_us": loop.lateness.percentiles(),
        "period_error_us": loop.period_error.percentiles(),
        "execution_us": loop.execution.percentiles(),
        "inference_us": state.inference.percentiles(),
        "overhead_us": state.overhead.percentiles(),
        "latency_us": state.latency.percentiles(),
        "observation_age_ms": state.observation_age.percentiles(1e6),
        "modes": {mode.value: count for mode, count in state.modes.items()},
        "by_mode": {
            mode.value: {
                "overruns": state.by_mode[mode].overruns,
                "lateness_us": state.by_mode[mode].lateness.percentiles(),
                "execution_us": state.by_mode[mode].execution.percentiles(),
                "inference_us": state.by_mode[mode].inference.percentiles(),
                "latency_us": state.by_mode[mode].latency.percentiles(),
                "observation_age_ms": state.by_mode[mode].age.percentiles(1e6),
            }
            for mode, count in state.modes.items()
            if count
        },
        "abstentions": controller.abstention.count,
        "teacher_plans": controller.teacher.plans,
        "swaps": controller.slot.swaps,
        "rollbacks": controller.slot.rollbacks,
        "filter_interventions": controller.safety.interventions,
        "limit_violations": controller.safety.violations,
        "rejected_messages": state.rejected_messages,
        "engine_failures": state.engine_failures,
        "histograms": {
            name: {"counts": histogram.sparse(), "largest": histogram.largest, "total": histogram.total}
            for name, histogram in (
                ("lateness_us", loop.lateness),
                ("inference_us", state.inference),
                ("overhead_us", state.overhead),
            )
        },
        "privileges": {item.name: item.text for item in privileges},
        "failure": failure,
    }
