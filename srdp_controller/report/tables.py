"""``srdp report tables``: rewrites the marked sections of README, docs and model card from the files in ``results/``.

A section is one function: it takes what result files hold and returns Markdown. The files and their commits are written
below it. What is the same whatever was measured stands as prose in the documents.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.resources import find_resource

SAMPLERS = {
    "student": "student",
    "ddim": "DDIM",
    "warm": "DDIM",
    "dpm": "DPM-Solver++",
    "diffusion": "diffusion with T = K",
    "zero_snr": "v-prediction, zero terminal SNR",
    "flow": "flow matching",
    "meanflow": "MeanFlow",
    "consistency": "consistency distillation",
}
SAMPLER = re.compile(rf"({'|'.join(SAMPLERS)})_k(\d+)(?:@(\d+))?")
POLICY_LABELS = {"bc": "BC, mean square error", "gmm": "BC, mixture of Gaussians"}
LOOPS = {
    "dedicated": "this controller",
    "dedicated_candidates": "this controller, 16 chunks sampled in each cycle",
    "dedicated_explained": "this controller, watched for the causes of late cycles",
    "dedicated_ordinary_helpers": "this controller, its other threads without priority",
    "dedicated_unprivileged": "this controller, no privileges",
    "rclpy_timer_single": "same cycle on an rclpy timer, SingleThreadedExecutor",
    "rclpy_timer_multi": "same cycle on an rclpy timer, MultiThreadedExecutor",
    "torch_eager": "this controller, policy in PyTorch eager",
    "bare": "the loop with an empty cycle",
    "bare_work": "the loop with as much inference and nothing else",
    "cyclictest": "cyclictest",
}

BASELINES = {
    "torch_eager": "PyTorch eager",
    "torch_eager_folded": "exported operations in eager",
    "torch_compile": "torch.compile, max-autotune",
    "ddim": "diffusers DDIM",
    "dpm": "DPM-Solver++",
}

# --- helpers ------------------------------------------------------------------------------------

Result = dict[str, Any]
Rows = list[dict[str, Any]]


def source(files: Sequence[str], contents: Sequence[Result]) -> str:
    """Files that a section comes from, with the commits and the machine of those that say them."""
    measured, names = [one for one in contents if "commit" in one], defaultdict(list)
    for file in map(Path, files):
        names[file.parent].append(file.name)
    text = ", ".join(
        f"`{folder}/{own[0]}`" if len(own) == 1 else f"`{folder}/`: {', '.join(own)}" for folder, own in names.items()
    )
    commits = {row.get("commit", one["commit"]) for one in measured for row in one.get("rows", [one])}
    if measured:
        machine = measured[-1]["machine"]
        text += f", commit {', '.join(sorted(commits))}; {machine['cores']} cores of {machine['cpu']}"
    return f"{text}."


def fill(template: str, row: dict[str, Any]) -> str:
    """A cell; one whose template begins with ? stays empty where the row lacks a value.

    Raises:
        KeyError: the row lacks a value of another template.
    """
    try:
        return template.removeprefix("?").format_map(row)
    except (KeyError, TypeError):
        if template.startswith("?"):
            return ""
        raise


def table(rows: Iterable[dict[str, Any]], columns: str, **computed: Callable[[dict[str, Any]], Any]) -> str:
    """A Markdown table.

    Args:
        rows: a line each
        columns: ``title: template | title: template``; see ``fill``
        computed: further values of a row, each a function of it
    """
    titles, templates = zip(*(column.split(": ", 1) for column in columns.split(" | ")), strict=True)
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        values = row | {name: function(row) for name, function in computed.items()}
        lines.append([fill(template, values) for template in templates])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(*parts: str) -> str:
    """Paragraphs and tables, one below the other."""
    return "\n\n".join(part for part in parts if part)


def four(key: str, unit: str = "us") -> str:
    """Template of four percentiles."""
    return " / ".join(f"{{{key}[{name}]:.0f}}" for name in ("p50", "p99", "p999", "max")) + f" {unit}"


LATENESS = f"lateness p50 / p99 / p99.9 / max: {four('lateness_us')}"
SUCCESS_SPAN = "95 % interval: {success_interval[0]:.1%} to {success_interval[1]:.1%}"
OVERHEAD = "all but inference, p50: ?{overhead_us[p50]:.1f} us"


def label(policy: str) -> str:
    """A policy's name for people; a sampler says the level that it starts at."""
    match = SAMPLER.fullmatch(policy)
    if match is None:
        return POLICY_LABELS.get(policy, policy)
    start = f" from level {match[3]}" if match[3] else ""
    return f"{SAMPLERS[match[1]]}, K = {match[2]}{start}"


