"""Every way to drive with a policy that is slower than the loop, at one latency after the other.

| way | what is executed while an evaluation is under way |
| --- | --- |
| blocking | one command, the first of the newest chunk: nobody is there to send the next |
| newest chunk | the chunk before, on and on; of the new one what is past by then is dropped |
| faded in | the same, and the new chunk is faded in |
| inpainting | real-time chunking (2506.07339): the new chunk is guided to go on from the one before |
| warm start | DDIM from the noised rest of the chunk before |
| trained prefix | the policy was trained to be told what is executed until it is ready (2512.05964) |
| corrected | a small network mends each action of the late chunk from the newest observation (2509.23224) |

All with the controller's own cycle in virtual time; the latency is what is said, not what is measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from srdp_controller.engines.bundle import INPAINTING, LoadedBundle, load_bundle
from srdp_controller.evaluation.closed_loop import Job, run_jobs, tally
from srdp_controller.evaluation.rollout import Episode
from srdp_controller.files import write_json
from srdp_controller.offline.recipe import content_hash
from srdp_controller.progress import ProgressPrinter

FIRST_SEED = 8_000_000
HOLDS_AFTER_S = 1.0  # long plans are the point here: no way is stopped for the age of what it saw


@dataclass(frozen=True)
class Way:
    """A row of the table.

    Attributes:
        name: as in the table above.
        policy: of the bundle.
        planning: ``planning.mode``.
        blend_s: ``planning.blend_time``.
        prefixed: whether it needs the bundle that was trained with a prefix.
    """

    name: str
    policy: str
    planning: str = "ahead"
    blend_s: float = 0.0
    prefixed: bool = False


def ways(policies: set[str], corrected: bool, prefixed: bool, warm: str) -> list[Way]:
    """What can be driven with a bundle of these ``policies``, with or without a correction head, and its twin."""
    found = [
        Way("blocking", "teacher", "every_cycle"),
        Way("newest chunk", "teacher"),
        Way("faded in", "teacher", blend_s=0.05),
    ]
    found += [Way("inpainting", INPAINTING)] if INPAINTING in policies else []
    found += [Way("warm start", warm)]
    found += [Way("trained prefix", "teacher", prefixed=True)] if prefixed else []
    found += [Way("corrected", "teacher", "corrected")] if corrected else []
    return found


def graphs(bundle: LoadedBundle, way: Way) -> list[str]:
    """SHA-256 of the graphs that a way runs: what is finished holds for every bundle that has the same."""
    entry = bundle.content.policies.get(way.policy) or bundle.policy("teacher")
    return [entry.sha256, *([bundle.corrector(way.policy).sha256] if way.planning == "corrected" else [])]


def slow_policies(
    bundle: tyro.conf.Positional[Path],
    *,
    prefix_bundle: Path | None = None,
    latencies: tuple[float, ...] = (0.0, 50.0, 100.0, 150.0, 200.0),
    only: tuple[str, ...] = (),
    warm: str = "warm_k10@60",
    scenario: str = "nominal",
    episodes: int = 40,
    processes: int = 2,
    run_folder: Path = Path("runs/slow_policies"),
) -> dict[str, Any]:
    """Success of every way to drive with a slow policy against its latency; run it again to go on.

    Args:
        bundle: with a correction head of its teacher (corrector.policies=[teacher]) and inpainting (inpainting.steps=5)
        prefix_bundle: of a teacher trained with a prefix (observation.action_prefix=4) on the same data
        latencies: of an evaluation [ms]
        only: these ways (all where none is named)
        warm: the policy with a warm start
        scenario: of the task
        episodes: of each way at each latency
        processes: that share them
        run_folder: keeps what is finished
    """
    loaded, report = load_bundle(bundle), ProgressPrinter()
    content = loaded.content
    found = ways(set(content.policies), "teacher" in content.correctors, prefix_bundle is not None, warm)
    cells = [(way, latency) for latency in latencies for way in found if not only or way.name in only]
    rows = []
    for number, (way, latency) in enumerate(cells):
        folder = prefix_bundle if way.prefixed and prefix_bundle is not None else bundle
        values = {
            "planning.mode": way.planning,
            "planning.blend_time": way.blend_s,
            "observation.max_age": HOLDS_AFTER_S,
            "abstain.enabled": False,
        }
        job = Job(folder, way.policy, content.task, scenario, values, [latency * 1e-3] if latency else ())
        key = content_hash(graphs(load_bundle(folder), way), way.policy, scenario, values, latency, episodes)
        kept = run_folder / f"{key[:16]}.json"
        if not kept.exists():
            driven: list[Episode] = []
            for _, block in run_jobs([job], range(FIRST_SEED, FIRST_SEED + episodes), processes):
                driven += block
            row = {"way": way.name, "policy": way.policy, "planning": way.planning, "latency_ms": latency}
            run_folder.mkdir(parents=True, exist_ok=True)
            write_json(kept, {**row, "episodes": episodes, **tally(driven)})
        rows.append(json.loads(kept.read_text()))
        report("slow policies", number + 1, len(cells), f"{way.name}, {latency:.0f} ms: {rows[-1]['success_rate']:.0%}")
    print_table(rows)
    return {
        "quick": False,
        "seed": FIRST_SEED,
        "task": content.task,
        "scenario": scenario,
        "checks": [],
        "table": rows,
        "figures": [],
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line for each way, one column for each latency."""
    latencies = list(dict.fromkeys(row["latency_ms"] for row in rows))
    print(f"{'way':<16}" + "".join(f"{latency:>20.0f} ms" for latency in latencies))
    for name in dict.fromkeys(row["way"] for row in rows):
        cells = {row["latency_ms"]: row for row in rows if row["way"] == name}
        line = f"{name:<16}"
        for latency in latencies:
            row = cells[latency]
            low, high = row["success_interval"]
            line += f"{row['success_rate']:>9.0%} ({low:.0%} to {high:.0%})".rjust(23)
        print(line)
