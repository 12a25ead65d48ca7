"""``srdp eval closed-loop``: success rate of a bundle's policy in the simulated world."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.certify.conformal import wilson_interval
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import DdimBaseline, DpmSolverBaseline
from srdp_controller.evaluation.episodes_loop import EpisodeResult, run_episodes
from srdp_controller.progress import Report
from srdp_controller.simulation.scenario import load_scenario

BLOCK = 20


def load_policy(bundle_folder: Path, name: str) -> BatchedPolicy | DdimBaseline | DpmSolverBaseline:
    """A policy of the bundle, or its teacher with N steps of DDIM (``ddim_kN``) or DPM-Solver++ (``dpm_kN``)."""
    bundle = load_bundle(bundle_folder)
    match = re.fullmatch(r"(ddim|dpm)_k(\d+)", name)
    if match is None:
        return BatchedPolicy(bundle, name)
    return (DdimBaseline if match.group(1) == "ddim" else DpmSolverBaseline)(bundle, int(match.group(2)))


def _block(
    bundle: Path,
    policy_name: str,
    scenario: str,
    seeds: list[int],
    update_rate_hz: float,
    noise_hold_s: float,
    latencies_s: list[float] | None,
) -> list[EpisodeResult]:
    policy = load_policy(bundle, policy_name)
    samples = None if latencies_s is None else np.array(latencies_s)
    return run_episodes(
        policy,
        load_scenario(scenario),
        seeds,
        update_rate_hz=update_rate_hz,
        noise_shape=policy.noise_shape,
        noise_hold_s=noise_hold_s,
        latency=None if samples is None else lambda rng: float(samples[rng.integers(len(samples))]),
        robots=BLOCK,
        spec=load_bundle(bundle).spec,
    )


def evaluate(
    bundle: Path,
    policy: str,
    scenario: str,
    episodes: int,
    *,
    seed: int = 0,
    update_rate_hz: float = 100.0,
    noise_hold_s: float = 0.2,
    latencies_s: list[float] | None = None,
    processes: int = 2,
    report: Report | None = None,
) -> dict[str, Any]:
    """Run ``episodes`` episodes; the result has the JSON contract's keys.

    ``latencies_s`` are measured inference times [s] to draw from; None stands for instant inference.
    """
    if episodes < 1:
        raise SrdpError(f"--episodes {episodes}: expected at least 1")
    load_policy(bundle, policy)  # a wrong name is refused here, not in a worker
    load_scenario(scenario)
    seeds = [1_000_000 * (seed + 1) + index for index in range(episodes)]
    results: list[EpisodeResult] = []
    with ProcessPoolExecutor(processes) as pool:
        futures = [
            pool.submit(
                _block,
                bundle,
                policy,
                scenario,
                seeds[start : start + BLOCK],
                update_rate_hz,
                noise_hold_s,
                latencies_s,
            )
            for start in range(0, episodes, BLOCK)
        ]
        for future in as_completed(futures):
            results += future.result()
            if report is not None:
                good = sum(result.outcome.success for result in results)
                report("closed loop", len(results), episodes, f"{policy} {scenario}: {good} of {len(results)}")
    successes = sum(result.outcome.success for result in results)
    ambiguous = [result.outcome.way for result in results if result.ambiguous]
    return {
        "seed": seed,
        "bundle": str(bundle),
        "policy": policy,
        "scenario": scenario,
        "episodes": episodes,
        "successes": successes,
        "success_rate": successes / episodes,
        "success_interval": list(wilson_interval(successes, episodes)),
        "update_rate_hz": update_rate_hz,
        "noise_hold_s": noise_hold_s,
        "mean_episode_s": float(np.mean([result.outcome.duration_s for result in results])),
        "post_contacts": sum(result.outcome.post_contacts for result in results),
        # only starts from which the expert tosses a coin; "stuck": the box never passed the post
        "ways": {"left": ambiguous.count("left"), "right": ambiguous.count("right"), "stuck": ambiguous.count("")},
    }
