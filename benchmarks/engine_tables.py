"""Tables of docs/engines.md, from results/bench/latency.json and fuzz.json."""

from __future__ import annotations

from typing import Any

from real_time_tables import read

LABELS = {"teacher": "teacher, T = 100"} | {f"student_k{k}": f"student, K = {k}" for k in (1, 2, 4, 8)}


def us(value: float) -> str:
    return f"{value:.0f} us" if value >= 100 else f"{value:.1f} us"


def p50(baselines: dict[str, Any], kind: str, name: str) -> str:
    entry = baselines.get(kind, {}).get(name)
    return us(entry["latency_us"]["p50"]) if entry else ""


def policies() -> str:
    """Every policy beside its floor and the same network elsewhere."""
    result = read("latency")
    baselines = result["baselines"]
    lines = [
        f"`srdp bench latency` (`results/bench/latency.json`, commit {result['commit']}, {result['machine']['cpu']}), one thread, "
        "batch 1, everything in turns in one process; medians but for the column that says otherwise:",
        "",
        "| policy | evaluations | floor | here, p50 / p99 / p99.9 | PyTorch eager | exported operations in eager | torch.compile, best mode | diffusers DDIM | DPM-Solver++ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in result["policies"].items():
        late = entry["cpu"]["latency_us"]
        count = entry["evaluations"]
        elsewhere = [p50(baselines, kind, name) for kind in ("torch_eager", "torch_eager_folded", "torch_compile")]
        elsewhere += [p50(baselines, "diffusers", f"{kind}_k{count}") for kind in ("ddim", "dpm")]
        here = f"{late['p50']:.1f} / {late['p99']:.1f} / {late['p999']:.1f} us"
        lines.append(
            "| " + " | ".join([LABELS.get(name, name), str(count), us(entry["floor_us"]), here, *elsewhere]) + " |"
        )
    return "\n".join(lines)


def engines() -> str:
    """The README's sentence."""
    result = read("latency")
    students = {name: entry for name, entry in result["policies"].items() if name.startswith("student")}
    here = {name: entry["cpu"]["latency_us"]["p50"] for name, entry in students.items()}
    over = [here[name] / entry["floor_us"] for name, entry in students.items()]
    eager = [result["baselines"]["torch_eager"][name]["latency_us"]["p50"] / here[name] for name in here]
    return (
        f"One action of a student takes {us(here['student_k1'])} at K = 1 and {us(here['student_k8'])} at K = 8, {min(over):.1f} to "
        f"{max(over):.1f} times as long as the bare matrix products of its network on one core; PyTorch eager takes "
        f"{min(eager):.1f} to {max(eager):.1f} times as long as that (`results/bench/latency.json`, commit {result['commit']})."
    )


def checks() -> str:
    """What was asked of it."""
    lines = ["| | measured | asked for | |", "| --- | --- | --- | --- |"]
    for row in read("latency")["checks"]:
        kind = "at least" if " / ours" in row["name"] or row["name"].startswith("teacher /") else "at most"
        passed = "met" if row["passed"] else "**missed**"
        lines.append(f"| {row['name']} | {row['value']:.2f} | {kind} {row['bound']:.2f} | {passed} |")
    return "\n".join(lines)


def costs() -> str:
    """The cost model, a cold start, memory, throughput."""
    result = read("latency")
    model = result["cost_model"]
    chain = ", ".join(f"{row['evaluations']}: {row['p50']:.0f}" for row in result["evaluations"])
    lines = [
        f"Section 7's cost model on the teacher's graph with n steps: {model['fixed_us']:.1f} + {model['each_us']:.2f} n us, "
        f"largest error {model['largest_relative_error']:.1%} (n: us; {chain}).",
        "",
        "| policy | load, verify, warm up | imports before | memory | actions/s, batch 1 | 4 | 16 | 64 | 256 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in result["policies"].items():
        cpu = entry["cpu"]
        rates = [f"{row['actions_per_s']:.0f}" for row in result["throughput"][name]]
        lines.append(
            f"| {LABELS.get(name, name)} | {cpu['cold_start_s'] * 1e3:.0f} ms | {cpu['import_s'] * 1e3:.0f} ms | "
            f"{cpu['memory_bytes'] / 2**20:.1f} MiB | " + " | ".join(rates) + " |"
        )
    return "\n".join(lines)


def choices() -> str:
    """Settings of ONNX Runtime, precisions, sizes."""
    result = read("latency")
    lines = ["| ONNX Runtime, student of four steps | p50 | p99 |", "| --- | --- | --- |"]
    for label, late in result["settings"].items():
        lines.append(f"| {label} | {us(late['p50'])} | {us(late['p99'])} |")
    lines += [
        "",
        "| policy | fp32 | fp16 | error of an action | int8 | error of an action |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in result["precisions"].items():
        cells = [LABELS.get(name, name), us(entry["fp32"]["latency_us"]["p50"])]
        for kind in ("fp16", "int8"):
            other = entry[kind]
            measured = "latency_us" in other
            cells += [us(other["latency_us"]["p50"]), f"{other['action_rmse']:.1e}"] if measured else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| teacher's parameters (K = 4) | weights of the graph | floor | here, p50 | over the floor | PyTorch, exported operations |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result.get("sizes", []):
        here = row["latency_us"]["p50"]
        lines.append(
            f"| {row['parameters'] / 1e6:.1f} M | {row['weight_bytes'] / 1e6:.1f} MB | {us(row['floor_us'])} | {us(here)} | "
            f"{here / row['floor_us']:.2f} | {us(row['torch_eager_us']['p50'])} |"
        )
    return "\n".join(lines)


def fuzz() -> str:
    """Corrupted bundles."""
    result = read("fuzz")
    kinds = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(result["kinds"].items()))
    return (
        f"{result['count']} corrupted bundles ({kinds}; seed {result['seed']}, `results/bench/fuzz.json`, commit {result['commit']}): "
        f"{result['refused']} refused with a message that names the file, {result['accepted']} accepted, {result['crashed']} "
        f"crashes, {result['unnamed']} without a name, {result['escaped']} files outside the target; at most "
        f"{result['slowest_s']:.1f} s and {result['peak_memory_mib']:.0f} MiB."
    )


TABLES = {"policies": policies, "checks": checks, "costs": costs, "choices": choices, "fuzz": fuzz}
