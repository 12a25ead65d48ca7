"""``srdp bench gpu``: all GPU checks in one go, within five minutes, in the root of a checkout.

Builds the engines that can be built, checks every GPU provider against the reference, measures latencies in turns
with the CPU, and runs tests/gpu.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from tyro.conf import Positional

from srdp_controller.benchmarks.latency_worker import Turns
from srdp_controller.bundle_commands import Flavour, build_engine
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.providers import NATIVE, EngineOptions, load_engine, usable_providers
from srdp_controller.errors import SrdpError
from srdp_controller.offline.export.verify import FEW, verify_bundle
from srdp_controller.progress import ProgressPrinter
from srdp_controller.provenance import describe_run, installed

ROUNDS = 10
CANDIDATES = 64  # chunks that one run samples, beside one; engines of TensorRT are for one
PACKAGES = ("onnxruntime-gpu", "cuda-bindings", "tensorrt", "tensorrt_rtx")  # what computes on a GPU


def _run_times() -> dict[str, str]:
    """Versions of the driver and of what computes; ONNX Runtime's own, since several packages bring it."""
    words = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        driver = subprocess.run(words, capture_output=True, text=True, timeout=5, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        driver = []
    own = {"driver": driver[0] if driver else "unknown", "onnxruntime": onnxruntime.__version__}
    return own | installed(PACKAGES)


def bench_gpu(bundle: Positional[Path] = Path("models/pushing")) -> dict[str, Any]:
    """Every GPU provider: build, compare with the reference, latency beside the CPU's, tests/gpu.

    Args:
        bundle: bundle folder

    Raises:
        SrdpError: there is no GPU, or nothing installed that uses one.
    """
    began, report = time.monotonic(), ProgressPrinter()
    device = describe_run("srdp bench gpu", 0)["machine"]["gpu"]
    providers = [name for name in usable_providers() if name != "cpu"]
    if not device or not providers:
        raise SrdpError(
            f"GPU: {device or 'none (nvidia-smi finds none)'}; GPU providers installed: {providers or 'none'}. "
            "pip install 'srdp_controller[gpu,sim,test]' on a machine with an NVIDIA GPU and its driver"
        )
    result: dict[str, dict[str, Any]] = {"providers": {}, "failures": {}}
    candidates: list[dict[str, Any]] = []
    runs = {}
    jobs = [(name, "fp32") for name in ("cpu", *providers)] + [(name, "fp16") for name in providers if name in NATIVE]
    with tempfile.TemporaryDirectory() as cache:
        for done, (provider, precision) in enumerate(jobs):
            label = provider if precision == "fp32" else f"{provider}_{precision}"
            options = EngineOptions(cache, precision)
            entry = result["providers"][label] = {"load_s": {}, "cuda_graph": {}, "latency_us": {}}
            try:
                if precision == "fp16":
                    built = build_engine(bundle, cast(Flavour, provider), precision=["fp16"], cache=cache)["engines"]
                    entry["build_s"] = {one["policy"]: one["build_s"] for one in built}
                verified = verify_bundle(bundle, 8, [provider], options)["policies"]
                entry["parity"] = {name: kinds[provider] for name, kinds in verified.items()}
                for name in verified:
                    started = time.monotonic()
                    engine = load_engine(load_bundle(bundle), name, provider, options)
                    entry["load_s"][name] = time.monotonic() - started
                    entry["cuda_graph"][name] = bool(getattr(engine, "captured", False))
                    runs[f"{label}/{name}/1"] = engine.run
                    if provider not in NATIVE and engine.evaluations <= FEW:
                        many = load_engine(load_bundle(bundle), name, provider, replace(options, candidates=CANDIDATES))
                        many.noise[:] = np.random.default_rng(1).standard_normal(many.noise.shape)
                        runs[f"{label}/{name}/{CANDIDATES}"] = many.run
            except SrdpError as error:
                result["failures"][label] = str(error)
            report("providers", done + 1, len(jobs), label)
        turns = Turns(runs, ROUNDS, "latency", report)
    passed = not result["failures"]
    for key in runs:
        label, name, count = key.split("/")
        late = turns.percentiles(key)
        if count != "1":
            candidates.append({"policy": name, "provider": label, "candidates": int(count), **late})
            print(f"{label:<18} {name:<12} p50 {late['p50']:8.1f} p99 {late['p99']:8.1f} us, {count} candidates")
            continue
        entry = result["providers"][label]
        entry["latency_us"][name] = late
        parity = entry["parity"][name]
        passed &= parity["passed"]
        print(
            f"{label:<18} {name:<12} p50 {late['p50']:8.1f} p99 {late['p99']:8.1f} us, "
            f"max abs error {parity['max_abs_error']:.1e} {'ok' if parity['passed'] else 'FAILED'}"
        )
    for label, reason in result["failures"].items():
        print(f"{label}: {reason}")
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", "-rs"], capture_output=True, text=True, check=False
    )
    summary = tests.stdout.strip().splitlines()[-12:]
    print(*summary[-1:])
    return {
        "seed": 0,
        "gpu": device,
        "run_times": _run_times(),
        **result,
        "candidates": candidates,
        "tests": {"status": tests.returncode, "summary": summary},
        "seconds": time.monotonic() - began,
        "failed": not passed or tests.returncode != 0,
    }
