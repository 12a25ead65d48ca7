"""``srdp bench deployment``: the ways to run a diffusion policy on a robot, side by side on the same task.

The teacher in the loop (its actions come late), the teacher planning ahead of the loop (real-time chunking),
and the students in the loop; inference takes what it takes on this machine, measured first, and on one that
is slower by a factor. The controller is the node's own, in virtual time (``virtual_loop``).
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.certify.conformal import wilson_interval
from srdp_controller.control.assembly import default_values
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.providers import load_engine
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.latency_success import measure_inference
from srdp_controller.evaluation.virtual_loop import Drive, drive
from srdp_controller.progress import Report
from srdp_controller.simulation.scenario import load_scenario
from srdp_controller.tasks.pushing.env import ObservedWorld

BLOCK = 10


@dataclass(frozen=True)
class Way:
    """How a policy is run."""

    name: str
    policy: str
    planning: str


@dataclass(frozen=True)
class _Task:
    bundle: Path
    scenario: str
    way: Way
    rate: float
    slower: float
    blend_s: float
    samples_s: tuple[float, ...]
    seeds: tuple[int, ...]

    def __call__(self) -> list[Drive]:
        bundle = load_bundle(self.bundle)
        engine = load_engine(bundle, self.way.policy, "cpu")
        teacher = load_engine(bundle, "teacher", "cpu")
        values = {
            **default_values(),
            "update_rate": self.rate,
            "planning.mode": self.way.planning,
            "planning.blend_time": self.blend_s,
            "abstain.enabled": False,  # each row is one policy's own
        }
        observed = ObservedWorld(load_scenario(self.scenario), spec=bundle.spec)
        results = []
        for seed in self.seeds:
            rng = np.random.default_rng([seed, 2])

            def latency(rng: np.random.Generator = rng) -> int:
                return round(self.slower * self.samples_s[rng.integers(len(self.samples_s))] * 1e9)

            results.append(
                drive(
                    observed,
                    values,
                    engine,
                    teacher,
                    seed=seed,
                    threshold=math.inf,
                    latency=latency,
                    teacher_latency=latency,
                )
            )
        observed.world.close()
        return results


def _run(task: _Task) -> list[Drive]:
    return task()


def bench_deployment(
    bundle: Path,
    *,
    scenario: str,
    rates: list[float],
    slower: list[float],
    episodes: int,
    processes: int,
    picture: Path | None,
    report: Report,
) -> dict[str, Any]:
    """Every way at every rate and speed of the machine; returns a table and the measured inference times.

    Raises:
        SrdpError: fewer than one episode, or no such scenario.
    """
    if episodes < 1:
        raise SrdpError(f"--episodes {episodes}: expected at least 1")
    load_scenario(scenario)
    policies = list(load_bundle(bundle).content.policies)
    measured = measure_inference(bundle, policies)
    ways = [
        Way("teacher in the loop", "teacher", "every_cycle"),
        Way("teacher, real-time chunking", "teacher", "ahead"),
        *(Way(f"{name} in the loop", name, "every_cycle") for name in policies if name != "teacher"),
    ]
    blend_s = default_values()["planning.blend_time"]
    cells = [(way, rate, factor, blend_s) for factor in slower for way in ways for rate in rates]
    # what blending does, where it matters most
    chunking = ways[1]
    cells += [(chunking, max(rates), max(slower), other) for other in (0.0, 0.1)]
    seeds = list(range(9_000_000, 9_000_000 + episodes))
    gathered: dict[tuple[Any, ...], list[Drive]] = {cell: [] for cell in cells}
    done = 0
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {
            pool.submit(
                _run,
                _Task(
                    bundle,
                    scenario,
                    way,
                    rate,
                    factor,
                    blend,
                    tuple(measured[way.policy]),
                    tuple(seeds[start : start + BLOCK]),
                ),
            ): (way, rate, factor, blend)
            for way, rate, factor, blend in cells
            for start in range(0, episodes, BLOCK)
        }
        for future in as_completed(futures):
            cell = futures[future]
            gathered[cell] += future.result()
            done += 1
            report("deployment", done, len(futures), f"{cell[0].name}, {cell[1]:.0f} Hz, x{cell[2]:g}")
    table = [_row(cell, drives, measured) for cell, drives in gathered.items()]
    figures = []
    if picture is not None:
        draw(picture, table, blend_s)
        figures.append(str(picture))
    inference = {
        name: {"p50": float(np.percentile(samples, 50)) * 1e6, "p99": float(np.percentile(samples, 99)) * 1e6}
        for name, samples in measured.items()
    }
    return {"seed": 0, "scenario": scenario, "inference_us": inference, "table": table, "figures": figures}


def _row(cell: tuple[Any, ...], drives: list[Drive], measured: dict[str, list[float]]) -> dict[str, Any]:
    way, rate, factor, blend_s = cell
    successes = sum(one.outcome.success for one in drives)
    ages = np.concatenate([one.age_s for one in drives])
    cycles, missed = sum(one.cycles for one in drives), sum(one.missed_cycles for one in drives)
    return {
        "way": way.name,
        "policy": way.policy,
        "planning": way.planning,
        "update_rate_hz": rate,
        "slower": factor,
        "blend_s": blend_s,
        "inference_p50_ms": float(np.median(measured[way.policy])) * factor * 1e3,
        "episodes": len(drives),
        "successes": successes,
        "success_rate": successes / len(drives),
        "success_interval": list(wilson_interval(successes, len(drives))),
        "command_jerk_m_s3": float(np.mean([one.command_jerk for one in drives])),
        "largest_jump_m_s": float(np.mean([one.largest_jump for one in drives])),
        "age_ms": {"p50": float(np.median(ages)) * 1e3, "p99": float(np.percentile(ages, 99)) * 1e3},
        "missed_share": missed / max(1, cycles + missed),
        "mean_episode_s": float(np.mean([one.outcome.duration_s for one in drives])),
    }


def print_table(result: dict[str, Any]) -> None:
    """The table, one line a cell."""
    print(
        f"{'way':30s} {'Hz':>4s} {'x':>3s} {'ms':>6s} {'success':>8s} {'jerk':>6s} {'age p50/p99':>12s} {'missed':>7s}"
    )
    for row in result["table"]:
        age = row["age_ms"]
        print(
            f"{row['way']:30s} {row['update_rate_hz']:4.0f} {row['slower']:3.0f} {row['inference_p50_ms']:6.2f} "
            f"{row['success_rate']:8.0%} {row['command_jerk_m_s3']:6.2f} {age['p50']:6.0f}/{age['p99']:3.0f} "
            f"{row['missed_share']:7.1%}" + ("" if row["blend_s"] == 0.05 else f" blend {row['blend_s']:g} s")
        )


def draw(picture: Path, table: list[dict[str, Any]], blend_s: float) -> None:
    """Success, age of the observation and jerk against rate, a row for each speed of the machine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    factors = sorted({row["slower"] for row in table})
    columns: tuple[tuple[str, Callable[[dict[str, Any]], float]], ...] = (
        ("success", lambda row: float(row["success_rate"])),
        ("age of the observation, p50 [ms]", lambda row: float(row["age_ms"]["p50"])),
        ("command jerk, rms [m/s³]", lambda row: float(row["command_jerk_m_s3"])),
    )
    figure, axes = pyplot.subplots(len(factors), 3, figsize=(15, 3.8 * len(factors)), squeeze=False)
    for line, factor in enumerate(factors):
        for axis, (label, value) in zip(axes[line], columns, strict=True):
            chosen = [row for row in table if row["slower"] == factor and row["blend_s"] == blend_s]
            for way in dict.fromkeys(row["way"] for row in chosen):
                rows = sorted((row for row in chosen if row["way"] == way), key=lambda row: row["update_rate_hz"])
                rates = [row["update_rate_hz"] for row in rows]
                name = f"{way} ({rows[0]['inference_p50_ms']:.2g} ms)"
                axis.plot(rates, [value(row) for row in rows], marker="o", ms=4, label=name)
            machine = "this machine" if factor == 1.0 else f"a machine {factor:g} times slower"
            axis.set(xscale="log", xticks=rates, ylabel=label, title=machine)
            axis.set_xticklabels([f"{rate:g}" for rate in rates])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.set_xlabel("control rate [Hz]")
        axes[line][0].set_ylim(-0.03, 1.05)
        axes[line][0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=80)
    pyplot.close(figure)
