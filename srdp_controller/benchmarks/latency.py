"""``srdp bench latency``: every policy against its floor and against the same network elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from srdp_controller.engines.bundle import LoadedBundle, load_bundle
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
    picture: Path | None = None,
) -> dict[str, Any]:
    """Every policy against its floor and against the same network elsewhere, on one thread.

    Args:
        bundle: bundle folder
        rounds: turns in which everything is measured
        no_compile: without torch.compile (it takes minutes)
        sizes: networks of so many million parameters; empty: none
        starts: fresh processes for each cold start
        picture: draw it

    Raises:
        SrdpError: bad options, a damaged bundle, or the measuring process failed.
    """
    try:
        millions = [float(text) for text in sizes.split(",") if text]
    except ValueError:
        raise SrdpError(f"--sizes {sizes}: expected millions of parameters, e.g. 0.2,1,5") from None
    if rounds < 1 or starts < 1:
        raise SrdpError(f"--rounds {rounds} --starts {starts}: expected at least 1")
    import matplotlib  # noqa: F401  # missed now, not after minutes
    import onnx  # noqa: F401

    report = ProgressPrinter()
    loaded = load_bundle(bundle)
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
    if picture is not None:
        draw(picture, result, fidelity_of(loaded))
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

    def at_most(name: str, value: float, bound: float) -> None:
        rows.append({"name": name, "value": value, "bound": bound, "passed": bool(value <= bound)})

    def at_least(name: str, value: float, bound: float) -> None:
        rows.append({"name": name, "value": value, "bound": bound, "passed": bool(value >= bound)})

    def p50(name: str) -> float:
        return float(policies[name]["cpu"]["latency_us"]["p50"])

    students = [name for name in policies if name != "teacher"]
    for name in students:
        at_most(f"{name}: p50 [us] against 1.3 floors and 10 us", p50(name), 1.3 * policies[name]["floor_us"] + 10.0)
    for name in students:
        latency = policies[name]["cpu"]["latency_us"]
        at_most(f"{name}: p99 / p50", latency["p99"] / latency["p50"], 2.0)
        at_most(f"{name}: load, verify, warm up [s]", policies[name]["cpu"]["cold_start_s"], 0.5)
    eager, compiled = baselines.get("torch_eager", {}), baselines.get("torch_compile", {})
    for name, least in (("student_k1", 4.0), ("student_k4", 8.0), ("student_k8", 8.0)):
        if name in eager and name in policies:
            at_least(f"{name}: PyTorch eager / ours", eager[name]["latency_us"]["p50"] / p50(name), least)
    for name in students:
        if name in compiled:
            at_least(f"{name}: torch.compile / ours", compiled[name]["latency_us"]["p50"] / p50(name), 3.0)
    for name, least in (("student_k1", 30.0), ("student_k4", 15.0)):
        if name in policies and "teacher" in policies:
            at_least(f"teacher / {name}", p50("teacher") / p50(name), least)
    at_most("linear in the evaluations: largest error", result["cost_model"]["largest_relative_error"], 0.2)
    return rows


def fidelity_of(bundle: LoadedBundle) -> dict[str, float]:
    """Distance from the teacher over the teacher's own sampling noise, by policy, where it was measured."""
    path = Path("results/eval") / bundle.content.task / "fidelity_test.json"
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    both = content["policies"] | content["baselines"]
    return {name: entry["ratio_to_floor"] for name, entry in both.items() if "ratio_to_floor" in entry}


