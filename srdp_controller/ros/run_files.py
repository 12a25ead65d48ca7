"""What a run leaves in its folder: ``controller.json``, ``telemetry.csv`` and ``recording.mcap``.

The last is written by a process of its own (``recorder.py``), which follows the telemetry's ring.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srdp_controller.control.histogram import Histogram
from srdp_controller.control.telemetry import CLOSED, FAILED, LOST, STATUS, Telemetry
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file, write_json
from srdp_controller.provenance import describe_run
from srdp_controller.spec import PolicySpec

if TYPE_CHECKING:
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
    record = describe_run("controller_node", values["seed"]) | run_record(session, failure)
    if loop.late_cycles is not None:
        record["late_cycles"] = loop.late_cycles.record()
    write_json(folder / "controller.json", record)
    if values["record"]:
        write_telemetry(session, folder)


def counters(session: Session) -> dict[str, Any]:
    """What has been counted since the loop began.

    ``commands`` and ``cycles_before_ready``, in which the robot's state was not known and there was nothing to
    command, add up to ``cycles``.
    """
    cycle, loop = session.cycle, session.loop.state
    return {
        "engine": cycle.slot.current.name,
        "update_rate_hz": session.loop.values["update_rate"],
        "cycles": loop.cycles,
        "commands": cycle.statistics.commands,
        "cycles_before_ready": session.loop.cycles_before_ready,
        "overruns": loop.overruns,
        "missed_cycles": loop.missed_cycles,
        "abstentions": cycle.abstention.count,
        "alarms_between_episodes": cycle.statistics.alarms_between_episodes,
        "swaps": cycle.slot.swaps,
        "rollbacks": cycle.slot.rollbacks,
        "filter_interventions": cycle.safety.interventions,
        "limit_violations": cycle.safety.violations,
        "rejected_messages": session.inputs.refused,
    }


def times_of(session: Session) -> dict[str, Histogram]:
    """The whole run's histograms [ns] by name."""
    loop, statistics = session.loop.state, session.cycle.statistics
    return {
        "lateness": loop.lateness,
        "period_error": loop.period_error,
        "execution": loop.execution,
        "inference": statistics.inference,
        "overhead": statistics.overhead,
        "latency": statistics.latency,
        "observation_age": statistics.observation_age,
        "command_age": statistics.command_age,
    }


def percentiles(times: Mapping[str, Histogram]) -> dict[str, dict[str, float]]:
    """Percentiles as ``NAME_us``; ages as ``NAME_ms``."""
    ages = {f"{name}_ms": times[name].percentiles(1e6) for name in times if name.endswith("_age")}
    return {f"{name}_us": times[name].percentiles() for name in times if not name.endswith("_age")} | ages


def run_record(session: Session, failure: str) -> dict[str, Any]:
    """Counters and percentiles of a whole run, for ``controller.json``."""
    statistics, slot, times = session.cycle.statistics, session.cycle.slot, times_of(session)
    by_mode = {}
    for mode, one in statistics.by_mode.items():
        if statistics.modes[mode]:
            names = ("lateness", "execution", "inference", "latency")
            of_mode = {name: getattr(one, name) for name in names} | {"observation_age": one.age}
            by_mode[mode.value] = {"overruns": one.overruns, **percentiles(of_mode)}
    return {
        **counters(session),
        "provider": slot.current.engine.provider,
        "engines": [
            {"since_s": since_s, "engine": name, "candidates": candidates} for since_s, name, candidates in slot.history
        ],
        **percentiles(times),
        "modes": {mode.value: count for mode, count in statistics.modes.items()},
        "by_mode": by_mode,
        "teacher_plans": session.cycle.teacher.plans,
        "interventions": dict(session.cycle.safety.interventions_by_cause),
        "engine_failures": statistics.engine_failures,
        "histograms": {
            f"{name}_us": {"counts": times[name].sparse(), "largest": times[name].largest, "total": times[name].total}
            for name in ("lateness", "inference", "overhead")
        },
        "privileges": {item.name: item.text for item in session.loop.privileges},
        "failure": failure,
        "reason": session.loop.reason,
    }


def require_mcap() -> None:
    """Say what to install where the MCAP packages are missing.

    Raises:
        SrdpError: they are.
    """
    try:
        import mcap_ros2.writer  # noqa: F401
    except ImportError:
        raise SrdpError("record: the MCAP writer is not installed: pip install 'srdp_controller[record]'") from None


class Recording:
    """A recording under way: ``recording.mcap`` in the run folder."""

    def __init__(self, telemetry: Telemetry, spec: PolicySpec, values: Mapping[str, Any]) -> None:
        """Start the process.

        Raises:
            SrdpError: the file cannot be written.
        """
        assert telemetry.ring is not None
        self._ring = telemetry.ring
        path = Path(values["run_dir"] or ".") / "recording.mcap"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            self._ring.unlink()
            raise SrdpError(f"record: {path}: {error.strerror}; choose another run_dir") from None
        limit_bytes = round(values["record_limit"] * 1e6)
        self._process = subprocess.Popen(recorder_command(telemetry, spec, path, limit_bytes))

    def complaints(self) -> dict[str, str]:
        """What is wrong with the recording, by kind; empty where nothing is."""
        header, found = self._ring.header, {}
        if header[STATUS] == FAILED:
            found["recorder"] = "the recording failed and has ended; its own line says why"
        if header[LOST]:
            found["lost"] = "the recorder fell behind: the recording has gaps"
        return found

    def close(self) -> None:
        """Let the recorder write the last row and the index; kill it where it does not end."""
        self._ring.header[CLOSED] = 1
        try:
            self._process.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()


def recorder_command(telemetry: Telemetry, spec: PolicySpec, path: Path, limit_bytes: int) -> list[str]:
    """The command that records a shared ring into a file while this process lives.

    ``outputs`` is what the recorder has to know of each action group: ``components`` names the fields of the message by
    the telemetry's columns.
    """
    assert telemetry.ring is not None
    outputs = [
        {
            "topic": group.output.topic.replace("~", "/srdp_controller", 1),
            "type": group.output.type,
            "frame": group.output.frame,
            "components": {f"command_{component.name}": component.field for component in group.components},
        }
        for group in spec.action_groups
    ]
    job = {
        "ring": str(telemetry.ring.path),
        "path": str(path),
        "columns": telemetry.columns,
        "outputs": outputs,
        "limit_bytes": limit_bytes,
        "parent": os.getpid(),
    }
    return [sys.executable, "-m", "srdp_controller.ros.recorder", json.dumps(job)]