def named(entries: dict[str, dict[str, Any]]) -> Rows:
    """Entries by policy as rows, each with the policy and its label."""
    return [{"policy": policy, "label": label(policy), **entry} for policy, entry in entries.items()]


def driven(rows: Rows) -> tuple[Rows, str]:
    """Rows of closed-loop results, and the column of the first metric that counts words."""
    counts = [next((one for one in row["metrics"].values() if isinstance(one, dict)), {}) for row in rows]
    words = sorted({word for one in counts for word in one})
    texts = [" / ".join(str(one.get(word, 0)) for word in words) for one in counts]
    lines = [row | {"label": label(row["policy"]), "words": text} for row, text in zip(rows, texts, strict=True)]
    return lines, f"{' / '.join(words)}: {{words}}"


def run_as(row: dict[str, Any], level: bool = True) -> str:
    """A row of ``experiment latency``: the policy, and the way that it is run; ``level``: where a sampler starts."""
    return f"{label(row['policy'] if level else row['policy'].partition('@')[0])}, {row['way']}"


def delay(result: Result) -> str:
    """Success against added delay of each policy and way, with its 95 % interval."""
    lines: dict[str, dict[str, Any]] = {}
    for row in result["table"]:
        low, high = row["success_interval"]
        line = lines.setdefault(run_as(row), {"name": run_as(row)})
        line[f"+{row['added_delay_ms']:g} ms"] = f"{row['success_rate']:.0%} ({low:.0%} to {high:.0%})"
    delays = list(dict.fromkeys(f"+{row['added_delay_ms']:g} ms" for row in result["table"]))
    return table(lines.values(), " | ".join(["policy, way: {name}", *(f"{one}: ?{{{one}}}" for one in delays)]))


