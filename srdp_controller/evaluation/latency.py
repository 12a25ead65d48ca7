"""How long single evaluations take on this machine, for loops in virtual time that wait for as long."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.engine import Engine, Guided
from srdp_controller.engines.providers import EngineOptions, load_engine
from srdp_controller.evaluation.baselines import load_policy
from srdp_controller.evaluation.policies import BatchedEngine

PAUSE_S = 3e-3  # between two runs, so that caches cool down as in a loop


def measure_inference(
    bundle: LoadedBundle,
    policies: Sequence[str],
    rounds: int = 10,
    baselines: Path | None = None,
    *,
    candidates: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Run times [s] on the CPU, up to the 99th percentile: what lies above is other programs' doing.

    The policies take turns, so that a machine whose speed drifts hits all alike. ``baselines`` is the folder of
    ``load_policy``; a policy samples one chunk a run, or as many as ``candidates`` says.
    """
    drawn = candidates or {}
    engines: dict[str, Engine] = {
        name: load_engine(bundle, name, "cpu", EngineOptions(candidates=drawn.get(name, 1)))
        if name in bundle.content.policies
        else BatchedEngine(load_policy(bundle, name, baselines), bundle.spec, drawn.get(name, 1))
        for name in policies
    }
    for engine in engines.values():
        if isinstance(engine, Guided):
            engine.weights[:] = 1.0  # as after an episode's first chunk
    samples: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(rounds):
        for name, engine in engines.items():
            for _ in range(30 if engine.evaluations <= 16 else 8):
                time.sleep(PAUSE_S)
                started = time.perf_counter()
                engine.run()
                samples[name].append(time.perf_counter() - started)
    return {name: sorted(times)[: max(1, round(0.99 * len(times)))] for name, times in samples.items()}


def percentiles(samples_s: Sequence[float], unit: float) -> dict[str, float]:
    """Median and 99th percentile in multiples of ``unit`` [s]; zeros without samples."""
    low, high = np.percentile(samples_s or [0.0], [50, 99]) / unit
    return {"p50": float(low), "p99": float(high)}


def summary(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Percentiles [us] by policy."""
    return {name: percentiles(times, 1e-6) for name, times in samples.items()}
