"""Writes the README's figures from the JSON files that commands wrote: `python benchmarks/readme.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "models" / "pushing" / "results"
DOCS = ROOT / "docs"
DEMO, LATENCY, LOOP = DOCS / "demo.json", DOCS / "latency_success.json", DOCS / "bench_loop.json"
CLOSED_LOOP, FIDELITY = RESULTS / "closed_loop.json", RESULTS / "fidelity_test.json"
STEPS = (1, 2, 4, 8)
POLICIES = ("teacher", *(f"student_k{k}" for k in STEPS), *(f"ddim_k{k}" for k in STEPS))
NAMES = {"teacher": "teacher, T = 100"}
NAMES |= {f"student_k{k}": f"student, K = {k}" for k in STEPS}
NAMES |= {f"ddim_k{k}": f"plain DDIM, K = {k}" for k in STEPS}


def read(path: Path) -> dict[str, Any]:
    """A result file."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def demo() -> str:
    """What `make demo` printed."""
    run = read(DEMO)

    def group(name: str, unit: str) -> str:
        values = run[name]
        labels = {"p50": "p50", "p99": "p99", "p999": "p99.9", "max": "max"}
        return ", ".join(f"{label} {values[key]:.0f}" for key, label in labels.items()) + f" {unit}"

    machine = f"{run['machine']['cores']} cores ({run['machine']['cpu']}, shared virtual machine)"
    lines = [
        f"A run of `make demo` on {machine}, commit {run['commit']} (`docs/demo.json`):",
        "",
        "| | |",
        "| --- | --- |",
        f"| engine | {run['engine']} at {run['update_rate_hz']:.0f} Hz for {run['duration_s']:.0f} s |",
        f"| episodes | {run['successes']} of {run['episodes']} succeeded |",
        f"| cycles | {run['cycles']}, {run['commands']} commands, {run['overruns']} overruns, "
        f"{run['limit_violations']} limit violations |",
        f"| period error | {group('period_error_us', 'us')} |",
        f"| inference | {group('inference_us', 'us')} |",
        f"| everything else in a cycle | {group('overhead_us', 'us')} |",
        f"| observation received to command published | {group('latency_us', 'us')} |",
    ]
    return "\n".join(lines)


def results() -> str:
    """Success and fidelity of every policy."""
    closed, fidelity = read(CLOSED_LOOP), read(FIDELITY)
    rows = {(row["policy"], row["scenario"]): row for row in closed["rows"]}
    distances = {**fidelity["policies"], **fidelity["baselines"]}
    lines = [
        f"Closed-loop success over {closed['episodes']} episodes at 100 Hz "
        f"({rows['ddim_k1', 'nominal']['episodes']} for plain DDIM),",
        "and sliced Wasserstein distance of the action chunks to the teacher's on held-out states, as a multiple of",
        "the teacher against itself with other noise:",
        "",
        "| policy | nominal | 95 % interval | left / right / stuck | delayed (150 ms) | shifted | distance / floor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for policy in POLICIES:
        nominal = rows[policy, "nominal"]
        low, high = nominal["success_interval"]
        ways = " / ".join(str(nominal["ways"][way]) for way in ("left", "right", "stuck"))
        others = " | ".join(f"{rows[policy, scenario]['success_rate']:.1%}" for scenario in ("delayed", "shifted"))
        distance = f"{distances[policy]['ratio_to_floor']:.2f}" if policy in distances else "1"
        lines.append(
            f"| {NAMES[policy]} | {nominal['success_rate']:.1%} | {low:.1%} to {high:.1%} | {ways} | "
            f"{others} | {distance} |"
        )
    lines += [
        "",
        f"`models/pushing/results/closed_loop.json` (commit {closed['commit']}) and `fidelity_test.json` (commit "
        f"{fidelity['commit']}). Ways are counted where the start lets the expert go either way.",
    ]
    return "\n".join(lines)


def latency() -> str:
    """What the figure says, in words and numbers."""
    result = read(LATENCY)
    times = ", ".join(f"{name} {value['p50'] / 1e3:.2f} ms" for name, value in result["inference_us"].items())
    rates = sorted({row["update_rate_hz"] for row in result["table"]})
    episodes = result["table"][0]["episodes"]
    lines = [
        f"Inference times on the measuring machine (p50): {times}. Success over {episodes} episodes, noise held 0.2 s "
        "(in brackets: drawn every cycle):",
        "",
        "| policy, machine | " + " | ".join(f"{rate:.0f} Hz" for rate in rates) + " |",
        "| --- |" + " --- |" * len(rates),
    ]
    cell = {
        (row["policy"], row["slower"], row["noise_hold_s"], row["update_rate_hz"]): row["success_rate"]
        for row in result["table"]
    }
    for factor in sorted({row["slower"] for row in result["table"]}):
        for policy in ("teacher", "student_k1", "student_k4"):
            machine = "this machine" if factor == 1 else f"{factor:g} times slower"
            values = [
                f"{cell[policy, factor, 0.2, rate]:.0%} ({cell[policy, factor, 0.0, rate]:.0%})" for rate in rates
            ]
            lines.append(f"| {NAMES[policy]}, {machine} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def loop() -> str:
    """The controller's timing beside other loops."""
    result = read(LOOP)
    labels = {
        "dedicated": "this controller",
        "dedicated_unprivileged": "this controller, no privileges",
        "rclpy_timer_single": "same cycle on an rclpy timer, SingleThreadedExecutor",
        "rclpy_timer_multi": "same cycle on an rclpy timer, MultiThreadedExecutor",
        "bare": "the loop with an empty cycle",
        "cyclictest": "cyclictest",
    }
    lines = [
        f"At {result['rate_hz']:.0f} Hz with {result['engine']}, the robot in another process, each loop for "
        f"{result['duration_s']:.0f} s in {result['rounds']} turns (`srdp bench loop`, `docs/bench_loop.json`, "
        f"commit {result['commit']}):",
        "",
        "| loop | cycles run | overruns | lateness p50 / p99 / p99.9 / max | all but inference, p50 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, label in labels.items():
        if name not in result["loops"]:
            continue
        entry = result["loops"][name]
        late = " / ".join(f"{value:.0f}" for value in entry["lateness_us"].values())
        overhead = f"{entry['overhead_us']['p50']:.0f} us" if "overhead_us" in entry else ""
        lines.append(f"| {label} | {entry['cycles']} | {entry['overruns']} | {late} us | {overhead} |")
    return "\n".join(lines)


def main() -> None:
    """Rewrite the README between its markers."""
    path = ROOT / "README.md"
    text = path.read_text()
    for name, make in (("demo", demo), ("results", results), ("latency", latency), ("loop", loop)):
        begin, end = f"<!-- {name}: written by benchmarks/readme.py -->", f"<!-- end of {name} -->"
        start, stop = text.index(begin), text.index(end)
        text = f"{text[:start]}{begin}\n{make()}\n{text[stop:]}"
    path.write_text(text)


if __name__ == "__main__":
    main()
