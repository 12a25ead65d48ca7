"""Cells of an experiment: closed-loop episodes of one kind, kept so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import LoadedBundle, load_bundle, sha256
from srdp_controller.evaluation.baselines import trained_graph
from srdp_controller.evaluation.closed_loop import Job, run_jobs, tally
from srdp_controller.evaluation.latency import measure_inference
from srdp_controller.files import write_json
from srdp_controller.offline.baselines import POLICIES
from srdp_controller.offline.recipe import content_hash


def graphs(bundle: LoadedBundle, job: Job) -> list[str]:
    """SHA-256 of the graphs that a job runs: what is finished holds for every bundle that has the same."""
    if job.policy in POLICIES:
        return [sha256(trained_graph(bundle, job.policy, job.baselines).read_bytes())]
    entry = bundle.content.policies.get(job.policy) or bundle.policy("teacher")
    corrected = job.values["planning.mode"] == "corrected"
    return [entry.sha256, *([bundle.corrector(job.policy).sha256] if corrected else [])]


def measured_as(policy: str, candidates: int) -> str:
    """What an evaluation of so many chunks is called in results."""
    return policy if candidates == 1 else f"{policy}, {candidates} chunks"


def inference_times(
    bundle: LoadedBundle, wanted: Iterable[tuple[str, int]], folder: Path, baselines: Path | None = None
) -> dict[tuple[str, int], list[float]]:
    """How long an evaluation takes [s], by policy and number of chunks; measured once for all cells in ``folder``."""
    kept = folder / f"inference_{bundle.identity[:12]}.json"
    times: dict[str, list[float]] = json.loads(kept.read_text()) if kept.exists() else {}
    pairs = list(dict.fromkeys(wanted))
    missing = [(policy, number) for policy, number in pairs if measured_as(policy, number) not in times]
    for several in dict.fromkeys(number for _, number in missing):
        names = [policy for policy, number in missing if number == several]
        found = measure_inference(bundle, names, baselines=baselines, candidates=dict.fromkeys(names, several))
        times |= {measured_as(policy, several): found[policy] for policy in names}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(kept, times)
    return {pair: times[measured_as(*pair)] for pair in pairs}


def driven(job: Job, seeds: Sequence[int], processes: int, folder: Path) -> dict[str, Any]:
    """What the episodes of a job came to (``tally``), from ``folder`` where it is known already."""
    bundle = load_bundle(job.bundle)
    robot = bundle.spec.model_dump(mode="json")
    values = {**job.values, "sampling.candidates": job.candidates(bundle)}
    asked = (job.policy, job.scenario, values, job.latencies_s, job.added_delay_s, list(seeds))
    cell = folder / f"{content_hash(graphs(bundle, job), robot, *asked)[:16]}.json"
    if not cell.exists():
        episodes = [episode for _, block in run_jobs([job], seeds, processes) for episode in block]
        cell.parent.mkdir(parents=True, exist_ok=True)
        write_json(cell, {"episodes": len(episodes), **tally(episodes)})
    found: dict[str, Any] = json.loads(cell.read_text())
    return found
