"""The measuring process of ``srdp bench latency``: one thread, BLAS with one thread, nothing else in it.

``python -m srdp_controller.benchmarks.latency_worker BUNDLE OUTPUT OPTIONS`` with the options as JSON. Everything
that is compared runs in turns, in short blocks, so that a machine whose speed drifts hits all alike.
"""

from __future__ import annotations

import gc
import itertools
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
from srdp_controller.engines.onnx_engine import session_options
from srdp_controller.engines.providers import load_engine, usable_providers
from srdp_controller.errors import EngineError
from srdp_controller.progress import ProgressPrinter, Report

Run = Callable[[], None]
BLOCK_S = 0.02
BATCHES = (1, 4, 16, 64, 256)
CHAIN = (1, 2, 4, 8, 10, 20, 50, 100)  # evaluations, for section 7's cost model


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


def _of_batch_one(graph: bytes) -> bytes:
    import onnx
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    model = onnx.load_from_string(graph)
    values = [*model.graph.input, *model.graph.output]
    for name in {size.dim_param for value in values for size in value.type.tensor_type.shape.dim if size.dim_param}:
        make_dim_param_fixed(model.graph, name, 1)
    return bytes(model.SerializeToString())


def _session(graph: bytes, **settings: Any) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, session_options(**settings), providers=["CPUExecutionProvider"])


def bound(graph: bytes, observation: np.ndarray, noise: np.ndarray, run_options: Any = None, **settings: Any) -> Run:
    """A graph on ONNX Runtime's CPU provider, bound to buffers, as ``OnnxEngine`` runs it but for ``settings``."""
    session = _session(graph, **settings)
    binding = session.io_binding()
    for name, value in (("observation", observation), ("noise", noise)):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    for output in session.get_outputs():
        shape = [len(observation) if not isinstance(size, int) else size for size in output.shape]
        kept = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        binding.bind_ortvalue_output(output.name, kept)
    run = session.run_with_iobinding
    return lambda: run(binding, run_options)


