"""Starts and ends the recorder's process (``recorder.py``), which follows the telemetry's ring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srdp_controller.control.telemetry import CLOSED, FAILED, LOST, STATUS, Telemetry
from srdp_controller.errors import SrdpError
from srdp_controller.spec import PolicySpec


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
        command = [sys.executable, "-m", "srdp_controller.ros.recorder", str(self._ring.path), str(path)]
        command += ["--columns", json.dumps(telemetry.columns), "--outputs", json.dumps(outputs_of(spec))]
        command += ["--limit-bytes", str(round(values["record_limit"] * 1e6)), "--parent", str(os.getpid())]
        self._process = subprocess.Popen(command)

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


def outputs_of(spec: PolicySpec) -> list[dict[str, Any]]:
    """What the recorder has to know of each action group: topic, message type, frame, and the components' names."""
    return [
        {
            "topic": group.output.topic.replace("~", "/srdp_controller", 1),
            "type": group.output.type,
            "frame": group.output.frame,
            "components": {f"command_{component.name}": component.field for component in group.components},
        }
        for group in spec.action_groups
    ]
