"""``srdp report latency-success``: what slow inference costs in closed loop, as a figure.

Inference times are measured first, on this machine, one thread, with a cold-ish cache as in a loop;
then every policy drives the simulated robot at every rate with those times: an action that takes
longer than its period comes late. ``slower`` repeats it for a machine that many times slower.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.engines.bundle import POLICY_NAMES, load_bundle
from srdp_controller.engines.providers import load_engine
from srdp_controller.evaluation.closed_loop import evaluate
from srdp_controller.progress import Report

HOLDS_S = (0.0, 0.2)


def measure_inference(bundle: Path, policies: list[str], rounds: int = 10) -> dict[str, list[float]]:
    """Seconds of single evaluations on the CPU engine, a few milliseconds apart.

    The policies take turns, so that a machine whose speed drifts hits all alike.
    """
    loaded = load_bundle(bundle)
    engines = {policy: load_engine(loaded, policy, "cpu") for policy in policies}
    samples: dict[str, list[float]] = {policy: [] for policy in policies}
    for _ in range(rounds):
        for policy, engine in engines.items():
            for _ in range(30 if engine.evaluations <= 16 else 8):
                time.sleep(0.003)
                started = time.perf_counter()
                engine.run()
                samples[policy].append(time.perf_counter() - started)
    return samples


def latency_success(
    bundle: Path,
    *,
    episodes: int,
    rates: list[float],
    slower: list[float],
    picture: Path,
    processes: int,
    seed: int,
    report: Report,
) -> dict[str, Any]:
    """Success of teacher and students against rate; draws ``picture`` and returns the table."""
    policies = [name for name in POLICY_NAMES if name in load_bundle(bundle).content.policies]
    measured = measure_inference(bundle, policies)
    table: list[dict[str, Any]] = []
    total = len(policies) * len(rates) * len(slower) * len(HOLDS_S)
    for factor in slower:
        for hold in HOLDS_S:
            for policy in policies:
                for rate in rates:
                    result = evaluate(
                        bundle,
                        policy,
                        "nominal",
                        episodes,
                        seed=seed,
                        update_rate_hz=rate,
                        noise_hold_s=hold,
                        latencies_s=[sample * factor for sample in measured[policy]],
                        processes=processes,
                    )
                    row = {key: result[key] for key in ("policy", "update_rate_hz", "noise_hold_s")}
                    row |= {key: result[key] for key in ("episodes", "successes", "success_rate", "success_interval")}
                    row["slower"] = factor
                    row["inference_p50_us"] = float(np.median(measured[policy])) * factor * 1e6
                    table.append(row)
                    text = f"{policy} {rate:.0f} Hz, noise held {hold} s, x{factor:g}: {result['success_rate']:.0%}"
                    report("latency", len(table), total, text)
    draw(picture, table, rates, slower)
    print(picture)
    inference = {
        policy: {
            "p50": float(np.percentile(samples, 50)) * 1e6,
            "p99": float(np.percentile(samples, 99)) * 1e6,
        }
        for policy, samples in measured.items()
    }
    return {"seed": seed, "inference_us": inference, "table": table, "figures": [str(picture)]}


def draw(picture: Path, table: list[dict[str, Any]], rates: list[float], slower: list[float]) -> None:
    """One panel per machine speed and noise policy: success against rate, with Wilson intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(slower), len(HOLDS_S), figsize=(6.2 * len(HOLDS_S), 3.9 * len(slower)), squeeze=False, sharey=True
    )
    for row, factor in enumerate(slower):
        for column, hold in enumerate(HOLDS_S):
            axis = axes[row][column]
            chosen = [entry for entry in table if entry["slower"] == factor and entry["noise_hold_s"] == hold]
            for policy in dict.fromkeys(entry["policy"] for entry in chosen):
                line = sorted(
                    (entry for entry in chosen if entry["policy"] == policy), key=lambda entry: entry["update_rate_hz"]
                )
                x = np.array([entry["update_rate_hz"] for entry in line])
                y = np.array([entry["success_rate"] for entry in line])
                low, high = np.array([entry["success_interval"] for entry in line]).T
                label = f"{policy} ({line[0]['inference_p50_us'] / 1e3:.2f} ms)"
                errors = [np.maximum(0.0, y - low), np.maximum(0.0, high - y)]
                axis.errorbar(x, y, yerr=errors, marker="o", ms=4, capsize=2, label=label)
            noise = "noise drawn every cycle" if hold == 0.0 else f"noise held {hold:g} s"
            machine = "this machine" if factor == 1.0 else f"a machine {factor:g} times slower"
            axis.set(xscale="log", xticks=rates, ylim=(-0.03, 1.05), title=f"{machine}, {noise}")
            axis.set_xticklabels([f"{rate:g}" for rate in rates])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.set_xlabel("control rate [Hz]")
            if column == 0:
                axis.set_ylabel("success")
            axis.legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=90)
    pyplot.close(figure)
