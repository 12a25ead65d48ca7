"""``srdp bench soak``: controller and robot for an hour; does the controller's process grow?"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import SrdpError
from srdp_controller.processes import end_process, node_command, private_environment
from srdp_controller.progress import Report

SAMPLE_S = 5.0


def process_size(pid: int) -> tuple[int, int, int]:
    """Resident memory [bytes], threads and open files of a process.

    Raises:
        SrdpError: it has ended.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        raise SrdpError("the controller's process has ended") from None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:
        raise SrdpError("the controller's process has ended")
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["Threads"]), files


def bench_soak(
    bundle: Path, *, rate: float, engine: str, duration: float, warm_up: float, report: Report
) -> dict[str, Any]:
    """Run for ``duration`` seconds; growth counts from ``warm_up`` seconds on.

    Raises:
        SrdpError: a process ended, or the duration is not longer than the warm-up.
    """
    if duration <= warm_up + 2.0 * SAMPLE_S:
        raise SrdpError(f"--duration {duration:g}: expected more than the warm-up of {warm_up:g} s and two samples")
    environment = {**os.environ, **private_environment()}
    samples: list[tuple[float, int, int, int]] = []
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log.txt").open("wb") as log:
        parameters = {"engine": engine, "update_rate": rate, "model_dir": str(bundle.resolve()), "run_dir": name}
        robot, controller = (
            subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            for command in (
                node_command("robot_node", {"duration": 1e6, "run_dir": str(Path(name) / "robot")}),
                node_command("controller_node", parameters),
            )
        )
        began = time.monotonic()
        try:
            while (elapsed := time.monotonic() - began) < duration:
                time.sleep(min(SAMPLE_S, duration - elapsed))
                elapsed = time.monotonic() - began
                if robot.poll() is not None or controller.poll() is not None:
                    raise SrdpError(f"a process ended after {elapsed:.0f} s: {_tail(Path(name))}")
                samples.append((elapsed, *process_size(controller.pid)))
                report("soak", round(elapsed), round(duration), f"{samples[-1][1] / 2**20:.1f} MiB")
        finally:
            status = end_process(controller)
            end_process(robot)
        if status != 0:
            raise SrdpError(f"the controller ended with status {status}: {_tail(Path(name))}")
        record = json.loads((Path(name) / "controller.json").read_text())
    settled = np.array([sample for sample in samples if sample[0] >= warm_up])
    slope = np.polyfit(settled[:, 0], settled[:, 1], 1)[0] * 3600.0
    first, last = settled[0], settled[-1]
    growth = {
        "resident_bytes": int(last[1] - first[1]),
        "resident_bytes_per_hour": float(slope),
        "largest_resident_bytes": int(settled[:, 1].max() - first[1]),
        "threads": int(settled[:, 2].max() - first[2]),
        "open_files": int(settled[:, 3].max() - first[3]),
    }
    kept = ("cycles", "commands", "overruns", "modes", "abstentions", "lateness_us", "limit_violations")
    return {
        "seed": 0,
        "rate_hz": rate,
        "engine": engine,
        "duration_s": duration,
        "warm_up_s": warm_up,
        "resident_bytes": int(last[1]),
        "growth": growth,
        "failed": growth["resident_bytes"] >= 2**20 or growth["threads"] > 0 or growth["open_files"] > 0,
        **{key: record[key] for key in kept},
        "samples": [list(sample) for sample in samples[:: max(1, len(samples) // 120)]],
    }


def _tail(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-500:]
