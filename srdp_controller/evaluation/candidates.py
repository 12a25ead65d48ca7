"""``srdp eval candidates``: whether a policy should sample several chunks in a cycle, chosen on calibration episodes.

More are chosen where success with them is above that with one by more than chance: the paired 95 % interval of the
difference, over the same episodes, lies above zero. Else it stays at one, so that nothing is lost by default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from srdp_controller.certify.intervals import mean_interval
from srdp_controller.control.build import default_values
from srdp_controller.engines.bundle import CandidatesChoice, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.closed_loop import Job, run_jobs, tally
from srdp_controller.evaluation.rollout import Episode
from srdp_controller.evaluation.stored import fewest_evaluations, require_unsigned, store_in
from srdp_controller.progress import ProgressPrinter
from srdp_controller.tasks.task import find_task

FIRST_SEED = 1_900_000_000  # of episodes that no evaluation draws


def choose(successes: dict[int, np.ndarray], rng: np.random.Generator) -> tuple[int, dict[int, list[float]]]:
    """How many chunks to sample, and the 95 % interval of each number's gain over one.

    Args:
        successes: (episodes,) of 0 and 1 by number of chunks, the same episodes for all; 1 is among the numbers.
        rng: of the bootstrap.

    Returns: of the numbers whose gain is above zero the one that succeeds most often, the smallest of several; else 1.
    """
    one = successes[1]
    gains = {number: mean_interval(row - one, rng) for number, row in successes.items() if number != 1}
    better = [number for number, (low, _) in gains.items() if low > 0.0]
    return max(sorted(better), key=lambda number: successes[number].mean(), default=1), gains


def candidates(
    bundle: tyro.conf.Positional[Path],
    *,
    policy: str | None = None,
    numbers: tuple[int, ...] = (1, 4, 16, 64),
    scenario: str = "nominal",
    episodes: int = 200,
    update_rate: float = 100.0,
    store: bool = False,
    task: str | None = None,
    processes: int = 2,
) -> dict[str, Any]:
    """Choose how many chunks a policy samples in a cycle.

    Args:
        bundle: folder, e.g. models/avoiding
        policy: of the bundle; its student of fewest evaluations where not given
        numbers: of chunks, 1 among them
        scenario: name, or path of a YAML file
        episodes: of each number, the same for all
        update_rate: of the loop [Hz]
        store: write the choice into the bundle, where the controller finds it
        task: the bundle's, where not given
        processes: that share the episodes

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks a world.
    """
    if episodes < 1 or 1 not in numbers or min(numbers) < 1:
        raise SrdpError(f"--episodes {episodes} --numbers {numbers}: expected episodes, and numbers of chunks with 1")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    if store:
        require_unsigned(bundle)
    found, name = find_task(task or loaded.content.task), policy or fewest_evaluations(loaded)
    loaded.policy(name)
    values = {**default_values(), "update_rate": update_rate, "abstain.enabled": False}
    jobs = [Job(bundle, name, found.name, scenario, {**values, "sampling.candidates": n}) for n in sorted(numbers)]
    driven: dict[int, list[Episode]] = {number: [] for number in sorted(numbers)}
    for place, block in run_jobs(jobs, range(FIRST_SEED, FIRST_SEED + episodes), processes):
        driven[sorted(numbers)[place]] += block
        report("candidates", sum(map(len, driven.values())), episodes * len(jobs), f"{name} {scenario}")
    successes = {
        number: np.array([float(one.outcome.success) for one in sorted(block, key=lambda one: one.seed)])
        for number, block in driven.items()
    }
    chosen, gains = choose(successes, np.random.default_rng(FIRST_SEED))
    rows = [{"candidates": number, "episodes": episodes, **tally(block)} for number, block in driven.items()]
    for row in rows:
        gain = gains.get(row["candidates"])
        told = "" if gain is None else f", gain {gain[0]:+.1%} to {gain[1]:+.1%}"
        print(f"{row['candidates']:>4}  {row['successes']} of {episodes}{told}")
    choice = CandidatesChoice(
        candidates=chosen,
        scenario=scenario,
        update_rate_hz=update_rate,
        episodes=episodes,
        successes={number: int(row.sum()) for number, row in successes.items()},
    )
    print(f"{name}: {choice.text}")
    if store:
        store_in(bundle, loaded, candidates={name: choice})
    return {
        "seed": FIRST_SEED,
        "task": found.name,
        "bundle_sha256": loaded.identity,
        "policy": name,
        **choice.model_dump(),
        "gains": {str(number): gain for number, gain in gains.items()},
        "table": rows,
    }
