"""All GPU checks in one go, within five minutes: `python benchmarks/gpu_checks.py [BUNDLE] [--json FILE]`.

Builds the engines that can be built, checks every GPU provider against the reference, measures latencies in turns
with the CPU, runs tests/gpu, and writes one JSON. Without a GPU it says what is missing and exits with 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from srdp_controller.benchmarks.latency_worker import Turns
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.engine_cache import store
from srdp_controller.engines.providers import NATIVE, EngineOptions, load_engine, usable_providers
from srdp_controller.errors import EngineError, SrdpError
from srdp_controller.files import write_json
from srdp_controller.offline.export.precision import convert
from srdp_controller.offline.export.verify import verify_bundle
from srdp_controller.progress import ProgressPrinter
from srdp_controller.provenance import describe_run

ROUNDS = 10


def gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def build_half_precision(folder: Path, cache: str, provider: str) -> dict[str, float]:
    """fp16 engines of every policy, into the cache; build times [s]."""
    from srdp_controller.engines.cuda import Cuda
    from srdp_controller.engines.tensorrt_build import build, key_of

    bundle, times = load_bundle(folder), {}
    cuda = Cuda()
    capability = cuda.compute_capability()
    cuda.close()
    for name, entry in bundle.content.policies.items():
        built = build(convert(bundle.read(entry), "fp16"), provider, "", name)
        store(Path(cache), key_of(bundle, name, provider, capability, "fp16"), built.plan, {"build_s": built.seconds})
        times[name] = built.seconds
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", default="models/pushing")
    parser.add_argument("--json", type=Path, default=Path("runs/gpu.json"))
    arguments = parser.parse_args()
    folder, began, report = Path(arguments.bundle), time.monotonic(), ProgressPrinter()
    device = gpu()
    providers = [name for name in usable_providers() if name != "cpu"]
    result: dict[str, Any] = {"seed": 0, "gpu": device, "providers": {}, "failures": {}}
    if not device or not providers:
        print(f"GPU: {device or 'none (nvidia-smi is not here)'}; GPU providers installed: {providers or 'none'}")
        print("pip install 'srdp_controller[gpu,sim,test]' on a machine with an NVIDIA GPU and its driver")
        return 1
    policies = list(load_bundle(folder).content.policies)
    runs, engines = {}, []
    with tempfile.TemporaryDirectory() as cache:
        jobs = [("cpu", "fp32"), *((name, "fp32") for name in providers)]
        jobs += [(name, "fp16") for name in providers if name in NATIVE]
        for done, (provider, precision) in enumerate(jobs):
            label = provider if precision == "fp32" else f"{provider}_fp16"
            options = EngineOptions(cache, precision)
            entry: dict[str, Any] = {}
            try:
                if precision == "fp16":
                    entry["build_s"] = build_half_precision(folder, cache, provider)
                started = time.monotonic()
                entry["parity"] = {
                    name: kinds[provider]
                    for name, kinds in verify_bundle(folder, 8, [provider], options)["policies"].items()
                }
                entry["verify_s"] = time.monotonic() - started
                for name in policies:
                    started = time.monotonic()
                    engine = load_engine(load_bundle(folder), name, provider, options)
                    entry.setdefault("load_s", {})[name] = time.monotonic() - started
                    entry.setdefault("cuda_graph", {})[name] = bool(getattr(engine, "captured", False))
                    engines.append(engine)
                    runs[f"{label}/{name}"] = engine.run
            except (EngineError, SrdpError, NotImplementedError) as error:
                result["failures"][label] = str(error)
            result["providers"][label] = entry
            report("providers", done + 1, len(jobs), label)
        turns = Turns(runs, ROUNDS)
        turns.measure("latency", report)
    for key in runs:
        label, name = key.split("/")
        result["providers"][label].setdefault("latency_us", {})[name] = turns.percentiles(key)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/gpu", "-rs"], capture_output=True, text=True, check=False
    )
    result["tests"] = {"status": tests.returncode, "summary": tests.stdout.strip().splitlines()[-12:]}
    result["seconds"] = time.monotonic() - began
    for label, entry in result["providers"].items():
        for name, late in entry.get("latency_us", {}).items():
            parity = entry["parity"][name]
            print(
                f"{label:<18} {name:<12} p50 {late['p50']:8.1f} p99 {late['p99']:8.1f} us, "
                f"max abs error {parity['max_abs_error']:.1e} {'ok' if parity['passed'] else 'FAILED'}"
            )
    for label, reason in result["failures"].items():
        print(f"{label}: {reason}")
    print(*result["tests"]["summary"][-1:], sep="\n")
    write_json(arguments.json, {**describe_run(" ".join(sys.argv), 0), **result})
    passed = not result["failures"] and tests.returncode == 0
    return 0 if passed and all(p["passed"] for e in result["providers"].values() for p in e["parity"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
