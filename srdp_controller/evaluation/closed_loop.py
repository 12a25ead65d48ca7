"""``srdp eval closed-loop``: how often a policy does its task, driven by the controller's own cycle in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from srdp_controller.certify.intervals import entropy_interval, mean_interval, success_interval
from srdp_controller.control.abstention import alarm_threshold
from srdp_controller.control.build import default_values
from srdp_controller.control.deployment import fits
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.engines.corrector import CorrectorEngine
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import load_policy, with_level
from srdp_controller.evaluation.latency import measure_inference, percentiles
from srdp_controller.evaluation.policies import bundled
from srdp_controller.evaluation.rollout import Driver, Episode, rollout
from srdp_controller.progress import ProgressPrinter
from srdp_controller.tasks.task import Outcome, find_task, summarise

RESULTS = Path("results/eval")
BLOCK = 20  # at most so many episodes does a process take at a time


def closed_loop(
    bundle: tyro.conf.Positional[Path],
    *,
    policy: str,
    scenario: str = "nominal",
    episodes: int = 200,
    seed: int = 0,
    update_rate: float = 100.0,
    latency: float | Literal["measured"] = 0.0,
    added_delay: float = 0.0,
    planning: Literal["every_cycle", "ahead", "auto", "corrected"] = "every_cycle",
    blend_time: float | None = None,
    max_age: float | None = None,
    noise_hold: float = 0.2,
    execution_time: float = 0.0,
    candidates: int = 0,
    abstain: bool = True,
    task: str | None = None,
    processes: int = 2,
    results: Path = RESULTS,
    baselines: Path | None = None,
) -> dict[str, Any]:
    """Success rate in simulation.

    Args:
        bundle: folder, e.g. models/pushing
        policy: a policy of the bundle, or its teacher with N steps: ddim_kN, dpm_kN (from the best starting level;
            ddim_kN@LEVEL from another), warm_kN@LEVEL (from the rest of the last chunk, noised to LEVEL), or one of
            `srdp experiment direct-policies` (bc, gmm, flow_k1, ...)
        scenario: name, or path of a YAML file
        episodes: how many
        seed: of the episodes
        update_rate: of the loop [Hz]
        latency: of an evaluation [ms], or "measured": what it takes on this machine, drawn anew each time
        added_delay: between a command and its effect, beside the scenario's own [ms]
        planning: the policy runs in every cycle (those that begin meanwhile are missed), plans ahead, or the latter
            where it does not fit into the period; corrected: plans ahead, and the bundle's correction head mends each
            action of its late chunks
        blend_time: in which a chunk fades into the next that was planned ahead [s]; the node's default where not given
        max_age: of the observation behind a command [s], beyond which the robot holds; the node's default where not
            given
        noise_hold: how long one draw of the noise is kept [s]; 0 draws it every cycle
        execution_time: for so long a chunk is executed before a policy in the loop is asked again [s]; 0: every cycle
        candidates: chunks that are sampled in a cycle, of which the one that goes on with the plan in force is driven;
            0: as many as the bundle says (`srdp eval candidates`)
        abstain: hand over to the teacher where the bundle's test fires, as the node does
        task: the bundle's, where not given
        processes: that share the episodes; the result does not depend on it
        results: folder that keeps the best starting levels, TASK/starting_levels.json
        baselines: folder of what direct-policies trained (default: runs/TASK/baselines)

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks a world.
    """
    if episodes < 1:
        raise SrdpError(f"--episodes {episodes}: expected at least 1")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    in_loop = planning in ("every_cycle", "auto")
    if not candidates:
        candidates = loaded.content.candidates_of(policy) if in_loop else 1
    if candidates < 1 or (candidates > 1 and not in_loop):
        raise SrdpError(f"--candidates {candidates} --planning {planning}: expected 1, or more in every cycle")
    found = find_task(task or loaded.content.task)
    full = with_level(loaded, found, policy, results, lambda *now: report("starting level", *now))
    latencies_s: Sequence[float] = ()
    teacher_s: Sequence[float] = ()
    if latency == "measured":
        names = list(dict.fromkeys([full, "teacher"]))
        several = candidates
        for candidates in dict.fromkeys((several, 1)):  # as the controller: one where more do not fit
            measured = measure_inference(loaded, names, baselines=baselines, candidates={full: candidates})
            if planning != "auto" or fits(1e9 * max(measured[full]), round(1e9 / update_rate)):
                break
        latencies_s, teacher_s = measured[full], measured["teacher"]
    elif latency:
        latencies_s = [latency * 1e-3]
    values = {
        "update_rate": update_rate,
        "noise.hold_time": noise_hold,
        "planning.execution_time": execution_time,
        "sampling.candidates": candidates,
        "planning.mode": planning,
        **({} if blend_time is None else {"planning.blend_time": blend_time}),
        **({} if max_age is None else {"observation.max_age": max_age}),
        "abstain.enabled": abstain,
        # a bundle of few trajectories has no threshold for the node's alpha: then that for its smallest
        "abstain.alpha": loaded.calibration().smallest_alpha(default_values()["abstain.alpha"]),
    }
    threshold = alarm_threshold(loaded, full, values)
    job = Job(
        bundle,
        full,
        found.name,
        scenario,
        values,
        latencies_s,
        teacher_s,
        threshold,
        added_delay_s=added_delay * 1e-3,
        baselines=baselines,
    )
    driven: list[Episode] = []
    for _, block in run_jobs([job], [1_000_000 * (seed + 1) + index for index in range(episodes)], processes):
        driven += block
        good = sum(episode.outcome.success for episode in driven)
        report("closed loop", len(driven), episodes, f"{policy} {scenario}: {good} of {len(driven)}")
    waiting = percentiles(latencies_s, 1e-3)
    result = {
        "seed": seed,
        "bundle": str(bundle),
        "task": found.name,
        "policy": policy,
        "starting_level": int(full.partition("@")[2]) if "@" in full else None,
        "scenario": scenario,
        "episodes": episodes,
        **tally(driven),
        "update_rate_hz": update_rate,
        "planning": planning,
        "blend_time_s": blend_time,
        "max_age_s": max_age,
        "latency_ms": waiting["p50"],
        "latency_p99_ms": waiting["p99"],
        "added_delay_ms": added_delay,
        "noise_hold_s": noise_hold,
        "execution_time_s": execution_time,
        "candidates": candidates,
        "abstain": abstain,
    }
    low, high = result["success_interval"]
    metrics = ", ".join(f"{name} {value}" for name, value in result["metrics"].items())
    for name, (least, most) in result["metric_intervals"].items():
        metrics += f", mean {name} 95 % {least:.3f} to {most:.3f}"
    for name, found_ways in result["ways"].items():
        low_nats, high_nats = found_ways["entropy_interval"]
        metrics += f", entropy of {name} {found_ways['entropy']:.2f} (95 % {low_nats:.2f} to {high_nats:.2f})"
    causes = ", ".join(f"{cause} {count}" for cause, count in result["interventions_by_cause"].items() if count)
    print(
        f"{policy} in {scenario} at {update_rate:.0f} Hz: {result['successes']} of {episodes} "
        f"({result['success_rate']:.1%}, 95 % {low:.1%} to {high:.1%}), {result['mean_episode_s']:.1f} s an episode; "
        f"{metrics}\n{result['abstentions']} abstentions; the safety filter intervened in "
        f"{result['interventions'] / max(1, result['cycles']):.1%} of the cycles{f' ({causes})' if causes else ''}"
    )
    return result


def tally(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Sums and shares over episodes, in whichever order they ended."""
    episodes = sorted(episodes, key=lambda episode: episode.seed)
    outcomes = [episode.outcome for episode in episodes]
    successes, metrics = sum(outcome.success for outcome in outcomes), summarise(outcomes)
    modes, causes = Counter[str](), Counter[str]()
    for episode in episodes:
        modes.update(episode.modes)
        causes.update(episode.interventions_by_cause)
    return {
        "successes": successes,
        "success_rate": successes / len(episodes),
        "success_interval": success_interval(successes, len(episodes)),
        "mean_episode_s": float(np.mean([outcome.duration_s for outcome in outcomes])),
        "metrics": metrics,
        "metric_intervals": {
            name: mean_interval(
                np.array([outcome.metrics[name] for outcome in outcomes if name in outcome.metrics]),
                np.random.default_rng(0),
            )
            for name, value in metrics.items()
            if isinstance(value, float)
        },
        "ways": ways(outcomes),
        "abstentions": sum(episode.abstentions for episode in episodes),
        "cycles": sum(episode.cycles for episode in episodes),
        "missed_cycles": sum(episode.missed_cycles for episode in episodes),
        "interventions": sum(episode.interventions for episode in episodes),
        "interventions_by_cause": dict(causes),
        "modes": dict(modes),
    }


