"""``srdp bench latency``: every policy against its floor and against the same network elsewhere."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report import tables

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def bench_latency(
    bundle: Positional[Path] = Path("models/pushing"),
    *,
    rounds: int = 30,
    no_compile: bool = False,
) -> dict[str, Any]:
    """Every policy against its floor and against the same network elsewhere, on one thread.

    Args:
        bundle: bundle folder
        rounds: turns in which everything is measured
        no_compile: without torch.compile (it takes minutes)

    Raises:
        SrdpError: bad options, a damaged bundle, or the measuring process failed.
    """
    if rounds < 1:
        raise SrdpError(f"--rounds {rounds}: expected at least 1")
    import onnx  # noqa: F401  # missed now, not after minutes

    report = ProgressPrinter()
    load_bundle(bundle)
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        report("latency", 0, 1, "without PyTorch's columns: pip install 'srdp_controller[train]'")
    options = {"rounds": rounds, "torch": torch, "compile": torch and not no_compile}
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
    result["cost_model"] = cost_model(result["evaluations"])
    result["candidates_cost_model"] = candidates_cost_model(result["candidates"])
    result["checks"] = checks(result)
    print(f"{tables.policies(result)}\n\n{tables.candidates(result)}\n\n{tables.checks(result)}")
    return {"seed": 0, **result}


def cost_model(chain: list[dict[str, float]]) -> dict[str, float]:
    """Section 7: time = fixed + each * evaluations, fitted with equal weight on relative errors."""
    evaluations = np.array([row["evaluations"] for row in chain], dtype=float)
    return _fitted({"fixed_us": np.ones_like(evaluations), "each_us": evaluations}, chain)


def candidates_cost_model(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The same with a term more: time = fixed + (each + row * candidates) * evaluations + drawn * candidates."""
    evaluations, drawn = np.array([(row["evaluations"], row["candidates"]) for row in rows], dtype=float).T
    terms = {"fixed_us": np.ones_like(drawn), "each_us": evaluations, "row_us": evaluations * drawn, "drawn_us": drawn}
    return _fitted(terms, rows)


def _fitted(terms: dict[str, np.ndarray], rows: list[dict[str, Any]]) -> dict[str, float]:
    times = np.array([row["p50"] for row in rows])
    design = np.stack(list(terms.values()), axis=1)
    factors, *_ = np.linalg.lstsq(design / times[:, None], np.ones_like(times), rcond=None)
    error = design @ factors / times - 1.0
    found = {name: float(factor) for name, factor in zip(terms, factors, strict=True)}
    return {**found, "largest_relative_error": float(np.abs(error).max())}


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
    several = {(row["policy"], row["candidates"]): row["p50"] for row in result["candidates"]}
    if ("student_k1", 16) in several:
        ratio = several["student_k1", 16] / several["student_k1", 1]
        check("student_k1: 16 chunks / one", ratio, most=3.5)
    check("linear in the evaluations: largest error", result["cost_model"]["largest_relative_error"], most=0.2)
    return rows
