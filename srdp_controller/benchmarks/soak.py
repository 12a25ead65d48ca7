"""``srdp bench soak``: controller and robot for an hour; does the controller's process grow?"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from srdp_controller.benchmarks.loop import run_with_robot
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import Pair, default_engine
from srdp_controller.progress import ProgressPrinter

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
    bundle: Positional[Path] = Path("models/pushing"),
    *,
    rate: float = 200.0,
    engine: str = "",
    duration: float = 3600.0,
    warm_up: float = 300.0,
    task: str = "",
) -> dict[str, Any]:
    """Does the controller's process grow while it runs for long?

    Args:
        bundle: bundle folder
        rate: update rate [Hz]
        engine: a policy of the bundle; default: its middle student
        duration: seconds
        warm_up: seconds that do not count
        task: whose robot is simulated; default: the bundle's

    Raises:
        SrdpError: a process ended, or the duration is not longer than the warm-up.
    """
    if duration <= warm_up + 2.0 * SAMPLE_S:
        raise SrdpError(f"--duration {duration:g}: expected more than the warm-up of {warm_up:g} s and two samples")
    report, loaded = ProgressPrinter(), load_bundle(bundle)
    engine = engine or default_engine(loaded)
    samples: list[tuple[float, int, int, int]] = []

    def sample(pair: Pair) -> None:
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < duration:
            time.sleep(min(SAMPLE_S, duration - elapsed))
            elapsed = time.monotonic() - began
            if pair.robot.poll() is not None or pair.controller.poll() is not None:
                raise SrdpError(f"a process ended after {elapsed:.0f} s: {pair.said()}")
            samples.append((elapsed, *process_size(pair.controller.pid)))
            report("soak", round(elapsed), round(duration), f"{samples[-1][1] / 2**20:.1f} MiB")

    record = run_with_robot(bundle, task or loaded.content.task, {"engine": engine, "update_rate": rate}, sample)
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
    print(
        f"{record['cycles']} cycles: resident memory {last[1] / 2**20:.1f} MiB, grown by "
        f"{growth['resident_bytes'] / 2**10:.0f} KiB since {warm_up:.0f} s, threads +{growth['threads']}, "
        f"open files +{growth['open_files']}"
    )
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
