"""Writes the figures of README and docs from the JSON files that commands wrote: `python benchmarks/readme.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine_tables import TABLES as ENGINES
from engine_tables import engines as README_ENGINES
from real_time_tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "models" / "pushing" / "results"
DOCS = ROOT / "docs"
DEMO, LATENCY = DOCS / "demo.json", DOCS / "latency_success.json"
ABLATIONS, CHUNKING, COST = DOCS / "ablations.json", DOCS / "chunking.json", DOCS / "training_cost.json"
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
        f"A run of `make demo` on {machine}, commit {run['commit']} (`results/demo/demo.json`):",
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
        f"`results/eval/pushing/closed_loop.json` (each row names its commit) and `fidelity_test.json` (commit "
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


def interval(entry: dict[str, Any], digits: int = 2) -> str:
    """A mean with its half-width, where there is one."""
    if entry["mean"] is None:
        return ""
    text = f"{entry['mean']:.{digits}f}"
    return text if entry["interval"] is None else f"{text} ± {entry['interval'][1] - entry['mean']:.{digits}f}"


def ablations() -> str:
    """Section 8's table."""
    result = read(ABLATIONS)
    budget = result["budget"]
    lines = [
        f"`srdp experiment ablations` (`results/experiment/ablations.json`, commit {result['commit']}): {budget['seeds']} seeds, each with a "
        f"third of {budget['queries']} teacher queries to itself, {budget['steps']} training steps of batch "
        f"{budget['batch']} (the shipped students take 20000 of 512). Distances are sliced Wasserstein to the teacher over the "
        "teacher-against-itself floor, on held-out states, on states of the coverage hole (`shifted`), and on held-out states "
        "disturbed by half a standard deviation (`far`), with 95 % t intervals over the seeds; latent distances are relative "
        f"to the latents' own spread. Success at 50 Hz, {budget['episodes']} episodes a seed.",
        "",
        "![Distance to the teacher of every variant](ablations.png)",
    ]
    for steps in budget["students"]:
        lines += [
            "",
            f"K = {steps}:",
            "",
            "| variant | test | shifted | far | latent, shifted | nominal | shifted |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for line in result["table"]:
            if line["K"] != steps:
                continue
            states, success = line["states"], line["success_rate"]
            cells = [interval(states[kind]["ratio_to_floor"]) for kind in ("test", "shifted", "far")]
            cells.append(interval(states["shifted"]["latent_distance"], 3))
            cells += [f"{success[name]['mean']:.1%}" for name in ("nominal", "shifted")]
            lines.append(f"| {line['variant']}: {result['variants'][line['variant']]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fidelity() -> str:
    """Every few-step sampler's distance to the teacher."""
    results = {kind: read(RESULTS / f"fidelity_{kind}.json") for kind in ("test", "shifted", "augmented")}
    first = results["test"]
    lines = [
        f"`srdp eval fidelity models/pushing` ({first['count']} states, {first['samples']} actions each, commit "
        f"{first['commit']}; `results/eval/pushing/fidelity_*.json`): sliced Wasserstein distance to the teacher as shipped, "
        "as a multiple of the teacher-against-itself floor, with 95 % bootstrap intervals over the states. DDIM and "
        "DPM-Solver++ take K steps of the teacher itself; the direct policies were trained with K steps on the same data, "
        "as long as the teacher, without a teacher.",
        "",
        "| sampler | K | test | shifted | augmented |",
        "| --- | --- | --- | --- | --- |",
    ]
    kinds = {"student": "student", "ddim": "DDIM", "dpm": "DPM-Solver++", "direct": "trained directly"}
    for prefix, label in kinds.items():
        for steps in STEPS:
            cells = []
            for result in results.values():
                entry = {**result["policies"], **result["baselines"]}.get(f"{prefix}_k{steps}")
                low, high = entry["ratio_to_floor_interval"] if entry else (0, 0)
                cells.append(f"{entry['ratio_to_floor']:.2f} ({low:.2f} to {high:.2f})" if entry else "")
            lines.append(f"| {label} | {steps} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chunking() -> str:
    """Planning ahead, and past commands."""
    result = read(CHUNKING)
    lines: list[str] = [
        f"`srdp experiment chunking` (`results/experiment/chunking.json`, commit {result['commit']}), 20 Hz. A plan takes so many seconds, "
        "a new one begins every 0.2 s. `late`: the chunk is executed from its first action when it is ready; `skip`: what is "
        "past is dropped; `prefix`: dropped too, but the policy was told what is executed meanwhile. Jump: mean change of the "
        "command where one chunk follows another, in brackets at all other steps.",
        "",
        "| policy | joining | plan takes | success | 95 % interval | jump |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["table"]:
        if row["joining"]:
            low, high = row["success_interval"]
            lines.append(
                f"| {row['policy']} | {row['joining']} | {row['plan_takes_s']:.2f} s | {row['success_rate']:.1%} | "
                f"{low:.1%} to {high:.1%} | {row['jump_m_s']:.3f} ({row['change_m_s']:.3f}) m/s |"
            )
    lines += [
        "",
        "Past commands as plain inputs, one action executed per evaluation at 20 Hz:",
        "",
        "| policy | scenario | success | 95 % interval |",
        "| --- | --- | --- | --- |",
    ]
    for row in result["table"]:
        if not row["joining"]:
            low, high = row["success_interval"]
            lines.append(
                f"| {row['policy']} | {row['scenario']} | {row['success_rate']:.1%} | {low:.1%} to {high:.1%} |"
            )
    return "\n".join(lines)


def cost() -> str:
    """What distillation costs."""
    result = read(COST)
    bundle = read(ROOT / "models" / "pushing" / "bundle.json")
    stages = {name: stage["seconds"] for name, stage in bundle["provenance"]["stages"].items()}
    teacher, student = result["teacher_fit"], result["student_fit"]
    lines = [
        "The shipped bundle took, on 2 cores, "
        + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items())
        + f" ({sum(stages.values()) / 60:.1f} minutes from nothing; `make bundle`).",
        "",
        "Section 7 says B (q_T T + q_K K) evaluations. Measured by `benchmarks/training_cost.py` "
        f"(`results/experiment/training_cost.json`, commit {result['commit']}, one thread): asking the teacher takes time linear in q_T T "
        f"(R² {teacher['r_squared']:.4f}, largest error {teacher['largest_relative_error']:.0%}), a training step time linear "
        f"in the K evaluations of the chain and the q_K auxiliary ones (R² {student['r_squared']:.4f}, largest error "
        f"{student['largest_relative_error']:.0%}; {student['slopes'][0]:.1f} ms for an evaluation of the chain, "
        f"{student['slopes'][1]:.1f} ms for an auxiliary one, which asks the teacher too). The answers are cached, so the teacher's share is paid once for all students.",
        "",
        "| q_T | T | evaluations a state | 4096 states take |",
        "| --- | --- | --- | --- |",
    ]
    for row in result["teacher"]:
        lines.append(f"| {row['q_T']} | {row['T']} | {row['evaluations_per_state']} | {row['seconds']:.2f} s |")
    lines += ["", "| K | q_K | evaluations | a step of 256 takes |", "| --- | --- | --- | --- |"]
    for row in result["student"]:
        lines.append(f"| {row['K']} | {row['q_K']} | {row['evaluations']} | {row['step_ms']:.1f} ms |")
    return "\n".join(lines)


README = {"demo": demo, "results": results, "latency": latency, "loop": TABLES["loop"], "engines": README_ENGINES}
REAL_TIME = {name: make for name, make in TABLES.items() if name != "loop"}
DISTILLATION = {"ablations": ablations, "fidelity": fidelity, "chunking": chunking, "cost": cost}


def main() -> None:
    """Rewrite README and docs between their markers."""
    files = (
        (ROOT / "README.md", README),
        (DOCS / "distillation.md", DISTILLATION),
        (DOCS / "real_time.md", REAL_TIME),
        (DOCS / "engines.md", ENGINES),
    )
    for path, makers in files:
        text = path.read_text()
        for name, make in makers.items():
            begin, end = f"<!-- {name}: written by benchmarks/readme.py -->", f"<!-- end of {name} -->"
            start, stop = text.index(begin), text.index(end)
            text = f"{text[:start]}{begin}\n{make()}\n{text[stop:]}"
        path.write_text(text)


if __name__ == "__main__":
    main()
