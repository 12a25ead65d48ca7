"""The measuring process of ``srdp bench latency``: one thread, BLAS with one thread, nothing else in it.

``python -m srdp_controller.benchmarks.latency_worker BUNDLE OUTPUT OPTIONS`` with the options as JSON. Everything
that is compared runs in turns, in short blocks, so that a machine whose speed drifts hits all alike.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from srdp_controller.benchmarks.latency_floor import Floor
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.engines.onnx_engine import create_session
from srdp_controller.engines.providers import EngineOptions, load_engine, usable_providers
from srdp_controller.errors import EngineError
from srdp_controller.progress import ProgressPrinter, Report

Run = Callable[[], None]
BLOCK_S = 0.02
CHAIN = (1, 2, 4, 8, 10, 20, 50, 100)  # evaluations, for section 7's cost model
CANDIDATES = (1, 4, 16, 64)  # chunks that one run samples


class Turns:
    """Times [ns] of every call of several things that ran in turns, in blocks of about ``BLOCK_S``."""

    def __init__(self, runs: dict[str, Run], rounds: int, stage: str, report: Report) -> None:
        self.times: dict[str, list[int]] = {name: [] for name in runs}
        counts = {}
        for name, run in runs.items():
            for _ in range(3):
                run()
            started = time.perf_counter()
            run()
            counts[name] = max(3, min(2000, int(BLOCK_S / max(time.perf_counter() - started, 1e-7))))
        now = time.perf_counter_ns
        gc.collect()
        gc.disable()
        try:
            for done in range(rounds):
                for name, run in runs.items():
                    run()  # finds the caches as the one before left them
                    times = self.times[name]
                    for _ in range(counts[name]):
                        started_ns = now()
                        run()
                        times.append(now() - started_ns)
                report(stage, done + 1, rounds, f"{len(runs)} in turns")
        finally:
            gc.enable()

    def percentiles(self, name: str) -> dict[str, float]:
        """p50, p99, p99.9 and the largest [us]."""
        times = np.array(self.times[name]) * 1e-3
        p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
        return {"p50": float(p50), "p99": float(p99), "p999": float(p999), "max": float(times.max())}

    def p50(self, name: str) -> float:
        """Median [us]."""
        return float(np.median(self.times[name])) * 1e-3


def bound(graph: bytes, observation: np.ndarray, noise: np.ndarray) -> Run:
    """A graph on ONNX Runtime's CPU provider, bound to buffers, as ``OnnxEngine`` runs it."""
    session = create_session(graph, "cpu", "benchmark")
    binding = session.io_binding()
    for name, value in (("observation", observation), ("noise", noise)):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    for output in session.get_outputs():
        shape = [size if isinstance(size, int) else 1 for size in output.shape]
        kept = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        binding.bind_ortvalue_output(output.name, kept)
    return lambda: session.run_with_iobinding(binding)