def draw(picture: Path, result: dict[str, Any], fidelity: dict[str, float]) -> None:
    """Four panels: time against evaluations, policies and baselines, fidelity against time, network size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(12.5, 8.6))
    _draw_chain(axes[0][0], result)
    _draw_baselines(axes[0][1], result)
    _draw_front(axes[1][0], result, fidelity)
    _draw_sizes(axes[1][1], result.get("sizes", []))
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=90)
    pyplot.close(figure)


def _draw_chain(axis: Any, result: dict[str, Any]) -> None:
    chain, model = result["evaluations"], result["cost_model"]
    x = [row["evaluations"] for row in chain]
    axis.errorbar(
        x,
        [row["p50"] for row in chain],
        yerr=[[0.0] * len(x), [row["p99"] - row["p50"] for row in chain]],
        fmt="o",
        capsize=3,
        label="teacher's graph with fewer steps, p50 to p99",
    )
    line = np.linspace(1, max(x), 200)
    fit = f"{model['fixed_us']:.0f} + {model['each_us']:.1f} n us (section 7)"
    axis.plot(line, model["fixed_us"] + model["each_us"] * line, lw=1, label=fit)
    students = {name: entry for name, entry in result["policies"].items() if name != "teacher"}
    axis.plot(
        [entry["evaluations"] for entry in students.values()],
        [entry["cpu"]["latency_us"]["p50"] for entry in students.values()],
        "s",
        label="students (with both trunks and scores)",
    )
    axis.plot(
        [entry["evaluations"] for entry in result["policies"].values()],
        [entry["floor_us"] for entry in result["policies"].values()],
        "_",
        ms=14,
        label="floor: the products alone",
    )
    axis.set(xscale="log", yscale="log", xlabel="sequential evaluations", ylabel="time of an action [us]")
    axis.set_title("one processor thread, batch 1")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3, which="both")


def _draw_baselines(axis: Any, result: dict[str, Any]) -> None:
    names = [name for name in result["policies"] if name != "teacher"]
    evaluations = [result["policies"][name]["evaluations"] for name in names]
    series: dict[str, list[float]] = {
        "floor": [result["policies"][name]["floor_us"] for name in names],
        "this project (ONNX Runtime)": [result["policies"][name]["cpu"]["latency_us"]["p50"] for name in names],
    }
    for kind, label in tables.BASELINES.items():
        found = [tables.baseline(result, kind, name) for name in names]
        values = [value for value in found if value is not None]
        if len(values) == len(names):
            series[label] = values
    for label, values in series.items():
        axis.plot(evaluations, values, "o-", ms=4, label=label)
    axis.set(xscale="log", yscale="log", xlabel="K", ylabel="p50 [us]", title="the same networks elsewhere, in turns")
    axis.set_xticks(evaluations)
    axis.set_xticklabels([str(count) for count in evaluations])
    axis.minorticks_off()
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)


def _draw_front(axis: Any, result: dict[str, Any], fidelity: dict[str, float]) -> None:
    times = {name: entry["cpu"]["latency_us"]["p50"] for name, entry in result["policies"].items()}
    chain = {f"ddim_k{row['evaluations']}": row["p50"] for row in result["evaluations"]}
    for kind, points, marker in (("students", times, "o"), ("plain DDIM, same runtime", chain, "x")):
        chosen = [(points[name], fidelity[name], name) for name in points if name in fidelity]
        if not chosen:
            continue
        axis.plot([x for x, _, _ in chosen], [y for _, y, _ in chosen], marker, label=kind)
        for x, y, name in chosen:
            axis.annotate(name.split("_")[-1], (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axis.axhline(1.0, lw=0.8, color="grey")
    axis.set(xscale="log", yscale="log", xlabel="p50 [us]", ylabel="distance from the teacher / its own noise")
    axis.set_title("fidelity against time (lower left is better)")
    if fidelity:
        axis.legend(fontsize=7)
    axis.grid(alpha=0.3, which="both")


def _draw_sizes(axis: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        x = [row["parameters"] / 1e6 for row in rows]
        axis.plot(x, [row["floor_us"] for row in rows], "o-", ms=4, label="floor")
        axis.plot(x, [row["latency_us"]["p50"] for row in rows], "o-", ms=4, label="this project, p50")
        axis.plot(x, [row["torch_eager_us"]["p50"] for row in rows], "o-", ms=4, label="PyTorch eager, p50")
        axis.legend(fontsize=7)
    axis.set(xscale="log", yscale="log", xlabel="teacher's parameters [millions]", ylabel="time of an action [us]")
    axis.set_title("K = 4, other network sizes")
    axis.grid(alpha=0.3, which="both")