def by_rate(rows: Rows, cell: str) -> str:
    """Rows of ``bench deployment`` as a table of rates; ``cell`` is the template of an entry."""
    lines: dict[tuple[str, float], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault((row["label"], row["slower"]), dict(row))
        line[f"{row['update_rate_hz']:.0f} Hz"] = cell.format_map(row)
    rates = [f"{rate:.0f} Hz" for rate in sorted({row["update_rate_hz"] for row in rows})]
    columns = ["policy: {label}", "machine slower by: {slower:g}", *(f"{rate}: ?{{{rate}}}" for rate in rates)]
    return table(lines.values(), " | ".join(columns))


def by_settings(result: dict[str, Any]) -> tuple[Rows, Rows]:
    """Rows of ``bench deployment`` with the first one's settings, and the others."""
    rows = result["table"]
    usual = [row for row in rows if all(row[key] == rows[0][key] for key in ("blend_s", "noise_hold_s"))]
    return usual, [row for row in rows if row not in usual]


def inference_of(result: Result) -> str:
    """What an evaluation took, by policy, and of how many chunks where of more than one."""
    lines = [(*name.partition(","), took["p50"] * 1e-3) for name, took in result["inference_us"].items()]
    return ", ".join(f"{label(policy)}{comma}{chunks} {took:.2f} ms" for policy, comma, chunks, took in lines)


def commitment(result: Result) -> str:
    """Success, mean metrics, ways taken, by what keeps a policy to what it has begun and the loop's rate.

    Of ways it has their entropy, and how far their shares are from the demonstrations'.
    """
    lines: dict[str, dict[str, Any]] = {}
    for row in result["table"]:
        name, (low, high) = f"{label(row['policy'])}, {row['way']}", row["success_interval"]
        found = [row["metrics"][metric] for metric in row["metric_intervals"]]
        found += [value for way in row["ways"].values() for value in (way["entropy"], way.get("from_demonstrations"))]
        more = "".join(f"; {value:.2f}" for value in found if value is not None)
        line = lines.setdefault(name, {"name": name})
        line[f"{row['update_rate_hz']:g} Hz"] = f"{row['success_rate']:.0%} ({low:.0%} to {high:.0%}){more}"
    rates = [f"{rate:g} Hz" for rate in sorted({row["update_rate_hz"] for row in result["table"]})]
    return table(lines.values(), " | ".join(["policy, way: {name}", *(f"{one}: ?{{{one}}}" for one in rates)]))


def joined(results: Iterable[Result], key: Callable[[Result], Any] = lambda result: result["task"]) -> list[Result]:
    """One result for all that are alike by ``key``: what was measured later is in a file of its own."""
    found: dict[Any, Result] = {}
    for result in results:
        one = found.setdefault(key(result), {**result, "table": [], "inference_us": {}})
        one["table"] += result["table"]
        one["inference_us"] = {**result["inference_us"], **one["inference_us"]}
    return list(found.values())


def settings(result: Result) -> tuple[Any, ...]:
    """What tables of ``srdp experiment commitment`` must have in common to be one."""
    return result["task"], result["episodes"], bool(result["inference_us"])


# --- sections -----------------------------------------------------------------------------------


def commitments(*results: Result) -> str:
    """``commitment`` task by task; what was measured with other settings is a table of its own."""
    parts = []
    for result in joined(results, settings):
        took = f"; inference, p50: {inference_of(result)}" if result["inference_us"] else ""
        parts += [f"{result['task']}, {result['episodes']} episodes a cell{took}:", commitment(result)]
    return section(*parts)


def chosen(*results: Result) -> str:
    """How many chunks each bundle samples in a cycle, and what it was chosen by."""
    lines: list[dict[str, Any]] = []
    for result in results:
        line: dict[str, Any] = {"takes": result["candidates"], **result}
        for row in result["table"]:
            gain = result["gains"].get(str(row["candidates"]))
            more = "" if gain is None else f", {gain[0]:+.1%} to {gain[1]:+.1%}"
            line[f"N = {row['candidates']}"] = f"{row['success_rate']:.0%}{more}"
        lines.append(line)
    numbers = dict.fromkeys(name for line in lines for name in line if name.startswith("N = "))
    columns = ["task: {task}", "episodes: {episodes}", "loop: {update_rate_hz:g} Hz"]
    return table(lines, " | ".join([*columns, *(f"{name}: ?{{{name}}}" for name in numbers), "chosen: {takes}"]))


def spreads(*results: Result) -> str:
    """What the spread of sampled chunks tells, beside the latent distance."""
    rows = [{"task": result["task"], **row} for result in results for row in result["table"]]
    for row in rows:
        row |= {
            "score": row["score"].replace("_", " "),
            "area": row["auroc_augmented"],
            "rank": row["rank_correlation"],
        }
        row |= {"areas": row["auroc_augmented_interval"], "ranks": row["rank_correlation_interval"]}
    columns = "task: {task} | score: {score} | "
    columns += "AUROC of disturbed states: {area:.2f} ({areas[0]:.2f} to {areas[1]:.2f}) | "
    columns += "rank correlation with the distance from the teacher: {rank:.2f} ({ranks[0]:.2f} to {ranks[1]:.2f})"
    return table(rows, columns)


def by_task(*results: Result) -> str:
    """Success of each policy and way on each task at the measured inference times, no delay added."""
    lines: dict[str, dict[str, Any]] = {}
    found = joined(results)
    for number, result in enumerate(found):
        for row in result["table"]:
            if row["added_delay_ms"] == 0.0:
                name = run_as(row, level=False)
                low, high = row["success_interval"]
                line = lines.setdefault(name, {"name": name})
                line[f"task_{number}"] = f"{row['success_rate']:.0%} ({low:.0%} to {high:.0%})"
    tasks = [f"{one['task'].removeprefix('metaworld:')}: ?{{task_{number}}}" for number, one in enumerate(found)]
    return table(lines.values(), " | ".join(["policy, way: {name}", *tasks]))


def delays(*results: Result) -> str:
    """Success against added delay on each task, with the measured inference times."""
    return section(
        *(
            part
            for result in joined(results)
            for part in (f"### {result['task']}", f"Inference, p50: {inference_of(result)}.", delay(result))
        )
    )


def budgets(*results: Result) -> str:
    """Each bundle's latency budget."""
    return table(
        [
            {
                **result,
                "name": result["task"].removeprefix("metaworld:"),
                "label": label(result["policy"]),
                "budget_ms": 1e3 * result["delay_s"],
                "interval_ms": [1e3 * value for value in result["interval_s"]],
                "age_ms": 1e3 * (result["undelayed_age_s"] + result["delay_s"]),
                "successes": result["table"][0]["successes"],
            }
            for result in results
        ],
        "task: {name} | policy: {label} | loop: {update_rate_hz:.0f} Hz | "
        "successes without delay: {successes} of {episodes} | budget: {budget_ms:.0f} ms | "
        "95 % interval: {interval_ms[0]:.0f} to {interval_ms[1]:.0f} ms | "
        "oldest observation: {age_ms:.0f} ms",
    )


def counted(value: Any) -> str:
    """Counts by name, or a number, as text."""
    return ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else str(value)


def demo(run: Result) -> str:
    """A run: what ``srdp summary`` prints, and the README of ``make demo``."""
    engines = run.get("by_engine", {}) if run["swaps"] else {}
    told = {
        "engine": "{engine} on {provider} at {update_rate_hz:.0f} Hz for {duration_s:.0f} s",
        "episodes": "?{successes} of {episodes} succeeded ({scenario} of {task})",
        **{f"by {name}": f"{found['successes']} of {found['episodes']}" for name, found in engines.items()},
        **{name.replace("_", " "): counted(value) for name, value in run.get("metrics", {}).items()},
        "cycles": "{cycles}, {commands} commands, {overruns} overruns",
        "modes": counted(run["modes"]),
        "abstentions": "{abstentions}, between episodes {alarms_between_episodes}",
        "swaps": "{swaps}",
        "limits": "{limit_violations} violations, {filter_interventions} cycles with an intervention",
        "interventions": counted({cause: count for cause, count in run["interventions"].items() if count}),
        "period error, p50 / p99 / p99.9 / max": four("period_error_us"),
        "inference": four("inference_us"),
        "everything else in a cycle": four("overhead_us"),
        "observation received to command published": four("latency_us"),
        "age of the observation": four("observation_age_ms", "ms"),
    }
    rows = [{"name": name, "text": fill(text, run)} for name, text in told.items()]
    return table([row for row in rows if row["text"]], "a run: {name} | : {text}")


def results(closed: Result, fidelity: Result) -> str:
    """Success and fidelity of every policy that was driven in the nominal scenario."""
    rows, words = driven(closed["rows"])
    success = {(row["policy"], row["scenario"]): row["success_rate"] for row in rows}
    measured = {**fidelity["policies"], **fidelity["baselines"]}.items()
    floors = {"teacher": 1.0} | {policy.partition("@")[0]: entry["ratio_to_floor"] for policy, entry in measured}
    return table(
        [row for row in rows if row["scenario"] == "nominal"],
        "policy: {label} | episodes: {episodes} | nominal: {success_rate:.1%} | "
        f"{SUCCESS_SPAN} | {words} | "
        "delayed: ?{delayed:.1%} | shifted: ?{shifted:.1%} | distance / floor: ?{distance:.2f}",
        delayed=lambda row: success.get((row["policy"], "delayed")),
        shifted=lambda row: success.get((row["policy"], "shifted")),
        distance=lambda row: floors.get(row["policy"].partition("@")[0]),
    )


def deployment(result: Result) -> str:
    """Ways to run a policy: success / command jerk / age, by rate and machine; then blending, and noise anew."""
    usual, others = by_settings(result)
    cell = "{success_rate:.0%} / {command_jerk:.1f} / {age_ms[p50]:.0f} ms"
    columns = (
        "policy: {label} | rate: {update_rate_hz:.0f} Hz | machine slower by: {slower:g} | blending: {blend_s} s | "
    )
    rest = table(others, f"{columns}noise held: {{noise_hold_s}} s | success / jerk / age: {cell}")
    return section(f"{usual[0]['episodes']} episodes an entry:", by_rate(usual, cell), rest)


def loop(result: Result) -> str:
    """Every loop at 1 kHz."""
    rows = [result["loops"][name] | {"name": text} for name, text in LOOPS.items() if name in result["loops"]]
    said = "{rate_hz:.0f} Hz, {engine}, {duration_s:.0f} s each in {rounds} turns:".format_map(result)
    columns = f"loop: {{name}} | cycles run: {{cycles}} | overruns: {{overruns}} | {LATENESS} | {OVERHEAD}"
    return section(said, table(rows, columns))


def rates(*results: Result) -> str:
    """The controller at every rate, beside what an empty cycle shows."""
    beside = {"bare_work": "work", "bare": "bare", "cyclictest": "cyclictest"}
    rows = []
    for result in results:
        loops, busy = result["loops"], ", a busy process on every core" if result["hogs"] else ""
        shares = {f"{name} overruns": 1e4 * one["overruns"] / one["cycles"] for name, one in loops.items()}
        rows.append({"name": f"{result['rate_hz']:.0f} Hz{busy}", **loops["dedicated"], **loops, **shares})
    columns = [": {name}"]
    for head, cell in (
        ("overruns of 10,000", "{{{0} overruns:.1f}}"),
        ("lateness p99 / p99.9", "{{{0}[lateness_us][p99]:.0f}} / {{{0}[lateness_us][p999]:.0f}} us"),
    ):
        titles = {"dedicated": head} | beside
        columns += [f"{title}: ?{cell.format(name)}" for name, title in titles.items()]
    return table(rows, " | ".join([*columns, OVERHEAD]))


def late(result: Result) -> str:
    """Late cycles and overruns by cause."""
    one = result["loops"]["dedicated_explained"]
    counts = one["late_cycles_by_cause"].items()
    rows = [{"cause": cause, "late": count, "over": one["overruns_by_cause"][cause]} for cause, count in counts]
    said = f"{one['cycles']} cycles at {result['rate_hz']:.0f} Hz:"
    return section(said, table(rows, "cause: {cause} | late cycles: {late} | of these, overruns: {over}"))


def swap(result: Result) -> str:
    """What swaps cost."""
    added = {"lateness_us": result["added_lateness_us"]}
    rows = [{"name": "with swaps", **result}, {"name": "without", **result["quiet"]}, {"name": "added", **added}]
    said = (
        "{swaps} swaps at {rate_hz:.0f} Hz, {swaps_per_second:.1f} a second: {commands} commands, {engine_failures} "
        "engine failures, {rollbacks} roll-backs, {limit_violations} limit violations:"
    ).format_map(result)
    return section(said, table(rows, f": {{name}} | cycles: ?{{cycles}} | overruns: ?{{overruns}} | {LATENESS}"))


def faults(result: Result) -> str:
    """The fault matrix."""
    return table(
        result["faults"],
        "fault: {name} | mode: {mode} | entered after: ?{after:.0f} ms | cycles: {cycles} | commands: {commands} | "
        "unsafe: {unsafe_commands} | recovered: {well} | missing in the recording: {recording_lost_ms:.0f} ms",
        after=lambda row: None if row["mode"] in ("STUDENT", "ended") else row["time_to_mode_ms"],
        well=lambda row: "yes" if row["recovered"] else "no",
    )


def baseline(result: Result, kind: str, policy: str) -> float | None:
    """Median [us] of a policy's network in one of ``BASELINES``; diffusers' samplers take as many evaluations."""
    evaluations = result["policies"][policy]["evaluations"]
    sampler = result["baselines"].get("diffusers", {}).get(f"{kind}_k{evaluations}")
    found = sampler or result["baselines"].get(kind, {}).get(policy)
    return float(found["latency_us"]["p50"]) if found else None


def policies(result: Result) -> str:
    """Every policy beside its floor and the same network elsewhere; medians but for our percentiles."""
    rows = []
    for row in named(result["policies"]):
        row |= {kind: baseline(result, kind, row["policy"]) for kind in BASELINES}
        providers = [key for key, value in row.items() if isinstance(value, dict)]
        rows += [row | {"provider": provider, "here": row[provider]["latency_us"]} for provider in providers]
    elsewhere = "".join(f" | {title}: ?{{{kind}:.1f}} us" for kind, title in BASELINES.items())
    columns = "policy: {label} | provider: {provider} | evaluations: {evaluations} | floor: {floor_us:.1f} us | "
    columns += "here, p50 / p99 / p99.9: {here[p50]:.1f} / {here[p99]:.1f} / {here[p999]:.1f} us"
    return table(rows, columns + elsewhere)


def candidates(result: Result) -> str:
    """What it costs to sample several chunks in one run."""
    lines: dict[str, dict[str, Any]] = {}
    for row in result["candidates"]:
        line = lines.setdefault(row["policy"], {"label": label(row["policy"]), "one": row["p50"]})
        line[f"{row['candidates']} chunks"] = f"{row['p50']:.0f} us ({row['p50'] / line['one']:.1f})"
    counts = list(dict.fromkeys(f"{row['candidates']} chunks" for row in result["candidates"]))
    model = (
        "With K evaluations and N chunks: {fixed_us:.1f} + ({each_us:.2f} + {row_us:.2f} N) K + {drawn_us:.2f} N us, "
        "largest error {largest_relative_error:.1%}."
    ).format_map(result["candidates_cost_model"])
    return section(
        table(lines.values(), " | ".join(["policy: {label}", *(f"{one}: {{{one}}}" for one in counts)])), model
    )


def checks(result: Result) -> str:
    """What was asked of the engines."""
    return table(
        result["checks"],
        ": {name} | measured: {value:.2f} | asked for: at {kind} {bound:.2f} | : {met}",
        kind=lambda row: "least" if " / ours" in row["name"] or row["name"].startswith("teacher /") else "most",
        met=lambda row: "met" if row["passed"] else "**missed**",
    )


def costs(result: Result) -> str:
    """The cost model."""
    return (
        "Section 7's cost model on the teacher's graph with n steps: {fixed_us:.1f} + {each_us:.2f} n us, largest "
        "error {largest_relative_error:.1%}."
    ).format_map(result["cost_model"])


def closed_loop(result: Result) -> str:
    """The model card's table: every policy in every scenario."""
    rows, words = driven(result["rows"])

    def numbers(row: dict[str, Any]) -> str:
        found = {name: metric for name, metric in row["metrics"].items() if not isinstance(metric, dict)}
        return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items())

    return table(
        rows,
        "scenario: {scenario} | policy: {label} | success: {successes} of {episodes} ({success_rate:.1%}) | "
        f"{SUCCESS_SPAN} | {words} | metrics: {{numbers}} | episode: {{mean_episode_s:.1f}} s",
        numbers=numbers,
    )


