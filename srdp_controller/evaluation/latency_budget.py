"""``srdp eval budget``: how late a bundle's commands may be before its task suffers, measured in simulation.

The budget is the added delay at which closed-loop success falls below ``SHARE`` of what it is without. Every delay is
tried with the same episodes, so an interval comes from drawing episodes anew (bootstrap). What a robot can compare with
it is the age of the observation behind a command: without delay that age is what the simulated sensors make it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from srdp_controller.certify.intervals import success_interval
from srdp_controller.control.build import default_values
from srdp_controller.engines.bundle import LatencyBudget, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.closed_loop import Job, run_jobs
from srdp_controller.evaluation.rollout import Episode
from srdp_controller.evaluation.stored import fewest_evaluations, require_unsigned, store_in
from srdp_controller.progress import ProgressPrinter
from srdp_controller.tasks.task import find_task

SHARE = 0.9  # of the success without delay
LOST = 0.5  # of it: a delay that leaves no more is the last that is tried
FIRST_SEED = 8_000_000
DRAWS = 2000


def crossing(delays_s: np.ndarray, successes: np.ndarray) -> float:
    """Delay [s] at which the success rate falls below ``SHARE`` of the first, between delays by interpolation.

    Args:
        delays_s: (D,) rising, the first 0.
        successes: (D, episodes) of 0 and 1, or of their means (D, 1).

    Returns: the last delay where success never falls so far.
    """
    rates = np.minimum.accumulate(successes.mean(axis=1))  # more delay never helps: a rise is chance
    least = SHARE * rates[0]
    below = np.flatnonzero(rates < least)
    if not len(below):
        return float(delays_s[-1])
    after = int(below[0])
    share = (rates[after - 1] - least) / (rates[after - 1] - rates[after])
    return float(delays_s[after - 1] + share * (delays_s[after] - delays_s[after - 1]))


def budget(
    bundle: tyro.conf.Positional[Path],
    *,
    policy: str | None = None,
    scenario: str = "nominal",
    delays: tuple[float, ...] = (0.0, 25.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0),
    episodes: int = 100,
    update_rate: float = 100.0,
    store: bool = False,
    task: str | None = None,
    processes: int = 2,
) -> dict[str, Any]:
    """Latency budget: the delay at which success falls below 90 % of its value without.

    Args:
        bundle: folder, e.g. models/pushing
        policy: of the bundle; its student of fewest evaluations where not given
        scenario: name, or path of a YAML file
        delays: added between a command and its effect, from 0 up to the first that halves success [ms]
        episodes: of each delay, the same for all
        update_rate: of the loop [Hz]
        store: write the budget into the bundle, which the controller then compares with what it measures
        task: the bundle's, where not given
        processes: that share the episodes

    Raises:
        SrdpError: something is wrong with the arguments, the task lacks a world, or nothing succeeds without delay.
    """
    if episodes < 1 or len(delays) < 2 or delays[0] != 0.0 or list(delays) != sorted(set(delays)):
        raise SrdpError(f"--episodes {episodes} --delays {delays}: expected episodes, and rising delays from 0 up")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    found, name = find_task(task or loaded.content.task), policy or fewest_evaluations(loaded)
    loaded.policy(name)
    if store:
        require_unsigned(bundle)
    values = {**default_values(), "update_rate": update_rate, "abstain.enabled": False}
    jobs = [Job(bundle, name, found.name, scenario, values, added_delay_s=delay * 1e-3) for delay in delays]
    ordered: list[list[Episode]] = []
    for number, job in enumerate(jobs):
        driven: list[Episode] = []
        for _, block in run_jobs([job], range(FIRST_SEED, FIRST_SEED + episodes), processes):
            driven += block
            done = number * episodes + len(driven)
            report("budget", done, episodes * len(jobs), f"{delays[number]:g} ms: {_good(driven)} succeeded")
        ordered.append(sorted(driven, key=lambda episode: episode.seed))
        if not _good(ordered[0]):
            raise SrdpError(f"{name} never succeeds in {scenario}, so no delay can be told to be too long for it")
        if _good(driven) <= LOST * _good(ordered[0]):
            break
    delays = delays[: len(ordered)]
    successes = np.array([[float(episode.outcome.success) for episode in block] for block in ordered])
    delays_s = np.array(delays) * 1e-3
    rng = np.random.default_rng(FIRST_SEED)
    drawn = [crossing(delays_s, successes[:, rng.integers(episodes, size=episodes)]) for _ in range(DRAWS)]
    low, high = (float(value) for value in np.quantile(drawn, [0.025, 0.975]))
    measured = LatencyBudget(
        policy=name,
        scenario=scenario,
        update_rate_hz=update_rate,
        episodes=episodes,
        share=SHARE,
        delay_s=round(crossing(delays_s, successes), 4),
        interval_s=(round(low, 4), round(high, 4)),
        undelayed_age_s=round(float(np.nanmedian([episode.command_age_s for episode in ordered[0]])), 4),
        longest_s=float(delays_s[-1]),
    )
    rows = [
        {
            "added_delay_ms": delay,
            "episodes": episodes,
            "successes": int(row.sum()),
            "success_rate": float(row.mean()),
            "success_interval": success_interval(int(row.sum()), episodes),
        }
        for delay, row in zip(delays, successes, strict=True)
    ]
    for row in rows:
        print(f"{row['added_delay_ms']:>6g} ms  {row['successes']} of {episodes}")
    print(measured.text)
    if store:
        store_in(bundle, loaded, latency_budget=measured)
    return {
        "seed": FIRST_SEED,
        "task": found.name,
        "bundle_sha256": loaded.identity,
        **measured.model_dump(),
        "table": rows,
    }


def _good(episodes: list[Episode]) -> int:
    return sum(episode.outcome.success for episode in episodes)
