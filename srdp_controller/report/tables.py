"""``srdp report tables``: rewrites the marked sections of README, docs and model card from the files in ``results/``.

A section is one function: it reads result files and returns Markdown, which says its files and their commits. What is
the same whatever was measured stands as prose in the documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.resources import find_resource

RESULTS, MODEL = Path("results"), Path("models/pushing")
OTHERS = ("delayed", "shifted")
FIDELITY = tuple(f"eval/pushing/fidelity_{kind}" for kind in ("test", "shifted", "augmented", "bimodal"))
RATES = (100, 250, 500, 1000, 2000)
SAMPLER = re.compile(r"(\w+)_k(\d+)(?:@(\d+))?")
SAMPLERS = {"student": "student", "ddim": "DDIM", "dpm": "DPM-Solver++", "direct": "trained directly"}
LOOPS = {
    "dedicated": "this controller",
    "dedicated_explained": "this controller, watched for the causes of late cycles",
    "dedicated_ordinary_helpers": "this controller, its other threads without priority",
    "dedicated_unprivileged": "this controller, no privileges",
    "rclpy_timer_single": "same cycle on an rclpy timer, SingleThreadedExecutor",
    "rclpy_timer_multi": "same cycle on an rclpy timer, MultiThreadedExecutor",
    "torch_eager": "this controller, policy in PyTorch eager",
    "bare": "the loop with an empty cycle",
    "bare_alone": "the loop with an empty cycle, no robot beside it",
    "bare_busy": "the loop with a cycle that spins as long",
    "bare_work": "the loop with as much inference and nothing else",
    "cyclictest": "cyclictest",
}

# --- helpers ------------------------------------------------------------------------------------


def read(name: str) -> dict[str, Any]:
    """The result file ``results/NAME.json``."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def source(*names: str, also: str = "") -> str:
    """Files that a section comes from, with their commits and machine."""
    results = [read(name) for name in names]
    commits = {row.get("commit", result["commit"]) for result in results for row in result.get("rows", [result])}
    files = ", ".join(f"`results/{name}.json`" for name in names)
    machine = results[-1]["machine"]
    return f"{also}{files}, commit {', '.join(sorted(commits))}; {machine['cores']} cores of {machine['cpu']}."


