"""What a run leaves in its folder: ``controller.json`` and ``telemetry.csv``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.files import write_file, write_json
from srdp_controller.provenance import describe_run
from srdp_controller.ros.session import Session


def write_telemetry(session: Session, folder: Path) -> Path:
    """Write the cycles in memory as CSV; returns the file."""
    path, telemetry, text = folder / "telemetry.csv", session.telemetry, io.BytesIO()
    np.savetxt(text, telemetry.rows(), delimiter=",", header=",".join(telemetry.columns), comments="", fmt="%.6g")
    write_file(path, text.getvalue())
    return path


def write_run(session: Session, folder: Path, failure: str) -> None:
    """Write ``controller.json``, and the telemetry of the run where it was recorded."""
    values, loop = session.loop.values, session.loop
    record = run_record(session, failure)
    if loop.late_cycles is not None:
        record["late_cycles"] = loop.late_cycles.record()
    write_json(folder / "controller.json", {**describe_run("controller_node", values["seed"]), **record})
    if values["record"]:
        write_telemetry(session, folder)


def run_record(session: Session, failure: str) -> dict[str, Any]:
    """Counters and percentiles of a whole run, for ``controller.json``."""
    cycle, loop, values = session.cycle, session.loop.state, session.loop.values
    statistics, slot = cycle.statistics, cycle.slot
    by_mode = {
        mode.value: {
            "overruns": one.overruns,
            "lateness_us": one.lateness.percentiles(),
            "execution_us": one.execution.percentiles(),
            "inference_us": one.inference.percentiles(),
            "latency_us": one.latency.percentiles(),
            "observation_age_ms": one.age.percentiles(1e6),
        }
        for mode, one in statistics.by_mode.items()
        if statistics.modes[mode]
    }
    kept = (
        ("lateness_us", loop.lateness),
        ("inference_us", statistics.inference),
        ("overhead_us", statistics.overhead),
    )
    return {
        "engine": slot.current.name,
        "provider": slot.current.engine.provider,
        "update_rate_hz": values["update_rate"],
        "cycles": loop.cycles,
        "commands": statistics.commands,
        "overruns": loop.overruns,
        "missed_cycles": loop.missed_cycles,
        "lateness_us": loop.lateness.percentiles(),
        "period_error_us": loop.period_error.percentiles(),
        "execution_us": loop.execution.percentiles(),
        "inference_us": statistics.inference.percentiles(),
        "overhead_us": statistics.overhead.percentiles(),
        "latency_us": statistics.latency.percentiles(),
        "observation_age_ms": statistics.observation_age.percentiles(1e6),
        "modes": {mode.value: count for mode, count in statistics.modes.items()},
        "by_mode": by_mode,
        "abstentions": cycle.abstention.count,
        "alarms_between_episodes": statistics.alarms_between_episodes,
        "teacher_plans": cycle.teacher.plans,
        "swaps": slot.swaps,
        "rollbacks": slot.rollbacks,
        "filter_interventions": cycle.safety.interventions,
        "interventions": dict(cycle.safety.interventions_by_cause),
        "limit_violations": cycle.safety.violations,
        "rejected_messages": session.inputs.refused,
        "engine_failures": statistics.engine_failures,
        "histograms": {
            name: {"counts": histogram.sparse(), "largest": histogram.largest, "total": histogram.total}
            for name, histogram in kept
        },
        "privileges": {item.name: item.text for item in session.loop.privileges},
        "failure": failure,
    }
