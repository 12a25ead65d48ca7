"""``srdp experiment latency``: what delay costs each policy, and each way to run a slow one, on a bundle's task.

| way | what is executed while an evaluation is under way |
| --- | --- |
| instant | nothing has to be: inference takes no time; what the policy could do if it were fast |
| in the loop | the last command, on and on: nobody is there to send the next |
| newest chunk | the chunk before, on and on; of the new one what is past by then is dropped |
| faded in | the same, and the new chunk is faded in |
| inpainting | real-time chunking (2506.07339): the new chunk is guided to go on from the one before |
| warm start | DDIM from the noised rest of the chunk before |
| trained prefix | the policy was trained to be told what is executed until it is ready (2512.05964) |
| in the loop, N chunks | as many are sampled in each cycle as the bundle says, and the coherent one is driven |
| corrected | a small network mends each action of the late chunk from the newest observation (2509.23224) |

All with the controller's own cycle in virtual time. An evaluation takes what it takes on this machine, measured first;
each ``delay`` is added between a command and its effect, for all alike. A way that has lost is not driven with longer
delays, and ``instant``, which only says what there is to lose, with none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from srdp_controller.engines.bundle import INPAINTING, LoadedBundle, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import with_level
from srdp_controller.evaluation.closed_loop import RESULTS, Job
from srdp_controller.evaluation.latency import summary
from srdp_controller.experiments.cells import driven, inference_times, measured_as
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report.tables import delay as delay_table
from srdp_controller.report.tables import run_as
from srdp_controller.tasks.task import find_task

FIRST_SEED = 7_000_000
HOLDS_AFTER_S = 1.0  # long plans are the point here: no way is stopped for the age of what it saw


@dataclass(frozen=True)
class Way:
    """A row of the table.

    Attributes:
        name: as in the table above.
        policy: as ``baselines.load_policy`` takes it.
        planning: ``planning.mode``.
        blend_s: ``planning.blend_time``.
        prefixed: whether it needs the bundle that was trained with a prefix.
        candidates: chunks sampled in a cycle.
    """

    name: str
    policy: str
    planning: str = "ahead"
    blend_s: float = 0.0
    prefixed: bool = False
    candidates: int = 1


def ways(bundle: LoadedBundle, instant: Sequence[str], fast: Sequence[str], prefixed: bool, warm: str) -> list[Way]:
    """The teacher in every way that the bundle (and its twin with a prefix) allows, and the ``fast`` policies."""
    content = bundle.content
    found = [Way("instant", policy, "every_cycle") for policy in instant]
    found += [
        Way("in the loop", "teacher", "every_cycle"),
        Way("newest chunk", "teacher"),
        Way("faded in", "teacher", blend_s=0.05),
    ]
    found += [Way("inpainting", INPAINTING)] if INPAINTING in content.policies else []
    found += [Way("warm start", warm)] if warm else []
    found += [Way("trained prefix", "teacher", prefixed=True)] if prefixed else []
    found += [Way("corrected", "teacher", "corrected")] if "teacher" in content.correctors else []
    for policy in fast:
        several = content.candidates_of(policy)
        found += [Way("in the loop", policy, "every_cycle")]
        found += [Way(f"in the loop, {several} chunks", policy, "every_cycle", candidates=several)] * (several > 1)
    return found


def latency(
    bundle: tyro.conf.Positional[Path],
    *,
    policies: tuple[str, ...] = ("student_k1", "ddim_k1", "ddim_k4"),
    instant: tuple[str, ...] = ("teacher",),
    delays: tuple[float, ...] = (0.0, 25.0, 50.0, 100.0, 150.0, 200.0, 300.0),
    prefix_bundle: Path | None = None,
    warm: str = "warm_k10@60",
    only: tuple[str, ...] = (),
    scenario: str = "nominal",
    update_rate: float = 100.0,
    instant_rate: float = 40.0,
    inference: float | None = None,
    lost: float = 0.02,
    episodes: int = 100,
    processes: int = 2,
    baselines: Path | None = None,
    run_folder: Path = Path("runs/latency"),
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Success against delay of fast policies and of every way to run the teacher; run it again to go on.

    Args:
        bundle: with a correction head of its teacher (corrector.policies=[teacher]) and inpainting (inpainting.steps=5)
            where those ways are wanted
        policies: that run in the loop beside the teacher: of the bundle, ddim_kN, or a baseline's name
        instant: that run as if they took no time; a teacher of T steps is slow to drive so, ddim_kN@T, the chain that
            students are distilled from (distill.chain_steps), is not
        delays: added between a command and its effect [ms]
        prefix_bundle: of a teacher trained with a prefix (observation.action_prefix=4) on the same data
        warm: the policy with a warm start; empty: none
        only: these ways or policies (all where none is named)
        scenario: of the task
        update_rate: of the loop [Hz]
        instant_rate: of the loop where the teacher takes no time, and yet costs an evaluation in every cycle [Hz]
        inference: of the teacher, in whichever way it runs [ms]; what is measured where not given
        lost: a way that succeeds no more often is not driven with longer delays
        episodes: of each way at each delay, the same for all
        processes: that share them
        baselines: folder of those that were trained (default: runs/TASK/baselines)
        run_folder: keeps what is finished, and what was measured
        results: folder of the best starting levels
    """
    loaded, report = load_bundle(bundle), ProgressPrinter()
    task = find_task(loaded.content.task)
    fast = [with_level(loaded, task, name, results, lambda *now: report("starting level", *now)) for name in policies]
    found = ways(loaded, instant, fast, prefix_bundle is not None, warm)
    found = [way for way in found if not only or way.name in only or way.policy in only]
    if not found:
        raise SrdpError(f"--only {' '.join(only)}: no such way; there are: see `srdp experiment latency --help`")
    measured = inference_times(loaded, [(way.policy, way.candidates) for way in found], run_folder, baselines)
    cells = [(way, delay) for delay in delays for way in found]
    rows: list[dict[str, Any]] = []
    ended: set[Way] = set()
    for number, (way, delay) in enumerate(cells):
        if way in ended or (way.name == "instant" and delay > delays[0]):
            continue
        folder = prefix_bundle if way.prefixed and prefix_bundle is not None else bundle
        slow = inference is not None and way.policy not in fast
        took = [inference * 1e-3] if slow and inference else measured[way.policy, way.candidates]
        values = {
            "update_rate": instant_rate if way.name == "instant" else update_rate,
            "planning.mode": way.planning,
            "planning.blend_time": way.blend_s,
            "observation.max_age": HOLDS_AFTER_S,
            "abstain.enabled": False,
            "sampling.candidates": way.candidates,
        }
        job = Job(
            folder,
            way.policy,
            task.name,
            scenario,
            values,
            [] if way.name == "instant" else took,
            added_delay_s=delay * 1e-3,
            baselines=baselines,
        )
        row = {"way": way.name, "policy": way.policy, "planning": way.planning, "added_delay_ms": delay}
        rows.append({**row, **driven(job, range(FIRST_SEED, FIRST_SEED + episodes), processes, run_folder)})
        if rows[-1]["success_rate"] <= lost:
            ended.add(way)
        report("latency", number + 1, len(cells), f"{run_as(rows[-1])}, {delay:g} ms: {rows[-1]['success_rate']:.0%}")
    print(delay_table({"table": rows}))
    return {
        "quick": False,
        "seed": FIRST_SEED,
        "task": task.name,
        "scenario": scenario,
        "bundle_sha256": loaded.identity,
        "update_rate_hz": update_rate,
        "instant_rate_hz": instant_rate,
        "inference_us": summary({measured_as(*pair): times for pair, times in measured.items()}),
        "teacher_inference_ms": inference,
        "checks": [],
        "table": rows,
        "figures": [],
    }