def fidelity(*results: Result) -> str:
    """Every policy's distance to the teacher, on every kind of states that was measured."""
    return table(
        [
            row | {"states": result["states"], "own": result["floor"]["mode_coverage"]}
            for result in results
            for row in named({**result["policies"], **result["baselines"]})
        ],
        "states: {states} | policy: {label} | distance / floor: {ratio_to_floor:.2f} | "
        "95 % interval: {ratio_to_floor_interval[0]:.2f} to {ratio_to_floor_interval[1]:.2f} | "
        "TV at least: {tv_lower:.2f} | modes kept (teacher): ?{mode_coverage:.2f} ({own:.2f}) | "
        "RMSE, same noise: ?{matched_noise_rmse:.3f}",
    )


def policies_by_task(results: Sequence[Result], rows_of: Callable[[Result], Rows], cell: Callable[..., str]) -> str:
    """A line for each policy, and a column for each task; of a task's files the first that has a policy counts."""
    lines: dict[str, dict[str, Any]] = {}
    columns = {task: f"task_{number}" for number, task in enumerate(dict.fromkeys(one["task"] for one in results))}
    for result in results:
        for row in rows_of(result):
            line = lines.setdefault(row["policy"], {"label": label(row["policy"])})
            line.setdefault(columns[result["task"]], cell(**row))
    tasks = [f"{task.removeprefix('metaworld:')}: ?{{{column}}}" for task, column in columns.items()]
    return table(lines.values(), " | ".join(["policy: {label}", *tasks]))