def _inputs(bundle: LoadedBundle, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A nominal observation, and noise."""
    observation = bundle.spec.observation_normalisation()[0][None].astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((1, *bundle.policy(name).noise_shape))
    return observation, noise.astype(np.float32)


def _policies(bundle: LoadedBundle, options: dict[str, Any], report: Report) -> dict[str, Any]:
    """Every policy on every provider, its floor, and the same networks elsewhere."""
    names = list(bundle.content.policies)
    runs: dict[str, Run] = {}
    failures: dict[str, str] = {}
    loads_s: dict[str, float] = {}
    for name in names:
        for provider in usable_providers():
            began = time.perf_counter()
            try:
                engine = load_engine(load_bundle(bundle.folder), name, provider)
            except EngineError as error:  # installed, but there is no GPU
                failures[f"{provider}/{name}"] = str(error)
                continue
            engine.observation[:], engine.noise[:] = _inputs(bundle, name)
            runs[f"{provider}/{name}"] = engine.run
            loads_s[f"{provider}/{name}"] = time.perf_counter() - began
        floor = Floor(bundle.read(bundle.policy(name)))
        runs[f"floor/{name}"], runs[f"empty/{name}"] = floor.run, floor.run_empty
    if options["torch"]:
        runs |= _torch_runs(bundle, names, options["compile"], failures, report)
    turns = Turns(runs, options["rounds"], "policies", report)

    policies: dict[str, Any] = {
        name: {
            "floor_us": turns.p50(f"floor/{name}") - turns.p50(f"empty/{name}"),
            "evaluations": bundle.policy(name).evaluations,
        }
        for name in names
    }
    for key, load_s in loads_s.items():
        provider, name = key.split("/")
        policies[name][provider] = {"latency_us": turns.percentiles(key), "cold_start_s": load_s}
    baselines: dict[str, Any] = {}
    for key in runs:
        kind, _, rest = key.partition("/")
        if kind in ("torch_eager", "torch_eager_folded", "torch_compile", "diffusers"):
            baselines.setdefault(kind, {})[rest] = {"latency_us": turns.percentiles(key)}
    return {"policies": policies, "baselines": baselines, "failures": failures}


def _torch_runs(
    bundle: LoadedBundle, names: list[str], compiled: bool, failures: dict[str, str], report: Report
) -> dict[str, Run]:
    import torch

    from srdp_controller.benchmarks import latency_baselines as baselines

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    runs: dict[str, Run] = {}

    def add(key: str, make: Callable[..., Run], *arguments: Any) -> None:
        try:
            runs[key] = make(*arguments)
        except Exception as error:  # another network, no diffusers, no compiler: the others still count
            failures[key] = f"{type(error).__name__}: {str(error)[:300]}"

    for done, name in enumerate(names):
        graph, inputs = bundle.read(bundle.policy(name)), _inputs(bundle, name)
        add(f"torch_eager/{name}", baselines.torch_modules, bundle, name, *inputs)
        add(f"torch_eager_folded/{name}", baselines.torch_eager, graph, *inputs)
        if name != "teacher":
            steps = bundle.policy(name).evaluations
            for kind in ("ddim", "dpm"):
                of_teacher = _inputs(bundle, "teacher")
                add(f"diffusers/{kind}_k{steps}", baselines.diffusers_sampler, bundle, *of_teacher, kind, steps)
            if compiled:
                add(f"torch_compile/{name}", baselines.torch_compiled, graph, *inputs)
        report("PyTorch", done + 1, len(names), name)
    return runs


def _chain(bundle: LoadedBundle, rounds: int, report: Report) -> list[dict[str, float]]:
    """Section 7: time against the number of sequential evaluations, the teacher's graph with fewer steps."""
    import onnx

    from srdp_controller.offline.export.teacher_graph import skip_steps

    graph = bundle.read(bundle.policy("teacher"))
    total = bundle.policy("teacher").steps
    counts = [count for count in CHAIN if count < total] + [total]
    runs = {}
    for count in counts:
        model = skip_steps(onnx.load_from_string(graph), count)
        runs[str(count)] = bound(model.SerializeToString(), *_inputs(bundle, "teacher"))
    turns = Turns(runs, rounds, "evaluations", report)
    return [{"evaluations": count, **turns.percentiles(str(count))} for count in counts]


def _candidates(bundle: LoadedBundle, rounds: int, report: Report) -> list[dict[str, Any]]:
    """Time against the number of chunks that a run samples, each student on the CPU."""
    runs: dict[str, Run] = {}
    for name in bundle.content.policies:
        for count in CANDIDATES if name != "teacher" else ():
            engine = load_engine(bundle, name, "cpu", EngineOptions(candidates=count))
            engine.observation[:], noise = _inputs(bundle, name)
            engine.noise[:] = np.random.default_rng(1).standard_normal((count, *noise.shape[1:]))
            runs[f"{name}/{count}"] = engine.run
    turns = Turns(runs, rounds, "candidates", report)
    found = []
    for key in runs:
        name, _, number = key.partition("/")
        row = {"policy": name, "evaluations": bundle.policy(name).evaluations, "candidates": int(number)}
        found.append({**row, **turns.percentiles(key)})
    return found


def main(arguments: list[str]) -> None:
    """Measure what the options ask for and write the result."""
    bundle, output, options = load_bundle(arguments[0]), Path(arguments[1]), json.loads(arguments[2])
    report, rounds = ProgressPrinter(), options["rounds"]
    result = _policies(bundle, options, report)
    result["evaluations"] = _chain(bundle, rounds, report)
    result["candidates"] = _candidates(bundle, rounds, report)
    output.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