def ways(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How the episodes that succeeded differ, by each metric that is a word: counts, entropy [nats] and its interval.

    On D3IL's avoiding task (arXiv 2402.14606) it is the entropy of the ways taken.
    """
    found = {}
    for name, counts in summarise([outcome for outcome in outcomes if outcome.success]).items():
        if isinstance(counts, dict):
            entropy, interval = entropy_interval(list(counts.values()), np.random.default_rng(0))
            found[name] = {"counts": counts, "entropy": entropy, "entropy_interval": interval}
    return found


@dataclass(frozen=True)
class Job:
    """Episodes of one kind, as a process of its own makes them: everything is loaded anew.

    Attributes:
        bundle: folder.
        policy: as ``baselines.load_policy`` takes it.
        task: name.
        scenario: name or path.
        values: of the controller's parameters.
        latencies_s: as those of ``Driver``, and ``teacher_latencies_s``, ``threshold`` too.
        added_delay_s: as that of ``rollout``.
        baselines: folder of ``baselines.load_policy``.
    """

    bundle: Path
    policy: str
    task: str
    scenario: str
    values: Mapping[str, Any]
    latencies_s: Sequence[float] = ()
    teacher_latencies_s: Sequence[float] = ()
    threshold: float = math.inf
    added_delay_s: float = 0.0
    baselines: Path | None = None

    def candidates(self, bundle: LoadedBundle) -> int:
        """Chunks that are sampled in a cycle: what the values say, else the bundle."""
        return self.values.get("sampling.candidates") or bundle.content.candidates_of(self.policy)

    def __call__(self, number: int, seeds: Sequence[int]) -> tuple[int, list[Episode]]:
        """The job's number, and one episode for each seed."""
        bundle = load_bundle(self.bundle)
        teacher = None if math.isinf(self.threshold) else bundled(bundle, "teacher")
        policy, corrector = load_policy(bundle, self.policy, self.baselines), None
        if self.values["planning.mode"] == "corrected":
            corrector = partial(CorrectorEngine, bundle, self.policy)
        driver = Driver(policy, self.latencies_s, teacher, self.teacher_latencies_s, self.threshold, corrector)
        task = find_task(self.task)
        return number, rollout(
            task,
            self.scenario,
            driver,
            seeds,
            spec=bundle.spec,
            values={**self.values, "sampling.candidates": self.candidates(bundle)},
            added_delay_s=self.added_delay_s,
            robots=BLOCK,
        )


def run_jobs(jobs: Sequence[Job], seeds: Sequence[int], processes: int) -> Iterator[tuple[int, list[Episode]]]:
    """The episodes of every job, in blocks as ``processes`` processes finish them, each with the job's number."""
    import joblib

    turns = math.ceil(len(seeds) / (processes * BLOCK))
    size = math.ceil(len(seeds) / (processes * turns))  # one job's blocks keep all of the processes busy to the end
    blocks = [
        joblib.delayed(job)(number, seeds[start : start + size])
        for number, job in enumerate(jobs)
        for start in range(0, len(seeds), size)
    ]
    yield from joblib.Parallel(n_jobs=min(processes, len(blocks)), return_as="generator_unordered")(blocks)