def distances(*results: Result) -> str:
    """Every policy's distance to its task's teacher in multiples of the floor, on visited states."""
    cell = "{ratio_to_floor:.2f} ({ratio_to_floor_interval[0]:.2f} to {ratio_to_floor_interval[1]:.2f})"
    return policies_by_task(results, lambda one: named({**one["policies"], **one["baselines"]}), cell.format)


def demonstrated(*results: Result) -> str:
    """Every policy's energy score on demonstrations that were held out, and its ratio to the first student's."""
    cell = "{energy_score:.2f}: {ratio:.2f} ({ratio_interval[0]:.2f} to {ratio_interval[1]:.2f})"
    return policies_by_task(results, lambda one: one["table"], cell.format)


def ablations(result: Result) -> str:
    """Section 8's table."""

    def mean(states: str, key: str, digits: int) -> Callable[[Result], str]:
        def cell(row: Result) -> str:
            entry = row["states"][states][key]
            half = entry["interval"] and entry["interval"][1] - entry["mean"]
            number = f"{{:.{digits}f}}"
            return " ± ".join(number.format(value) for value in (entry["mean"], half) if value is not None)

        return cell

    lines = table(
        sorted(result["table"], key=lambda row: row["K"]),
        "K: {K} | variant: {variant}: {text} | test: {test} | shifted: {shifted} | far: {far} | "
        "latent, shifted: {latent} | success, nominal: {success_rate[nominal][mean]:.1%} | "
        "shifted: {success_rate[shifted][mean]:.1%}",
        text=lambda row: result["variants"][row["variant"]],
        **{states: mean(states, "ratio_to_floor", 2) for states in ("test", "shifted", "far")},
        latent=mean("shifted", "latent_distance", 3),
    )
    budget = "{seeds} seeds, {queries} queries, {steps} steps of batch {batch}, {episodes} episodes a seed:"
    return section(budget.format_map(result["budget"]), lines)