def table(head: str, rows: Iterable[Mapping[str, Any]], template: str) -> str:
    """A Markdown table: the columns' names and each row's cells stand with bars between."""
    lines = [head, " | ".join("---" for _ in head.split("|")), *(template.format_map(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def section(*parts: str) -> str:
    """Paragraphs and tables, one below the other."""
    return "\n\n".join(part for part in parts if part)


def four(key: str) -> str:
    """Template of four percentiles [us]."""
    return " / ".join(f"{{{key}[{name}]:.0f}}" for name in ("p50", "p99", "p999", "max")) + " us"


def us(value: float) -> str:
    """A time [us]."""
    return f"{value:.0f} us" if value >= 100 else f"{value:.1f} us"


def span(interval: Iterable[float], form: str = ".1%") -> str:
    """An interval."""
    return " to ".join(format(value, form) for value in interval)


def label(policy: str) -> str:
    """A policy's name for people; a sampler says the level that it starts at."""
    match = SAMPLER.fullmatch(policy)
    if match is None or match[1] not in SAMPLERS:
        return policy
    start = f" from level {match[3]}" if match[3] else ""
    return f"{SAMPLERS[match[1]]}, K = {match[2]}{start}"


def driven(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of closed-loop results with their texts: the first metric that counts words, and the numbers."""
    ways = [next((one for one in row["metrics"].values() if isinstance(one, dict)), {}) for row in rows]
    words = sorted({word for counts in ways for word in counts})
    texts = []
    for row, counts in zip(rows, ways, strict=True):
        numbers = {name: metric for name, metric in row["metrics"].items() if not isinstance(metric, dict)}
        text = {
            "name": label(row["policy"]),
            "span": span(row["success_interval"]),
            "ways": " / ".join(words),
            "words": " / ".join(str(counts.get(word, 0)) for word in words),
            "numbers": ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items()),
        }
        texts.append(row | text)
    return texts


def demo() -> str:
    """A run of ``make demo``."""
    run = read("demo/demo")
    told = {
        "engine": "{engine} at {update_rate_hz:.0f} Hz for {duration_s:.0f} s",
        "episodes": "{successes} of {episodes} succeeded",
        "cycles": "{cycles}, {commands} commands, {overruns} overruns",
        "limits": "{limit_violations} violations, {filter_interventions} cycles with an intervention",
        "period error, p50 / p99 / p99.9 / max": four("period_error_us"),
        "inference": four("inference_us"),
        "everything else in a cycle": four("overhead_us"),
        "observation received to command published": four("latency_us"),
    }
    rows = [{"name": name, "text": text.format_map(run)} for name, text in told.items()]
    return section(table("`make demo` | ", rows, "{name} | {text}"), source("demo/demo"))


def results() -> str:
    """Success and fidelity of every policy that was driven in the nominal scenario."""
    closed, fidelity = read("eval/pushing/closed_loop"), read("eval/pushing/fidelity_test")
    rows = {(row["policy"], row["scenario"]): row for row in driven(closed["rows"])}
    both = {**fidelity["policies"], **fidelity["baselines"]}
    distances = {name.partition("@")[0]: f"{entry['ratio_to_floor']:.2f}" for name, entry in both.items()}
    lines = [
        row
        | {f"in_{one}": f"{rows[policy, one]['success_rate']:.1%}" if (policy, one) in rows else "" for one in OTHERS}
        | {"distance": distances.get(policy.partition("@")[0], "1" if policy == "teacher" else "")}
        for (policy, scenario), row in rows.items()
        if scenario == "nominal"
    ]
    head = "policy | episodes | nominal | 95 % interval | {ways} | delayed | shifted | distance / floor"
    template = "{name} | {episodes} | {success_rate:.1%} | {span} | {words} | {in_delayed} | {in_shifted} | {distance}"
    names = "eval/pushing/closed_loop", "eval/pushing/fidelity_test"
    return section(table(head.format_map(lines[0]), lines, template), source(*names))


def by_rate(rows: list[dict[str, Any]], cell: str) -> str:
    """Rows of ``bench deployment`` as a table of rates; ``cell`` is the template of an entry."""
    rates = sorted({row["update_rate_hz"] for row in rows})
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for row in rows:
        line = found.setdefault((row["label"], row["slower"]), {"name": row["label"], "slower": row["slower"]})
        line[f"at {row['update_rate_hz']:.0f}"] = cell.format_map(row)
    head = "policy | machine slower by | " + " | ".join(f"{rate:.0f} Hz" for rate in rates)
    return table(head, found.values(), "{name} | {slower:g} | " + " | ".join(f"{{at {rate:.0f}}}" for rate in rates))


def latency() -> str:
    """Success against control rate, where inference takes what it takes on this machine and on slower ones."""
    result = read("bench/deployment")
    rows = [row for row in result["table"] if usual(row, result["table"][0])]
    inference = ", ".join(f"{label(name)} {us(value['p50'])}" for name, value in result["inference_us"].items())
    also = f"Inference, p50: {inference}. {rows[0]['episodes']} episodes an entry; "
    return section(by_rate(rows, "{success_rate:.0%}"), source("bench/deployment", also=also))


def usual(row: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether a row has the first one's settings."""
    return bool(row["blend_s"] == first["blend_s"] and row["noise_hold_s"] == first["noise_hold_s"])


def loop() -> str:
    """Every loop at 1 kHz."""
    result = read("bench/loop_1000")
    rows = [
        {"name": text, "other": us(one["overhead_us"]["p50"]) if "overhead_us" in one else "", **one}
        for text, one in ((text, result["loops"][name]) for name, text in LOOPS.items() if name in result["loops"])
    ]
    head = "loop | cycles run | overruns | lateness p50 / p99 / p99.9 / max | all but inference, p50"
    template = "{name} | {cycles} | {overruns} | " + four("lateness_us") + " | {other}"
    also = "{rate_hz:.0f} Hz, {engine}, {duration_s:.0f} s each in {rounds} turns; ".format_map(result)
    return section(table(head, rows, template), source("bench/loop_1000", also=also))


def rates() -> str:
    """The controller at every rate, beside what an empty cycle shows."""
    files = {f"bench/loop_{rate}": f"{rate} Hz" for rate in RATES}
    files["bench/loop_hogs"] = "1000 Hz, a busy process on every core"
    names, rows = ("dedicated", "bare_work", "bare_busy", "bare", "cyclictest"), []
    for file, text in files.items():
        loops = read(file)["loops"]
        row = {"name": text, "other": us(loops["dedicated"]["overhead_us"]["p50"])}
        for name in names:
            one, late = loops.get(name), "{lateness_us[p99]:.0f} / {lateness_us[p999]:.0f} us"
            row[f"overruns {name}"] = f"{1e4 * one['overruns'] / one['cycles']:.1f}" if one else ""
            row[f"late {name}"] = late.format_map(one) if one else ""
        rows.append(row)
    columns = "work | busy | bare | cyclictest"
    head = f" | overruns of 10,000 | {columns} | lateness p99 / p99.9 | {columns} | all but inference, p50"
    cells = [f"{{{kind} {name}}}" for kind in ("overruns", "late") for name in names]
    return section(table(head, rows, " | ".join(["{name}", *cells, "{other}"])), source(*files))


def late() -> str:
    """Late cycles and overruns by cause."""
    result = read("bench/loop_explained")
    one = result["loops"]["dedicated_explained"]
    counts = one["late_cycles_by_cause"].items()
    rows = [{"cause": cause, "late": count, "over": one["overruns_by_cause"][cause]} for cause, count in counts]
    also = f"{one['cycles']} cycles at {result['rate_hz']:.0f} Hz; "
    template = "{cause} | {late} | {over}"
    return section(
        table("cause | late cycles | of these, overruns", rows, template), source("bench/loop_explained", also=also)
    )


def swap() -> str:
    """What swaps cost."""
    result = read("bench/swap")
    said = (
        "{swaps} swaps at {rate_hz:.0f} Hz, {swaps_per_second:.1f} a second: {cycles} cycles, {commands} commands, "
        "{engine_failures} engine failures, {rollbacks} roll-backs, {limit_violations} limit violations; {overruns} "
        "overruns, {quiet[overruns]} of {quiet[cycles]} cycles without swaps. "
    )
    parts = {"with swaps": result, "without": result["quiet"], "added": {"lateness_us": result["added_lateness_us"]}}
    rows = [{"name": name, "lateness_us": part["lateness_us"]} for name, part in parts.items()]
    lines = table(" | lateness p50 / p99 / p99.9 / max", rows, "{name} | " + four("lateness_us"))
    return section(lines, source("bench/swap", also=said.format_map(result)))


def faults() -> str:
    """The fault matrix."""
    rows = read("bench/faults")["faults"]
    for row in rows:
        row["after"] = "" if row["mode"] in ("STUDENT", "ended") else f"{row['time_to_mode_ms']:.0f} ms"
        row["well"] = "yes" if row["recovered"] else "no"
    head = "fault | mode | entered after | cycles | commands | unsafe | recovered | missing in the recording"
    template = (
        "{name} | {mode} | {after} | {cycles} | {commands} | {unsafe_commands} | {well} | {recording_lost_ms:.0f} ms"
    )
    return section(table(head, rows, template), source("bench/faults"))


def deployment() -> str:
    """Ways to run a policy: success / command jerk / age, by rate and machine; then blending, and noise anew."""
    rows = read("bench/deployment")["table"]
    cell = "{success_rate:.0%} / {command_jerk:.1f} / {age_ms[p50]:.0f} ms"
    main = by_rate([row for row in rows if usual(row, rows[0])], cell)
    other = "{label} | {update_rate_hz:.0f} Hz | {slower:g} | {blend_s} s | {noise_hold_s} s | " + cell
    rest = [row for row in rows if not usual(row, rows[0])]
    head = "policy | rate | machine slower by | blending | noise held | success / jerk / age"
    also = f"{rows[0]['episodes']} episodes an entry; "
    return section(main, table(head, rest, other), source("bench/deployment", also=also))


def soak() -> str:
    """An hour."""
    result = read("bench/soak")
    size = {"mib": result["resident_bytes"] / 2**20, "kib": result["growth"]["resident_bytes"] / 2**10}
    text = (
        "{duration_s:.0f} s at {rate_hz:.0f} Hz: {cycles} cycles, {commands} commands, {limit_violations} limit "
        "violations. Resident memory {mib:.0f} MiB, grown by {kib:.0f} KiB after the first {warm_up_s:.0f} s; threads "
        "{growth[threads]:+d}, open files {growth[open_files]:+d}. "
    )
    return text.format_map(result | size) + source("bench/soak")


def engines() -> str:
    """The README's sentence on the engines."""
    result = read("bench/latency")
    students = {name: entry for name, entry in result["policies"].items() if name != "teacher"}
    here = {name: entry["cpu"]["latency_us"]["p50"] for name, entry in students.items()}
    over = [here[name] / entry["floor_us"] for name, entry in students.items()]
    eager = [result["baselines"]["torch_eager"][name]["latency_us"]["p50"] / here[name] for name in here]
    each = ", ".join(f"{us(value)} with {label(name)}" for name, value in here.items())
    return (
        f"One action takes {each}: {min(over):.1f} to {max(over):.1f} times as long as the bare matrix products of "
        f"the network on one core. PyTorch eager takes {min(eager):.1f} to {max(eager):.1f} times as long as that "
        f"({source('bench/latency')[:-1]})."
    )


def policies() -> str:
    """Every policy beside its floor and the same network elsewhere; medians but for our percentiles."""
    result, rows = read("bench/latency"), []
    for name, entry in result["policies"].items():
        keys = [(kind, name) for kind in ("torch_eager", "torch_eager_folded", "torch_compile")]
        keys += [("diffusers", f"{kind}_k{entry['evaluations']}") for kind in ("ddim", "dpm")]
        found = [result["baselines"].get(kind, {}).get(key) for kind, key in keys]
        elsewhere = " | ".join(us(other["latency_us"]["p50"]) if other else "" for other in found)
        rows.append({"name": label(name), "floor": us(entry["floor_us"]), "elsewhere": elsewhere, **entry})
    head = (
        "policy | evaluations | floor | here, p50 / p99 / p99.9 | PyTorch eager | exported operations in eager | "
        "torch.compile, best mode | diffusers DDIM | DPM-Solver++"
    )
    ours = " / ".join(f"{{cpu[latency_us][{key}]:.1f}}" for key in ("p50", "p99", "p999"))
    template = "{name} | {evaluations} | {floor} | " + ours + " us | {elsewhere}"
    return section(table(head, rows, template), source("bench/latency"))


def checks() -> str:
    """What was asked of the engines."""
    rows = read("bench/latency")["checks"]
    for row in rows:
        least = " / ours" in row["name"] or row["name"].startswith("teacher /")
        row |= {"kind": "at least" if least else "at most", "met": "met" if row["passed"] else "**missed**"}
    template = "{name} | {value:.2f} | {kind} {bound:.2f} | {met}"
    return section(table(" | measured | asked for | ", rows, template), source("bench/latency"))


def costs() -> str:
    """The cost model, a cold start, memory, throughput."""
    result, rows = read("bench/latency"), []
    for name, entry in result["policies"].items():
        cpu, speeds = entry["cpu"], " | ".join(f"{row['actions_per_s']:.0f}" for row in result["throughput"][name])
        rows.append(cpu | {"name": label(name), "speeds": speeds, "mib": cpu["memory_bytes"] / 2**20})
    chain = ", ".join("{evaluations}: {p50:.0f}".format_map(row) for row in result["evaluations"])
    said = (
        "Section 7's cost model on the teacher's graph with n steps: {fixed_us:.1f} + {each_us:.2f} n us, largest "
        "error {largest_relative_error:.1%} "
    ).format_map(result["cost_model"])
    head = "policy | load, verify, warm up | imports before | memory | actions/s, batch 1 | 4 | 16 | 64 | 256"
    template = "{name} | {cold_start_s:.2f} s | {import_s:.2f} s | {mib:.1f} MiB | {speeds}"
    return section(f"{said}(n: us; {chain}).", table(head, rows, template), source("bench/latency"))


def choices() -> str:
    """Settings of ONNX Runtime, precisions, sizes."""
    result, precisions = read("bench/latency"), []
    settings = [{"name": name, **part} for name, part in result["settings"].items()]
    for name, entry in result["precisions"].items():
        row = {"name": label(name), "fp32": us(entry["fp32"]["latency_us"]["p50"])}
        for kind in ("fp16", "int8"):
            there = entry[kind] if "latency_us" in entry[kind] else None
            row[kind] = f"{us(there['latency_us']['p50'])} | {there['action_rmse']:.1e}" if there else " | "
        precisions.append(row)
    sizes = [
        {
            "m": row["parameters"] / 1e6,
            "mb": row["weight_bytes"] / 1e6,
            "over": row["latency_us"]["p50"] / row["floor_us"],
        }
        | row
        for row in result.get("sizes", [])
    ]
    return section(
        table("ONNX Runtime, student of four steps | p50 | p99", settings, "{name} | {p50:.1f} us | {p99:.1f} us"),
        table(
            "policy | fp32 | fp16 | error of an action | int8 | error of an action",
            precisions,
            "{name} | {fp32} | {fp16} | {int8}",
        ),
        table(
            "teacher's parameters (K = 4) | weights | floor | here, p50 | over the floor | PyTorch, p50",
            sizes,
            "{m:.1f} M | {mb:.1f} MB | {floor_us:.0f} us | {latency_us[p50]:.0f} us | {over:.2f} | "
            "{torch_eager_us[p50]:.0f} us",
        ),
        source("bench/latency"),
    )


def fuzz() -> str:
    """Corrupted bundles."""
    result = read("bench/fuzz")
    kinds = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(result["kinds"].items()))
    text = (
        "{count} corrupted bundles (seed {seed}): {refused} refused with a message that names the file, "
        "{accepted} accepted, {crashed} crashes, {unnamed} without a name, {escaped} files outside the target; at most "
        "{slowest_s:.1f} s and {peak_memory_mib:.0f} MiB. "
    )
    return f"{text.format_map(result)}Kinds: {kinds}. {source('bench/fuzz')}"


def closed_loop() -> str:
    """The model card's table: every policy in every scenario."""
    rows = driven(read("eval/pushing/closed_loop")["rows"])
    template = (
        "{scenario} | {name} | {successes} of {episodes} ({success_rate:.1%}) | {span} | {words} | {numbers} | "
        "{mean_episode_s:.1f} s"
    )
    head = f"scenario | policy | success | 95 % interval | {rows[0]['ways']} | metrics | episode"
    return section(table(head, rows, template), source("eval/pushing/closed_loop"))


def fidelity() -> str:
    """Every policy's distance to the teacher, on every kind of states that was measured."""
    names = [name for name in FIDELITY if (RESULTS / f"{name}.json").exists()]
    rows = []
    for name in names:
        result = read(name)
        for policy, entry in {**result["policies"], **result["baselines"]}.items():
            kept, error = entry["mode_coverage"], entry["matched_noise_rmse"]
            own = result["floor"]["mode_coverage"]
            texts = {
                "states": result["states"],
                "name": label(policy),
                "span": span(entry["ratio_to_floor_interval"], ".2f"),
                "kept": "" if kept is None else f"{kept:.2f} ({own:.2f})",
                "error": "" if error is None else f"{error:.3f}",
            }
            rows.append(entry | texts)
    head = "states | policy | distance / floor | 95 % interval | TV at least | modes kept (teacher) | RMSE, same noise"
    template = "{states} | {name} | {ratio_to_floor:.2f} | {span} | {tv_lower:.2f} | {kept} | {error}"
    return section(table(head, rows, template), source(*names))


def ablations() -> str:
    """Section 8's table."""
    result, rows = read("experiment/ablations"), []

    def mean(entry: dict[str, Any], digits: int = 2) -> str:
        if entry["mean"] is None:
            return ""
        half = "" if entry["interval"] is None else f" ± {entry['interval'][1] - entry['mean']:.{digits}f}"
        return f"{entry['mean']:.{digits}f}{half}"

    for line in result["table"]:
        states = line["states"]
        distances = {kind: mean(states[kind]["ratio_to_floor"]) for kind in ("test", "shifted", "far")}
        texts = {"text": result["variants"][line["variant"]], "latent": mean(states["shifted"]["latent_distance"], 3)}
        rows.append(line | distances | texts)
    head = "K | variant | test | shifted | far | latent, shifted | success, nominal | shifted"
    template = (
        "{K} | {variant}: {text} | {test} | {shifted} | {far} | {latent} | {success_rate[nominal][mean]:.1%} | "
        "{success_rate[shifted][mean]:.1%}"
    )
    also = "{seeds} seeds, {queries} queries, {steps} steps of batch {batch}, {episodes} episodes a seed; "
    lines = table(head, sorted(rows, key=lambda row: row["K"]), template)
    return section(lines, source("experiment/ablations", also=also.format_map(result["budget"])))


def cost() -> str:
    """What distillation costs."""
    result = read("experiment/training_cost")
    bundle = json.loads((MODEL / "bundle.json").read_text())
    seconds = {name: stage["seconds"] for name, stage in bundle["provenance"]["stages"].items()}
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    fits = (
        "Asking the teacher: R² {teacher_fit[r_squared]:.4f}, largest error {teacher_fit[largest_relative_error]:.0%}. "
        "A training step: R² {student_fit[r_squared]:.4f}, largest error {student_fit[largest_relative_error]:.0%}; "
        "{student_fit[slopes][0]:.1f} ms for an evaluation of the chain, {student_fit[slopes][1]:.1f} ms for an "
        "auxiliary one."
    )
    return section(
        f"The shipped bundle took {stages} ({sum(seconds.values()) / 60:.1f} minutes).",
        fits.format_map(result),
        table(
            "q_T | T | evaluations a state | 4096 states take",
            result["teacher"],
            "{q_T} | {T} | {evaluations_per_state} | {seconds:.2f} s",
        ),
        table(
            "K | q_K | evaluations | a step of 256 takes",
            result["student"],
            "{K} | {q_K} | {evaluations} | {step_ms:.1f} ms",
        ),
        source("experiment/training_cost"),
    )


def thresholds() -> str:
    """The abstention thresholds of the bundle."""
    found = json.loads((MODEL / "calibration.json").read_text())
    rows = [
        {"name": label(name), "cells": " | ".join(f"{value:.3f}" for value in entry["thresholds"].values())}
        for name, entry in found["policies"].items()
    ]
    alphas = next(iter(found["policies"].values()))["thresholds"]
    head = "policy | " + " | ".join(f"alpha {alpha}" for alpha in alphas)
    return section(table(head, rows, "{name} | {cells}"), f"Over {found['trajectories']} held-out trajectories.")


# --- commands -----------------------------------------------------------------------------------

SECTIONS: dict[str, tuple[Callable[[], str], ...]] = {
    "README.md": (demo, results, latency, loop, engines),
    "docs/real_time.md": (rates, late, swap, faults, deployment, soak),
    "docs/engines.md": (policies, checks, costs, choices, fuzz),
    "docs/distillation.md": (ablations, fidelity, cost),
    f"{MODEL}/MODEL_CARD.md": (closed_loop, fidelity, thresholds),
}


def write_tables() -> dict[str, Any]:
    """Rewrite the marked sections of README, docs and model card from results/; run it in a checkout's root.

    Raises:
        SrdpError: a document or one of its markers is missing.
    """
    written, left_out = [], {}
    for document, makers in SECTIONS.items():
        path = Path(document)
        if not path.exists():
            raise SrdpError(f"{document} is not here: run it in the root of a checkout")
        text = path.read_text()
        for maker in makers:
            name = f"{document}: {maker.__name__}"
            marked = re.search(rf"<!-- {maker.__name__}: .*?<!-- end of {maker.__name__} -->", text, re.DOTALL)
            if marked is None:
                raise SrdpError(f"{name}: no <!-- {maker.__name__}: ... --> with its end")
            try:
                content = maker()
            except (FileNotFoundError, KeyError) as error:
                left_out[name] = str(error)
                continue
            begin, end = (
                f"<!-- {maker.__name__}: written by srdp report tables -->",
                f"<!-- end of {maker.__name__} -->",
            )
            text = f"{text[: marked.start()]}{begin}\n{content}\n{end}{text[marked.end() :]}"
            written.append(name)
        write_file(path, text.encode())
    for name, why in left_out.items():
        print(f"{name} is left as it is: {why}")
    print(f"{len(written)} sections written")
    return {"seed": None, "written": written, "left_out": left_out}


def print_parameters() -> dict[str, Any]:
    """Print every parameter of the nodes as Markdown (docs/parameters.md), from config/*.yaml."""
    schemas = {}
    print("# Parameters\n\nPrinted by `srdp parameters` from `config/*.yaml`, from which the nodes declare them.")
    for node in ("controller", "simulation"):
        schemas[node] = schema = yaml.safe_load(find_resource(f"config/{node}_parameters.yaml").read_text())
        rows = []
        for name, entry in schema.items():
            limits = ", ".join(str(limit) for limit in entry.get("range") or entry.get("one_of") or "")
            when = "at the start" if entry.get("read_only") else "any time"
            rows.append(entry | {"name": name, "limits": limits, "when": when})
        template = "`{name}` | {type} | `{default}` | {limits} | {when} | {description}"
        print(f"\n## /srdp_{node}\n")
        print(table("parameter | type | default | range | when | effect", rows, template))
    return {"seed": None, "parameters": schemas}
