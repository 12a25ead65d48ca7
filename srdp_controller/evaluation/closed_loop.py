"""``srdp eval closed-loop``: how often a policy does its task, driven by the controller's own cycle in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from srdp_controller.certify.intervals import success_interval
from srdp_controller.control.abstention import alarm_threshold
from srdp_controller.control.build import default_values
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import load_policy, with_level
from srdp_controller.evaluation.latency import measure_inference, percentiles
from srdp_controller.evaluation.policies import bundled
from srdp_controller.evaluation.rollout import Driver, Episode, rollout
from srdp_controller.progress import ProgressPrinter, Report
from srdp_controller.tasks.task import find_task, summarise

RESULTS = Path("results/eval")
BLOCK = 20  # episodes that a process takes at a time
Latency = float | Literal["measured"]


def closed_loop(
    bundle: tyro.conf.Positional[Path],
    *,
    policy: str,
    scenario: str = "nominal",
    episodes: int = 200,
    seed: int = 0,
    update_rate: float = 100.0,
    latency: Latency = 0.0,
    planning: Literal["every_cycle", "ahead", "auto"] = "every_cycle",
    noise_hold: float = 0.2,
    abstain: bool = True,
    task: str | None = None,
    processes: int = 2,
) -> dict[str, Any]:
    """Success rate in simulation.

    Args:
        bundle: folder, e.g. models/pushing
        policy: a policy of the bundle, or its teacher with N steps: ddim_kN, dpm_kN (from the best starting level;
            ddim_kN@LEVEL from another)
        scenario: name, or path of a YAML file
        episodes: how many
        seed: of the episodes
        update_rate: of the loop [Hz]
        latency: of an evaluation [ms], or "measured": what it takes on this machine, drawn anew each time
        planning: the policy runs in every cycle (those that begin meanwhile are missed), plans ahead, or the latter
            where it does not fit into the period
        noise_hold: how long one draw of the noise is kept [s]; 0 draws it every cycle
        abstain: hand over to the teacher where the bundle's test fires, as the node does
        task: the bundle's, where not given
        processes: that share the episodes; the result does not depend on it
    """
    values = {
        "update_rate": update_rate,
        "noise.hold_time": noise_hold,
        "planning.mode": planning,
        "abstain.enabled": abstain,
    }
    result = evaluate(
        load_bundle(bundle),
        policy,
        scenario,
        episodes,
        seed=seed,
        values=values,
        latency=latency,
        task=task,
        processes=processes,
        report=ProgressPrinter(),
    )
    print(describe(result))
    return result


def describe(result: Mapping[str, Any]) -> str:
    """A result in a few words."""
    low, high = result["success_interval"]
    metrics = ", ".join(f"{name} {value}" for name, value in result["metrics"].items())
    causes = ", ".join(f"{cause} {count}" for cause, count in result["interventions_by_cause"].items() if count)
    return (
        f"{result['policy']} in {result['scenario']} at {result['update_rate_hz']:.0f} Hz: "
        f"{result['successes']} of {result['episodes']} ({result['success_rate']:.1%}, 95 % {low:.1%} to {high:.1%}), "
        f"{result['mean_episode_s']:.1f} s an episode; {metrics}\n"
        f"{result['abstentions']} abstentions; the safety filter intervened in "
        f"{result['interventions'] / max(1, result['cycles']):.1%} of the cycles{f' ({causes})' if causes else ''}"
    )


def evaluate(
    bundle: LoadedBundle,
    policy: str,
    scenario: str,
    episodes: int,
    *,
    seed: int = 0,
    values: Mapping[str, Any] | None = None,
    latency: Latency = 0.0,
    task: str | None = None,
    processes: int = 2,
    results: Path = RESULTS,
    report: Report | None = None,
) -> dict[str, Any]:
    """Run ``episodes`` episodes; the result has the JSON contract's keys. ``values`` are the node's parameters.

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks a world.
    """
    if episodes < 1:
        raise SrdpError(f"--episodes {episodes}: expected at least 1")
    tell = report or (lambda *_: None)
    found = find_task(task or bundle.content.task)
    full = with_level(bundle, found, policy, results, lambda *now: tell("starting level", *now))
    latencies_s: Sequence[float] = ()
    teacher_s: Sequence[float] = ()
    if latency == "measured":
        measured = measure_inference(bundle, list(dict.fromkeys([full, "teacher"])))
        latencies_s, teacher_s = measured[full], measured["teacher"]
    elif latency:
        latencies_s = [float(latency) * 1e-3]
    known = {**default_values(), **(values or {})}
    # a bundle of few trajectories has no threshold for the node's alpha: then that for its smallest
    known["abstain.alpha"] = bundle.calibration().smallest_alpha(known["abstain.alpha"])
    threshold = alarm_threshold(bundle, full, known)
    job = Job(bundle.folder, full, found.name, scenario, dict(values or {}), latencies_s, teacher_s, threshold)
    driven: list[Episode] = []
    for _, block in run_jobs([job], [1_000_000 * (seed + 1) + index for index in range(episodes)], processes):
        driven += block
        good = sum(episode.outcome.success for episode in driven)
        tell("closed loop", len(driven), episodes, f"{policy} {scenario}: {good} of {len(driven)}")
    waiting = percentiles(latencies_s, 1e-3)
    return {
        "seed": seed,
        "bundle": str(bundle.folder),
        "task": found.name,
        "policy": policy,
        "starting_level": int(full.partition("@")[2]) if "@" in full else None,
        "scenario": scenario,
        "episodes": episodes,
        **tally(driven),
        "update_rate_hz": known["update_rate"],
        "planning": known["planning.mode"],
        "latency_ms": waiting["p50"],
        "latency_p99_ms": waiting["p99"],
        "noise_hold_s": known["noise.hold_time"],
        "abstain": known["abstain.enabled"],
    }


def tally(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Sums and shares over episodes, in whichever order they ended."""
    episodes = sorted(episodes, key=lambda episode: episode.seed)
    successes = sum(episode.outcome.success for episode in episodes)
    modes, causes = Counter[str](), Counter[str]()
    for episode in episodes:
        modes.update(episode.modes)
        causes.update(episode.interventions_by_cause)
    return {
        "successes": successes,
        "success_rate": successes / len(episodes),
        "success_interval": success_interval(successes, len(episodes)),
        "mean_episode_s": float(np.mean([episode.outcome.duration_s for episode in episodes])),
        "metrics": summarise([episode.outcome for episode in episodes]),
        "abstentions": sum(episode.abstentions for episode in episodes),
        "cycles": sum(episode.cycles for episode in episodes),
        "missed_cycles": sum(episode.missed_cycles for episode in episodes),
        "interventions": sum(episode.interventions for episode in episodes),
        "interventions_by_cause": dict(causes),
        "modes": dict(modes),
    }


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
    """

    bundle: Path
    policy: str
    task: str
    scenario: str
    values: Mapping[str, Any]
    latencies_s: Sequence[float] = ()
    teacher_latencies_s: Sequence[float] = ()
    threshold: float = math.inf

    def __call__(self, seeds: Sequence[int]) -> list[Episode]:
        """One episode for each seed."""
        bundle = load_bundle(self.bundle)
        teacher = None if math.isinf(self.threshold) else bundled(bundle, "teacher")
        policy = load_policy(bundle, self.policy)
        driver = Driver(policy, self.latencies_s, teacher, self.teacher_latencies_s, self.threshold)
        task = find_task(self.task)
        return rollout(task, self.scenario, driver, seeds, spec=bundle.spec, values=self.values, robots=BLOCK)


def run_jobs(jobs: Sequence[Job], seeds: Sequence[int], processes: int) -> Iterator[tuple[int, list[Episode]]]:
    """The episodes of every job, in blocks as ``processes`` processes finish them, each with the job's number.

    Raises:
        SrdpError: joblib is missing.
    """
    try:
        import joblib
    except ImportError:
        raise SrdpError("closed loops need joblib: pip install 'srdp_controller[sim]'") from None
    blocks = [
        (number, seeds[start : start + BLOCK]) for number in range(len(jobs)) for start in range(0, len(seeds), BLOCK)
    ]
    pool = joblib.Parallel(n_jobs=min(processes, len(blocks)), return_as="generator_unordered")
    yield from pool(joblib.delayed(_run)(number, jobs[number], block) for number, block in blocks)


def _run(number: int, job: Job, seeds: Sequence[int]) -> tuple[int, list[Episode]]:
    return number, job(seeds)