def cost(bundle: Result, result: Result) -> str:
    """What distillation costs."""
    fits = [{"name": f"the {kind}'s evaluations", **result[f"{kind}_fit"]} for kind in ("teacher", "student")]
    teacher = "q_T: {q_T} | T: {T} | evaluations a state: {evaluations_per_state} | 4096 states take: {seconds:.2f} s"
    student = "K: {K} | q_K: {q_K} | evaluations: {evaluations} | a step of 256 takes: {step_ms:.1f} ms"
    slopes = "{slopes[0]:.1f} ms for an evaluation of the chain, {slopes[1]:.1f} ms for an auxiliary one."
    return section(
        table(named(bundle["provenance"]["stages"]), "stage: {label} | took: {seconds:.0f} s"),
        table(fits, "line through: {name} | R²: {r_squared:.4f} | largest error: {largest_relative_error:.0%}"),
        table(result["teacher"], teacher),
        table(result["student"], student),
        slopes.format_map(result["student_fit"]),
    )


def thresholds(found: Result) -> str:
    """The abstention thresholds of the bundle."""
    rows = named(found["policies"])
    alphas = "".join(f" | alpha {alpha}: {{thresholds[{alpha}]:.3f}}" for alpha in rows[0]["thresholds"])
    return section(table(rows, f"policy: {{label}}{alphas}"), f"Over {found['trajectories']} held-out trajectories.")


