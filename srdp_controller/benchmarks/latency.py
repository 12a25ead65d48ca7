"""``srdp bench latency``: every policy against its floor and against the same network elsewhere."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.progress import ProgressPrinter, Report
from srdp_controller.report import tables

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def bench_latency(
    bundle: Positional[Path] = Path("models/pushing"),
    *,
    rounds: int = 30,
    no_compile: bool = False,
    sizes: str = "0.2,0.5,1,2,5,10,20",
    starts: int = 5,
) -> dict[str, Any]:
    """Every policy against its floor and against the same network elsewhere, on one thread.

    Args:
        bundle: bundle folder
        rounds: turns in which everything is measured
        no_compile: without torch.compile (it takes minutes)
        sizes: networks of so many million parameters; empty: none
        starts: fresh processes for each cold start

    Raises:
        SrdpError: bad options, a damaged bundle, or the measuring process failed.
    """
    try:
        millions = [float(text) for text in sizes.split(",") if text]
    except ValueError:
        raise SrdpError(f"--sizes {sizes}: expected millions of parameters, e.g. 0.2,1,5") from None
    if rounds < 1 or starts < 1:
        raise SrdpError(f"--rounds {rounds} --starts {starts}: expected at least 1")
    import onnx  # noqa: F401  # missed now, not after minutes

    report = ProgressPrinter()
    load_bundle(bundle)
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        report("latency", 0, 1, "without PyTorch's columns: pip install 'srdp_controller[train]'")
    options = {"rounds": rounds, "torch": torch, "compile": torch and not no_compile, "sizes": millions}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "latency.json"
        worker = [sys.executable, "-m", "srdp_controller.benchmarks.latency_worker"]
        command = [*worker, str(bundle), str(output), json.dumps(options)]
        status = subprocess.run(command, env={**os.environ, **ONE_THREAD}, check=False).returncode
        if status != 0 or not output.exists():
            raise SrdpError(f"the measuring process ended with status {status}; its own lines above say why")
        result: dict[str, Any] = json.loads(output.read_text())
    if result["failures"]:
        report("latency", 1, 1, f"left out: {', '.join(result['failures'])}")
    _cold_starts(bundle, result["policies"], starts, report)
    result["cost_model"] = cost_model(result["evaluations"])
    result["checks"] = checks(result)
    print(f"{tables.policies(result)}\n\n{tables.checks(result)}")
    return {"seed": 0, **result}


def _cold_starts(bundle: Path, policies: dict[str, Any], starts: int, report: Report) -> None:
    """Medians over fresh processes; the files are in the system's cache after the first."""
    jobs = [
        (name, provider) for name, entry in policies.items() for provider, one in entry.items() if isinstance(one, dict)
    ]
    for done, (name, provider) in enumerate(jobs):
        records = []
        for _ in range(starts):
            command = [sys.executable, "-m", "srdp_controller.benchmarks.cold_start", str(bundle), name, provider]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            records.append(json.loads(answer.stdout))
        middle = {key: statistics.median(record[key] for record in records) for key in records[0]}
        policies[name][provider] |= {
            "cold_start_s": middle["load_s"],
            "import_s": middle["import_s"],
            "memory_bytes": middle["memory_bytes"],
            "process_bytes": middle["process_bytes"],
        }
        report("cold start", done + 1, len(jobs), f"{name} on {provider}: {middle['load_s']:.2f} s")


def cost_model(chain: list[dict[str, float]]) -> dict[str, float]:
    """Section 7: time = fixed + each * evaluations, fitted with equal weight on relative errors."""
    evaluations = np.array([row["evaluations"] for row in chain], dtype=float)
    times = np.array([row["p50"] for row in chain])
    design = np.stack([np.ones_like(evaluations), evaluations], axis=1) / times[:, None]
    (fixed, each), *_ = np.linalg.lstsq(design, np.ones_like(times), rcond=None)
    error = (fixed + each * evaluations) / times - 1.0
    return {"fixed_us": float(fixed), "each_us": float(each), "largest_relative_error": float(np.abs(error).max())}


def checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the measurement must show, each with its value and bound."""
    policies, baselines = result["policies"], result["baselines"]
    rows: list[dict[str, Any]] = []

    def check(name: str, value: float, *, least: float | None = None, most: float = math.inf) -> None:
        bound, passed = (most, value <= most) if least is None else (least, value >= least)
        rows.append({"name": name, "value": value, "bound": bound, "passed": bool(passed)})

    def p50(name: str) -> float:
        return float(policies[name]["cpu"]["latency_us"]["p50"])

    students = [name for name in policies if name != "teacher"]
    for name in students:
        check(f"{name}: p50 [us] against 1.3 floors and 10 us", p50(name), most=1.3 * policies[name]["floor_us"] + 10.0)
    for name in students:
        latency = policies[name]["cpu"]["latency_us"]
        check(f"{name}: p99 / p50", latency["p99"] / latency["p50"], most=2.0)
        check(f"{name}: load, verify, warm up [s]", policies[name]["cpu"]["cold_start_s"], most=0.5)
    eager, compiled = baselines.get("torch_eager", {}), baselines.get("torch_compile", {})
    for name, least in (("student_k1", 4.0), ("student_k4", 8.0), ("student_k8", 8.0)):
        if name in eager and name in policies:
            check(f"{name}: PyTorch eager / ours", eager[name]["latency_us"]["p50"] / p50(name), least=least)
    for name in students:
        if name in compiled:
            check(f"{name}: torch.compile / ours", compiled[name]["latency_us"]["p50"] / p50(name), least=3.0)
    for name, least in (("student_k1", 30.0), ("student_k4", 15.0)):
        if name in policies and "teacher" in policies:
            check(f"teacher / {name}", p50("teacher") / p50(name), least=least)
    check("linear in the evaluations: largest error", result["cost_model"]["largest_relative_error"], most=0.2)
    return rows
