"""Tables of docs/real_time.md, from the JSON files in results/bench that `srdp bench` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "benchmarks"
RATES = (100, 250, 500, 1000, 2000)
LABELS = {
    "dedicated": "this controller",
    "dedicated_explained": "this controller, watched for the causes of late cycles",
    "dedicated_unrehearsed": "this controller without the rehearsal",
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


def read(name: str) -> dict[str, Any]:
    """A result file."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def micro(values: dict[str, float]) -> str:
    """Four percentiles [us]."""
    return " / ".join(f"{value:.0f}" for value in values.values()) + " us"


def loop() -> str:
    """Every loop at 1 kHz."""
    result = read("loop_1000")
    lines = [
        f"At {result['rate_hz']:.0f} Hz with {result['engine']}, the robot in another process, each loop for "
        f"{result['duration_s']:.0f} s in {result['rounds']} turns (`srdp bench loop`, `results/bench/loop_1000.json`, "
        f"commit {result['commit']}):",
        "",
        "| loop | cycles run | overruns | lateness p50 / p99 / p99.9 / max | all but inference, p50 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, label in LABELS.items():
        if name in result["loops"]:
            entry = result["loops"][name]
            overhead = f"{entry['overhead_us']['p50']:.0f} us" if "overhead_us" in entry else ""
            lines.append(
                f"| {label} | {entry['cycles']} | {entry['overruns']} | {micro(entry['lateness_us'])} | {overhead} |"
            )
    return "\n".join(lines)


def rates() -> str:
    """The controller at every rate, with and without hogs, above what an empty cycle shows."""
    lines = [
        "Overruns of 10,000 cycles, and lateness, in turns in the same run, all beside the simulated robot; `bare` is the same "
        "loop with an empty cycle, `busy` "
        "with one that spins for as long as the controller's median cycle takes, `work` with one that evaluates the engine for as "
        "long, since a host that takes the processor away for a moment hits a cycle that computes more often, and one that "
        "becomes slow makes work longer (`srdp bench loop --rate HZ`, `results/bench/loop_*.json`):",
        "",
        "| | overruns | work | busy | bare | cyclictest | lateness p99 / p99.9 | work | busy | bare | cyclictest | all but inference, p50 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, label in [(f"loop_{rate}", f"{rate} Hz") for rate in RATES] + [
        ("loop_hogs", "1000 Hz, a busy process on every core")
    ]:
        result = read(name)
        loops = result["loops"]
        names = ("dedicated", "bare_work", "bare_busy", "bare", "cyclictest")
        overruns = [
            f"{1e4 * loops[one]['overruns'] / loops[one]['cycles']:.1f}" if one in loops else "" for one in names
        ]
        late = [
            f"{loops[one]['lateness_us']['p99']:.0f} / {loops[one]['lateness_us']['p999']:.0f} us"
            if one in loops
            else ""
            for one in names
        ]
        overhead = f"{loops['dedicated']['overhead_us']['p50']:.0f} us"
        lines.append("| " + " | ".join([label, *overruns, *late, overhead]) + " |")
    return "\n".join(lines)


def late() -> str:
    """Late cycles and overruns by cause."""
    result = read("loop_explained")
    loop = result["loops"]["dedicated_explained"]
    lines = [
        f"{loop['cycles']} cycles at {result['rate_hz']:.0f} Hz (`results/bench/loop_explained.json`, commit {result['commit']}):",
        "",
        "| cause | late cycles | of these, overruns |",
        "| --- | --- | --- |",
    ]
    for cause, count in loop["late_cycles_by_cause"].items():
        lines.append(f"| {cause} | {count} | {loop['overruns_by_cause'][cause]} |")
    return "\n".join(lines)


def rehearsal() -> str:
    """What the rehearsal is worth, at the rates that have one."""
    lines = [
        "Medians in turns in the same run (`results/bench/loop_*.json`):",
        "",
        "| | all but inference | without the rehearsal | inference | without the rehearsal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for rate in RATES:
        loops = read(f"loop_{rate}")["loops"]
        if "dedicated_unrehearsed" in loops:
            names = ("dedicated", "dedicated_unrehearsed")
            cells = [f"{loops[name][time]['p50']:.0f} us" for time in ("overhead_us", "inference_us") for name in names]
            lines.append("| " + " | ".join([f"{rate} Hz", *cells]) + " |")
    return "\n".join(lines)


def swap() -> str:
    """What swaps cost."""
    result = read("swap")
    quiet = result["quiet"]
    return "\n".join(
        [
            f"{result['swaps']} swaps among the four students at {result['rate_hz']:.0f} Hz, {result['swaps_per_second']:.1f} a "
            f"second, in {result['rounds']} turns with as long without swaps (`srdp bench swap`, `results/bench/swap.json`, "
            f"commit {result['commit']}): {result['cycles']} cycles, {result['commands']} commands, "
            f"{result['engine_failures']} engine failures, {result['rollbacks']} roll-backs, {result['limit_violations']} limit "
            f"violations; {result['overruns']} overruns, {quiet['overruns']} of {quiet['cycles']} cycles without swaps.",
            "",
            "| | lateness p50 / p99 / p99.9 / max |",
            "| --- | --- |",
            f"| with swaps | {micro(result['lateness_us'])} |",
            f"| without | {micro(quiet['lateness_us'])} |",
            f"| added | {micro(result['added_lateness_us'])} |",
        ]
    )


def faults() -> str:
    """The fault matrix."""
    result = read("faults")
    lines = [
        f"`srdp bench faults` (`results/bench/faults.json`, commit {result['commit']}): each fault hits a controller of its own "
        "that has just been driving, lasts one second and is healed (`~/reset` where it has stopped). Unsafe: commands, as they "
        "came over DDS, outside any limit or not finite.",
        "",
        "| fault | mode | entered after | cycles | commands | unsafe | recovered | missing in the recording |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["faults"]:
        after = "" if row["mode"] in ("STUDENT", "ended") else f"{row['time_to_mode_ms']:.0f} ms"
        lines.append(
            f"| {row['name']} | {row['mode']} | {after} | {row['cycles']} | {row['commands']} | {row['unsafe_commands']} | "
            f"{'yes' if row['recovered'] else 'no'} | {row['recording_lost_ms']:.0f} ms |"
        )
    return "\n".join(lines)


def deployment() -> str:
    """Ways to run a policy."""
    result = read("deployment")
    lines = [
        f"`srdp bench deployment` (`results/bench/deployment.json`, commit {result['commit']}), {result['table'][0]['episodes']} "
        f"episodes of `{result['scenario']}` an entry; success / command jerk (root mean square, m/s³) / median age of the "
        "observation behind the command in force:",
        "",
        "![Success, age and jerk of every way](benchmarks/deployment.png)",
    ]
    table = result["table"]
    blend_s = table[0]["blend_s"]
    rates = sorted({row["update_rate_hz"] for row in table})
    for factor in sorted({row["slower"] for row in table}):
        machine = "This machine" if factor == 1 else f"A machine {factor:g} times slower"
        lines += ["", f"{machine}:", "", "| way (inference) | " + " | ".join(f"{rate:.0f} Hz" for rate in rates) + " |"]
        lines.append("| --- |" + " --- |" * len(rates))
        chosen = [row for row in table if row["slower"] == factor and row["blend_s"] == blend_s]
        for way in dict.fromkeys(row["way"] for row in chosen):
            rows = {row["update_rate_hz"]: row for row in chosen if row["way"] == way}
            cells = [
                f"{rows[rate]['success_rate']:.0%} / {rows[rate]['command_jerk_m_s3']:.1f} / {rows[rate]['age_ms']['p50']:.0f} ms"
                for rate in rates
            ]
            lines.append(f"| {way} ({rows[rates[0]]['inference_p50_ms']:.2g} ms) | " + " | ".join(cells) + " |")
    blends = [row for row in table if row["way"].endswith("chunking") and row["update_rate_hz"] == max(rates)]
    blends = sorted(
        (row for row in blends if row["slower"] == max(r["slower"] for r in table)), key=lambda r: r["blend_s"]
    )
    lines += [
        "",
        f"Blending of the last of these, {max(rates):.0f} Hz: "
        + "; ".join(
            f"{row['blend_s'] * 1e3:.0f} ms: success {row['success_rate']:.0%}, jerk {row['command_jerk_m_s3']:.1f} m/s³, "
            f"age {row['age_ms']['p50']:.0f} ms"
            for row in blends
        )
        + ".",
    ]
    return "\n".join(lines)


def soak() -> str:
    """An hour."""
    return "\n\n".join(soaked(name) for name in ("soak", "soak_short") if (RESULTS / f"{name}.json").exists())


def soaked(name: str) -> str:
    """One soak."""
    result = read(name)
    growth = result["growth"]
    return (
        f"`srdp bench soak` ({result['duration_s'] / 60:.0f} minutes at {result['rate_hz']:.0f} Hz, `results/bench/{name}.json`, "
        f"commit {result['commit']}): {result['cycles']} cycles, {result['commands']} commands, {result['limit_violations']} "
        f"limit violations. Resident memory {result['resident_bytes'] / 2**20:.0f} MiB, grown by "
        f"{growth['resident_bytes'] / 2**10:.0f} KiB after the first {result['warm_up_s']:.0f} s; threads "
        f"{growth['threads']:+d}, open files {growth['open_files']:+d}."
    )


TABLES = {
    "loop": loop,
    "rates": rates,
    "late": late,
    "rehearsal": rehearsal,
    "swap": swap,
    "faults": faults,
    "deployment": deployment,
    "soak": soak,
}
