"""``srdp experiment commitment``: how a stochastic policy is kept to what it has begun, over the loop's rate.

| way | what ties a cycle to the one before |
| --- | --- |
| fresh | nothing: noise is drawn in every cycle |
| held T | one draw of the noise is kept for T seconds |
| chunks T | a chunk is executed for T seconds before the policy is asked again |
| coherent N | of N chunks, drawn in every cycle, the one that goes on with the plan in force |

All with the controller's own cycle in virtual time. Inference takes no time, unless ``measured``: then a policy waits
as long as it takes on this machine, N chunks longer than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from srdp_controller.certify.intervals import shares_apart
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import with_level
from srdp_controller.evaluation.closed_loop import RESULTS, Job
from srdp_controller.evaluation.latency import summary
from srdp_controller.experiments.cells import driven, inference_times, measured_as
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report.tables import commitment as commitment_table
from srdp_controller.report.tables import label
from srdp_controller.simulation.world import FAILED
from srdp_controller.tasks.task import find_task

FIRST_SEED = 6_000_000
NO_WAY = (FAILED, "stuck")  # words for episodes that took none


@dataclass(frozen=True)
class Way:
    """A row of the table above; times in seconds."""

    held: float = 0.0
    chunks: float = 0.0
    candidates: int = 1

    @property
    def name(self) -> str:
        """As in the table above."""
        if self.candidates > 1:
            tied = f", held {self.held:g} s" if self.held else ""
            return f"coherent {self.candidates}{tied}"
        if self.chunks:
            return f"chunks {self.chunks:g} s"
        return f"held {self.held:g} s" if self.held else "fresh"

    @property
    def values(self) -> dict[str, Any]:
        """The controller's parameters."""
        return {
            "noise.hold_time": self.held,
            "planning.execution_time": self.chunks,
            "sampling.candidates": self.candidates,
        }


def ways(held: Sequence[float], chunks: Sequence[float], candidates: Sequence[int]) -> list[Way]:
    """Fresh noise, and what was asked for."""
    return [
        Way(),
        *(Way(held=time_s) for time_s in held),
        *(Way(chunks=time_s) for time_s in chunks),
        *(Way(candidates=number) for number in candidates),
    ]


def commitment(
    bundle: tyro.conf.Positional[Path],
    *,
    policies: tuple[str, ...] = ("student_k1",),
    rates: tuple[float, ...] = (10.0, 50.0, 100.0, 500.0),
    held: tuple[float, ...] = (0.2, 0.4),
    chunks: tuple[float, ...] = (0.2, 0.4),
    candidates: tuple[int, ...] = (4, 16),
    scenario: str = "nominal",
    measured: bool = False,
    episodes: int = 200,
    processes: int = 2,
    baselines: Path | None = None,
    run_folder: Path = Path("runs/commitment"),
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Success and the ways taken, for each way to keep a policy to what it has begun; run it again to go on.

    Args:
        bundle: folder, e.g. models/avoiding
        policies: of the bundle, ddim_kN, or a baseline's name
        rates: of the loop [Hz]
        held: times for which one draw of the noise is kept [s]
        chunks: times for which a chunk is executed [s]
        candidates: numbers of chunks that are drawn in a cycle
        scenario: of the task
        measured: inference takes what it takes on this machine, measured first, rather than nothing
        episodes: of each cell, the same for all
        processes: that share them
        baselines: folder of those that were trained (default: runs/TASK/baselines)
        run_folder: keeps what is finished
        results: folder of the best starting levels

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks a world.
    """
    if episodes < 1 or min((*rates, *held, *chunks, *candidates), default=0.0) <= 0.0:
        raise SrdpError("expected at least one episode and one rate, and numbers above 0")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    task = find_task(loaded.content.task)
    names = [with_level(loaded, task, name, results, lambda *now: report("starting level", *now)) for name in policies]
    found = ways(held, chunks, candidates)
    took: dict[tuple[str, int], list[float]] = {}
    if measured:
        wanted = [(name, way.candidates) for name in names for way in found]
        took = inference_times(loaded, wanted, run_folder, baselines)
    demonstrations = loaded.content.provenance["stages"].get("collect", {}).get("metrics", {})
    cells = [(name, way, rate) for name in names for way in found for rate in rates]
    rows: list[dict[str, Any]] = []
    for number, (name, way, rate) in enumerate(cells):
        values = {
            **way.values,
            "update_rate": rate,
            "planning.mode": "every_cycle",
            "observation.max_age": max(1.0, way.chunks + 0.5),  # no way is stopped for the age of what it saw
            "abstain.enabled": False,
        }
        job = Job(bundle, name, task.name, scenario, values, took.get((name, way.candidates), ()), baselines=baselines)
        row = {"policy": name, "way": way.name, "update_rate_hz": rate, **way.values}
        rows.append({**row, **driven(job, range(FIRST_SEED, FIRST_SEED + episodes), processes, run_folder)})
        compare_ways(rows[-1]["ways"], demonstrations)
        done = f"{label(name)}, {way.name}, {rate:g} Hz: {rows[-1]['success_rate']:.0%}"
        report("commitment", number + 1, len(cells), done)
    print(commitment_table({"table": rows}))
    return {
        "seed": FIRST_SEED,
        "task": task.name,
        "scenario": scenario,
        "bundle_sha256": loaded.identity,
        "episodes": episodes,
        "inference_us": summary({measured_as(*pair): times for pair, times in took.items()}),
        "demonstrations": demonstrations,
        "table": rows,
    }


def compare_ways(found: dict[str, Any], demonstrations: Mapping[str, Any]) -> None:
    """Add to each metric of ``closed_loop.ways`` how far its shares are from the demonstrations' that succeeded."""
    for name, way in found.items():
        shown = {kind: count for kind, count in demonstrations.get(name, {}).items() if kind not in NO_WAY}
        apart, interval, floor = shares_apart(way["counts"], shown, np.random.default_rng(0))
        way |= {
            "from_demonstrations": apart,
            "from_demonstrations_interval": interval,
            "from_demonstrations_floor": floor,
        }