# --- commands -----------------------------------------------------------------------------------

LATENCY, DEPLOYMENT = "results/bench/latency.json", "results/bench/deployment.json"
CLOSED_LOOP = "results/eval/pushing/closed_loop.json"
FIDELITY = tuple(f"results/eval/pushing/fidelity_{kind}.json" for kind in ("test", "shifted", "augmented", "bimodal"))
METAWORLD = ("peg-insert-side", "sweep", "basketball", "pick-place", "soccer")
TASKS = ("pushing", *(f"metaworld-{name}" for name in METAWORLD))
LATENCIES = tuple(
    f"results/experiment/latency_{part}{task}.json"
    for part in ("", "baselines_", "consistency_", "ways_", "chunking_")
    for task in (*TASKS, "avoiding")
)
DEMONSTRATED = tuple(f"results/eval/{task}/demonstrations.json" for task in TASKS)
DISTANCES = tuple(f"results/eval/{task}/fidelity_{part}.json" for part in ("test", "consistency") for task in TASKS)
BUDGETS = tuple(f"results/eval/{task}/budget.json" for task in TASKS)
MODES = ("avoiding", "pusht", "pushing")
CHOSEN = tuple(f"results/eval/{task}/candidates.json" for task in (*MODES, *TASKS[1:]))
COMMITMENTS = tuple(
    f"results/experiment/commitment_{task}{part}.json"
    for task in MODES
    for part in ("", "_fast", "_baselines", "_ddim", "_chain")
)
SPREADS = tuple(f"results/eval/{task}/spread.json" for task in MODES)
MEASURED_SO_FAR = {
    *CHOSEN,
    *COMMITMENTS,
    *SPREADS,
    *LATENCIES,
    *DISTANCES,
    *DEMONSTRATED,
    *FIDELITY,
    *BUDGETS,
}  # a section takes those that are there
RATES = tuple(f"results/bench/loop_{name}.json" for name in (100, 250, 500, 1000, 2000, "hogs"))
# by document: each section's function, and the files that it is called with
SECTIONS: dict[str, dict[Callable[..., str], tuple[str, ...]]] = {
    "README.md": {
        by_task: LATENCIES,
        demo: ("results/demo/demo.json",),
        loop: ("results/bench/loop_1000.json",),
    },
    "docs/real_time.md": {
        rates: RATES,
        late: ("results/bench/loop_explained.json",),
        swap: ("results/bench/swap.json",),
        faults: ("results/bench/faults.json",),
    },
    "docs/latency.md": {delays: LATENCIES, budgets: BUDGETS, deployment: (DEPLOYMENT,)},
    "docs/noise.md": {chosen: CHOSEN, commitments: COMMITMENTS, spreads: SPREADS},
    "docs/engines.md": {
        **dict.fromkeys((policies, checks, costs), (LATENCY,)),
        candidates: ("results/bench/latency_candidates.json",),
    },
    "docs/distillation.md": {
        distances: DISTANCES,
        demonstrated: DEMONSTRATED,
        ablations: ("results/experiment/ablations.json",),
        results: ("results/eval/box/closed_loop.json", "results/eval/box/fidelity_test.json"),
        fidelity: tuple(file.replace("pushing", "box") for file in FIDELITY),
        cost: ("models/pushing/bundle.json", "results/experiment/training_cost.json"),
    },
    "models/pushing/MODEL_CARD.md": {
        closed_loop: (CLOSED_LOOP,),
        fidelity: FIDELITY,
        thresholds: ("models/pushing/calibration.json",),
    },
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
        for maker, named_files in makers.items():
            name = f"{document}: {maker.__name__}"
            marked = re.search(rf"<!-- {maker.__name__}: .*?<!-- end of {maker.__name__} -->", text, re.DOTALL)
            if marked is None:
                raise SrdpError(f"{name}: no <!-- {maker.__name__}: ... --> with its end")
            try:
                files = [file for file in named_files if file not in MEASURED_SO_FAR or Path(file).exists()]
                if named_files and not files:
                    raise FileNotFoundError("nothing measured yet")
                contents = [json.loads(Path(file).read_text()) for file in files]
                content = section(maker(*contents), source(files, contents))
            except (FileNotFoundError, KeyError) as error:
                left_out[name] = str(error)
                continue
            begin = f"<!-- {maker.__name__}: written by srdp report tables -->"
            end = f"<!-- end of {maker.__name__} -->"
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
        lines = table(
            [{"name": name, **entry} for name, entry in schema.items()],
            "parameter: `{name}` | type: {type} | default: `{default}` | range: {limits} | when: {when} | "
            "effect: {description}",
            limits=lambda row: ", ".join(str(limit) for limit in row.get("range") or row.get("one_of") or ""),
            when=lambda row: "at the start" if row.get("read_only") else "any time",
        )
        print(f"\n## /srdp_{node}\n\n{lines}")
    return {"seed": None, "parameters": schemas}