def _inputs(bundle: LoadedBundle, name: str, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A nominal observation, and noise."""
    rng = np.random.default_rng(0)
    observation = np.repeat(bundle.spec.observation_normalisation()[0][None], batch, 0).astype(np.float32)
    return observation, rng.standard_normal((batch, *bundle.policy(name).noise_shape)).astype(np.float32)


def _policies(bundle: LoadedBundle, options: dict[str, Any], report: Report) -> dict[str, Any]:
    """Every policy on every provider, its floor, and the same networks elsewhere."""
    names = list(bundle.content.policies)
    runs: dict[str, Run] = {}
    failures: dict[str, str] = {}
    providers = usable_providers()
    for name in names:
        for provider in providers:
            try:
                engine = load_engine(bundle, name, provider)
            except EngineError as error:  # installed, but there is no GPU
                failures[f"{provider}/{name}"] = str(error)
                continue
            engine.observation[:], engine.noise[:] = _inputs(bundle, name)
            runs[f"{provider}/{name}"] = engine.run
        floor = Floor(bundle.read(bundle.policy(name)))
        runs[f"floor/{name}"], runs[f"empty/{name}"] = floor.run, floor.run_empty
    if options["torch"]:
        runs |= _torch_runs(bundle, names, options["compile"], failures, report)
    turns = Turns(runs, options["rounds"], "policies", report)

    policies: dict[str, Any] = {}
    for name in names:
        floor_us = turns.p50(f"floor/{name}") - turns.p50(f"empty/{name}")
        entry: dict[str, Any] = {"floor_us": floor_us, "evaluations": bundle.policy(name).evaluations}
        for provider in (provider for provider in providers if f"{provider}/{name}" in runs):
            entry[provider] = {"latency_us": turns.percentiles(f"{provider}/{name}")}
        policies[name] = entry
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


def _throughput(bundle: LoadedBundle, rounds: int, report: Report) -> dict[str, list[dict[str, float]]]:
    """Actions a second at several batch sizes, one thread."""
    runs = {}
    for name in bundle.content.policies:
        graph = bundle.read(bundle.policy(name))
        for batch in BATCHES:
            runs[f"{name}/{batch}"] = bound(graph, *_inputs(bundle, name, batch))
    turns = Turns(runs, max(3, rounds // 3), "throughput", report)
    return {
        name: [
            {
                "batch": batch,
                "p50_us": turns.p50(f"{name}/{batch}"),
                "actions_per_s": batch / turns.p50(f"{name}/{batch}") * 1e6,
            }
            for batch in BATCHES
        ]
        for name in bundle.content.policies
    }


def _settings(bundle: LoadedBundle, rounds: int, report: Report) -> dict[str, dict[str, float]]:
    """What ONNX Runtime's settings are worth, on a student of four steps (or the bundle's last policy)."""
    name = "student_k4" if "student_k4" in bundle.content.policies else list(bundle.content.policies)[-1]
    graph, inputs = bundle.read(bundle.policy(name)), _inputs(bundle, name)
    variants: dict[str, dict[str, Any]] = {
        "as shipped": {},
        "without memory pattern": {"memory_pattern": False},
        "without arena": {"arena": False},
        "two threads, not spinning": {"threads": 2},
        "two threads, spinning": {"threads": 2, "spinning": True},
        "basic graph optimisations": {"optimisation": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC},
        "no graph optimisations": {"optimisation": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL},
    }
    runs = {label: bound(graph, *inputs, **settings) for label, settings in variants.items()}
    session = _session(graph)
    feed = dict(zip(("observation", "noise"), inputs, strict=True))
    runs["without I/O binding"] = lambda: session.run(None, feed)
    runs["with run options, which cancelling needs"] = bound(graph, *inputs, run_options=onnxruntime.RunOptions())
    runs["a graph of batch one"] = bound(_of_batch_one(graph), *inputs)
    turns = Turns(runs, rounds, "settings", report)
    return {label: turns.percentiles(label) for label in runs}


def _precisions(bundle: LoadedBundle, rounds: int, report: Report) -> dict[str, Any]:
    """Half precision and 8-bit weights on this processor: time, and how far the actions move."""
    from srdp_controller.offline.export.precision import PRECISIONS, convert

    result: dict[str, Any] = {}
    runs: dict[str, Run] = {}
    rng = np.random.default_rng(1)
    centre, scale = bundle.spec.observation_normalisation()
    states = (centre + scale * rng.standard_normal((512, len(centre)))).astype(np.float32)
    action_scale = bundle.spec.action_normalisation()[1]
    for name in bundle.content.policies:
        graph = bundle.read(bundle.policy(name))
        noise = rng.standard_normal((len(states), *bundle.policy(name).noise_shape)).astype(np.float32)
        answers = {}
        for precision in PRECISIONS:
            try:
                converted = convert(graph, precision)
            except NotImplementedError as error:
                result.setdefault(name, {})[precision] = {"not_possible": str(error)}
                continue
            runs[f"{name}/{precision}"] = bound(converted, *_inputs(bundle, name))
            answers[precision] = _session(converted).run(["action"], {"observation": states, "noise": noise})[0]
            difference = (answers[precision] - answers["fp32"]) / action_scale
            result.setdefault(name, {})[precision] = {
                "bytes": len(converted),
                "action_rmse": float(np.sqrt(np.mean(difference**2))),
                "action_largest_error": float(np.abs(difference).max()),
            }
    turns = Turns(runs, rounds, "precisions", report)
    for key in runs:
        name, precision = key.split("/")
        result[name][precision]["latency_us"] = turns.percentiles(key)
    return result


def _sizes(bundle: LoadedBundle, millions: list[float], rounds: int, report: Report) -> list[dict[str, Any]]:
    """Students of four steps of other sizes (random weights: time does not depend on them)."""
    import torch

    from srdp_controller.benchmarks.latency_baselines import torch_eager
    from srdp_controller.offline.export.graphs import export_student
    from srdp_controller.policy.student import Student, fresh_trunk
    from srdp_controller.policy.teacher import SrdpTeacher

    torch.set_num_threads(1)
    spec = bundle.spec
    runs: dict[str, Run] = {}
    rows: list[dict[str, Any]] = []

    def network(width: int) -> SrdpTeacher:
        action = spec.horizon * spec.act_dim
        hidden = (width, width, width)
        return SrdpTeacher(spec.obs_dim, action, hidden[:2], 64, hidden, 32, "cosine", 100).requires_grad_(False)

    def size_of(width: int) -> int:
        with torch.device("meta"):
            return sum(weight.numel() for weight in network(width).parameters())

    for number, wanted in enumerate(millions):
        width = next(width for width in itertools.count(32, 16) if size_of(width) >= wanted * 1e6)
        torch.manual_seed(0)
        teacher, size = network(width), size_of(width)
        student = Student(teacher, 4)
        fresh_trunk(student)  # one like the teacher's would be evaluated once for both
        graph = export_student(student.requires_grad_(False), teacher, spec)
        observation = spec.observation_normalisation()[0][None].astype(np.float32)
        noise = np.zeros((1, 1, spec.horizon, spec.act_dim), np.float32)
        floor = Floor(graph)
        key = str(wanted)
        runs |= {
            f"onnx/{key}": bound(graph, observation, noise),
            f"floor/{key}": floor.run,
            f"empty/{key}": floor.run_empty,
            f"torch/{key}": torch_eager(graph, observation, noise),
        }
        rows.append({"parameters": size, "width": width, "weight_bytes": floor.weight_bytes, "key": key})
        report("export", number + 1, len(millions), f"{size / 1e6:.1f} M parameters")
    turns = Turns(runs, rounds, "sizes", report)
    for row in rows:
        key = row.pop("key")
        row["latency_us"] = turns.percentiles(f"onnx/{key}")
        row["floor_us"] = turns.p50(f"floor/{key}") - turns.p50(f"empty/{key}")
        row["torch_eager_us"] = turns.percentiles(f"torch/{key}")
    return rows


def main(arguments: list[str]) -> None:
    """Measure what the options ask for and write the result."""
    bundle, output, options = load_bundle(arguments[0]), Path(arguments[1]), json.loads(arguments[2])
    report, rounds = ProgressPrinter(), options["rounds"]
    result = _policies(bundle, options, report)
    result["evaluations"] = _chain(bundle, rounds, report)
    result["throughput"] = _throughput(bundle, rounds, report)
    result["settings"] = _settings(bundle, rounds, report)
    result["precisions"] = _precisions(bundle, rounds, report)
    if options["torch"] and options["sizes"]:
        result["sizes"] = _sizes(bundle, options["sizes"], rounds, report)
    output.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
