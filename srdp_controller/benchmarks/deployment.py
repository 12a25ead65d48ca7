"""``srdp bench deployment``: which engines fit this machine, and how they can be run, side by side on the same task.

The teacher in the loop (its actions come late), the teacher planning ahead of the loop (real-time chunking), and the
students in the loop; inference takes what it takes on this machine, measured first, and on one that is slower by a
factor. The cycle is the node's own, in virtual time (``evaluation.rollout``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from srdp_controller.certify.intervals import success_interval
from srdp_controller.control.build import default_values
from srdp_controller.control.deployment import FITTING_SHARE
from srdp_controller.engines.bundle import LatencyBudget, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.closed_loop import Job, run_jobs
from srdp_controller.evaluation.latency import measure_inference, percentiles, summary
from srdp_controller.evaluation.rollout import Episode
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report import tables
from srdp_controller.tasks.task import find_task

WINDOW_S = 0.05  # commands are averaged over it before their jerk is taken, so that all rates compare
FIRST_SEED = 9_000_000


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    policy: str
    planning: Literal["every_cycle", "ahead"]
    update_rate_hz: float
    slower: float
    blend_s: float
    noise_hold_s: float

    @property
    def label(self) -> str:
        """How the policy is run, in words."""
        return f"{self.policy}, " + ("real-time chunking" if self.planning == "ahead" else "in the loop")


def settings(policies: Sequence[str], rates: Sequence[float], slower: Sequence[float]) -> list[Setting]:
    """Every policy at every rate and speed of the machine; then what blending and holding the noise do."""
    values = default_values()
    blend_s, hold_s = values["planning.blend_time"], values["noise.hold_time"]
    run: list[tuple[str, Literal["every_cycle", "ahead"]]] = [("teacher", "every_cycle"), ("teacher", "ahead")]
    run += [(name, "every_cycle") for name in policies if name != "teacher"]
    found = [
        Setting(policy, planning, rate, factor, blend_s, hold_s)
        for factor in slower
        for policy, planning in run
        for rate in rates
    ]
    found += [Setting("teacher", "ahead", max(rates), max(slower), other, hold_s) for other in (0.0, 2 * blend_s)]
    found += [
        Setting(policy, planning, rate, min(slower), blend_s, 0.0)
        for policy, planning in run
        if planning == "every_cycle"
        for rate in rates
    ]
    return found


def fitting(measured: Mapping[str, Sequence[float]], budget: LatencyBudget | None) -> list[dict[str, Any]]:
    """Which engines fit this machine: the highest rate at which each runs in the loop, and whether it is fast enough.

    ``within_budget`` is None where the bundle has no latency budget.
    """
    found = []
    for name, samples in measured.items():
        slow_s = percentiles(samples, 1.0)["p99"]
        found.append(
            {
                "policy": name,
                "p99_ms": slow_s * 1e3,
                "highest_rate_hz": FITTING_SHARE / slow_s,
                "within_budget": None if budget is None else slow_s <= budget.delay_s,
            }
        )
    return found


def deployment(
    bundle: tyro.conf.Positional[Path] = Path("models/pushing"),
    *,
    scenario: str = "nominal",
    rates: tuple[float, ...] = (20.0, 50.0, 100.0, 200.0, 500.0),
    slower: tuple[float, ...] = (1.0, 10.0),
    episodes: int = 50,
    processes: int = 2,
    task: str | None = None,
) -> dict[str, Any]:
    """Teacher in the loop, teacher planning ahead, students: success, jerk, age.

    Args:
        bundle: folder, e.g. models/pushing
        scenario: of the task
        rates: control rates [Hz]
        slower: multiples of the measured inference times
        episodes: for each entry of the table
        processes: that share them
        task: the bundle's, where not given
    """
    if episodes < 1 or min((*rates, *slower), default=0.0) <= 0.0:
        raise SrdpError(f"--episodes {episodes} --rates {rates} --slower {slower}: expected numbers above 0")
    loaded = load_bundle(bundle)
    found = find_task(task or loaded.content.task)
    tick_s = found.make_world(found.scenario(scenario)).tick_s
    report = ProgressPrinter()
    measured = measure_inference(loaded, list(loaded.content.policies))
    engines = fitting(measured, loaded.content.latency_budget)
    words = {True: "within the latency budget", False: "slower than the latency budget", None: "no latency budget"}
    for engine in engines:
        print(
            f"{engine['policy']:<14} {engine['p99_ms']:8.2f} ms (p99), in the loop up to "
            f"{engine['highest_rate_hz']:.0f} Hz, {words[engine['within_budget']]}"
        )
    rows = settings(list(loaded.content.policies), rates, slower)
    jobs = [
        Job(
            bundle,
            row.policy,
            found.name,
            scenario,
            {
                "update_rate": row.update_rate_hz,
                "planning.mode": row.planning,
                "planning.blend_time": row.blend_s,
                "noise.hold_time": row.noise_hold_s,
                "sampling.candidates": 1,  # as it was measured
                "abstain.enabled": False,  # each row is one policy's own
            },
            [sample * row.slower for sample in measured[row.policy]],
        )
        for row in rows
    ]
    gathered: list[list[Episode]] = [[] for _ in rows]
    done = 0
    for number, block in run_jobs(jobs, range(FIRST_SEED, FIRST_SEED + episodes), processes):
        gathered[number] += block
        done += len(block)
        row = rows[number]
        report("deployment", done, episodes * len(rows), f"{row.label}, {row.update_rate_hz:.0f} Hz, x{row.slower:g}")
    table = [
        {
            "label": row.label,
            **vars(row),
            "inference_p50_ms": percentiles(measured[row.policy], 1e-3)["p50"] * row.slower,
            **_found(driven, tick_s),
        }
        for row, driven in zip(rows, gathered, strict=True)
    ]
    print(tables.deployment({"table": table}))
    return {
        "seed": FIRST_SEED,
        "task": found.name,
        "scenario": scenario,
        "inference_us": summary(measured),
        "engines": engines,
        "table": table,
    }


def command_jerk(commands: np.ndarray, tick_s: float) -> float:
    """Root mean square second derivative of commands (n, act_dim), one a tick, over windows of ``WINDOW_S``.

    For velocities in m/s it is the jerk in m/s^3.
    """
    width = max(1, round(WINDOW_S / tick_s))
    count = len(commands) // width
    if count < 3:
        return 0.0
    windows = commands[: count * width].reshape(count, width, -1).mean(axis=1)
    second = np.diff(windows, n=2, axis=0) / (width * tick_s) ** 2
    return float(np.sqrt(np.mean(np.sum(second**2, axis=1))))


def largest_jump(commands: np.ndarray) -> float:
    """Largest change of the command (n, act_dim) from one tick to the next."""
    return float(np.linalg.norm(np.diff(commands, axis=0), axis=1).max(initial=0.0))


def _found(driven: list[Episode], tick_s: float) -> dict[str, Any]:
    successes = sum(episode.outcome.success for episode in driven)
    ages = np.concatenate([episode.ages_s for episode in driven])
    cycles, missed = sum(episode.cycles for episode in driven), sum(episode.missed_cycles for episode in driven)
    return {
        "episodes": len(driven),
        "successes": successes,
        "success_rate": successes / len(driven),
        "success_interval": success_interval(successes, len(driven)),
        "command_jerk": float(np.mean([command_jerk(episode.commands, tick_s) for episode in driven])),
        "largest_jump": float(np.mean([largest_jump(episode.commands) for episode in driven])),
        "age_ms": percentiles(ages.tolist(), 1e-3),
        "missed_share": missed / max(1, cycles + missed),
        "mean_episode_s": float(np.mean([episode.outcome.duration_s for episode in driven])),
    }
