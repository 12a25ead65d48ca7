"""Judges a run folder: merges both nodes' records into ``summary.json``, prints a table, draws pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_json
from srdp_controller.provenance import describe_run

COPIED = (
    "engine",
    "provider",
    "update_rate_hz",
    "cycles",
    "commands",
    "overruns",
    "missed_cycles",
    "lateness_us",
    "period_error_us",
    "inference_us",
    "overhead_us",
    "latency_us",
    "observation_age_ms",
    "modes",
    "abstentions",
    "teacher_plans",
    "swaps",
    "filter_interventions",
    "limit_violations",
    "rejected_messages",
    "privileges",
)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except FileNotFoundError:
        raise SrdpError(f"{path} is missing: that node did not end properly; its messages say why") from None
    except ValueError as error:
        raise SrdpError(f"{path}: not valid JSON ({error})") from None


def judge(summary: dict[str, Any]) -> list[str]:
    """What was unsound about a run; an empty list for a sound one."""
    problems = []
    if summary["cycles"] == 0:
        problems.append("no cycle ran")
    if summary["commands"] != summary["cycles"]:
        problems.append(f"{summary['cycles']} cycles but {summary['commands']} commands")
    if summary["limit_violations"] or summary["bad_commands"]:
        problems.append(f"{summary['limit_violations'] + summary['bad_commands']} commands outside the limits")
    if summary["modes"]["STUDENT"] + summary["modes"]["TEACHER"] == 0:
        problems.append("neither student nor teacher ever drove")
    return problems


def summarise_run(folder: Path) -> dict[str, Any]:
    """Write ``summary.json``, ``run.png`` and ``episode.gif`` into a run folder; print the table.

    Raises:
        SrdpError: a node's record is missing.
    """
    control, simulation = _read(folder / "controller.json"), _read(folder / "simulation.json")
    summary: dict[str, Any] = {**describe_run("srdp summary", control["seed"])}
    summary |= {key: control[key] for key in COPIED}
    summary |= {
        "scenario": simulation["scenario"],
        "duration_s": control["cycles"] / control["update_rate_hz"],
        "episodes": simulation["episodes"],
        "successes": simulation["successes"],
        "commands_received": simulation["commands"],
        "bad_commands": simulation["bad_commands"],
        "post_contacts": sum(outcome["post_contacts"] for outcome in simulation["outcomes"]),
    }
    problems = judge(summary)
    summary["sound"] = not problems
    summary["problems"] = problems
    write_json(folder / "summary.json", summary)
    print_table(summary)
    draw_run(folder, simulation)
    if simulation["frames"]:
        draw_episode(folder / "episode.gif", simulation)
    print(f"{folder}/summary.json, run.png, episode.gif")
    for problem in problems:
        print(f"UNSOUND: {problem}")
    return {**summary, "failed": bool(problems)}


def print_table(summary: dict[str, Any]) -> None:
    """Print a run's figures."""

    def group(name: str, unit: str) -> str:
        values = summary[name]
        labels = {"p50": "p50", "p99": "p99", "p999": "p99.9", "max": "max"}
        return "  ".join(f"{label} {values[key]:.0f}" for key, label in labels.items()) + f" {unit}"

    rows = [
        ("engine", f"{summary['engine']} on {summary['provider']}, {summary['update_rate_hz']:.0f} Hz"),
        ("scenario", summary["scenario"]),
        ("episodes", f"{summary['successes']} of {summary['episodes']} succeeded"),
        ("cycles", f"{summary['cycles']} ({summary['commands']} commands, {summary['overruns']} overruns)"),
        ("period error", group("period_error_us", "us")),
        ("inference", group("inference_us", "us")),
        ("latency", group("latency_us", "us") + " (received to published)"),
        ("overhead", group("overhead_us", "us")),
        ("observation age", group("observation_age_ms", "ms")),
        ("modes", ", ".join(f"{mode} {count}" for mode, count in summary["modes"].items())),
        ("abstentions", str(summary["abstentions"])),
        ("swaps", str(summary["swaps"])),
        ("safety filter", f"{summary['filter_interventions']} interventions, {summary['limit_violations']} violations"),
    ]
    for name, text in rows:
        print(f"  {name:<16} {text}")


def draw_run(folder: Path, simulation: dict[str, Any]) -> None:
    """Draw the episodes' paths and the cycles' times into ``run.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Circle

    from srdp_controller.tasks.pushing.world import POST_RADIUS_M

    figure, (table, times, histogram) = pyplot.subplots(1, 3, figsize=(15, 4.5))
    for outcome in simulation["outcomes"]:
        path = np.array(outcome["box_path"])
        layout = outcome["layout"]
        table.plot(path[:, 0], path[:, 1], color="C0" if outcome["success"] else "C3", alpha=0.7, lw=1.5)
        table.add_patch(Circle(layout["goal"], 0.025, color="C2", alpha=0.15))
        table.add_patch(Circle(layout["post"], POST_RADIUS_M, color="0.3", alpha=0.3))
    table.set(xlim=(-0.27, 0.27), ylim=(-0.18, 0.18), aspect="equal", xlabel="x [m]", ylabel="y [m]")
    table.set_title(f"box paths: {simulation['successes']} of {simulation['episodes']} succeeded")
    recorded = folder / "telemetry.csv"
    if recorded.exists():
        telemetry = np.atleast_1d(np.genfromtxt(recorded, delimiter=",", names=True))
        times.plot(telemetry["time_s"], telemetry["latency_us"], ".", ms=2, label="latency (received to published)")
        times.plot(telemetry["time_s"], telemetry["inference_us"], ".", ms=2, label="inference")
        times.set(xlabel="time [s]", ylabel="[us]", yscale="log")
        times.legend(loc="upper right", markerscale=4)
        times.set_title("every cycle")
        inference = telemetry["inference_us"][telemetry["inference_us"] > 0]
        if inference.size:
            histogram.hist(inference, bins=np.geomspace(max(inference.min(), 1.0), inference.max() + 1.0, 60))
        histogram.set(xscale="log", xlabel="inference [us]", ylabel="cycles")
        histogram.set_title("inference time")
    figure.tight_layout()
    figure.savefig(folder / "run.png", dpi=90)
    pyplot.close(figure)


def draw_episode(path: Path, simulation: dict[str, Any]) -> None:
    """Render one recorded episode as an animated GIF with PyBullet's software renderer."""
    from PIL import Image

    from srdp_controller.simulation.scenario import EpisodeLayout, load_scenario
    from srdp_controller.tasks.pushing.world import PushingWorld

    world = PushingWorld(load_scenario(simulation["scenario"]))
    world.reset(np.random.default_rng(0), EpisodeLayout.model_validate(simulation["frames_layout"]))
    frames = simulation["frames"]
    stride = max(1, len(frames) // 50)
    pictures = []
    for frame in frames[::stride]:
        world.pose(frame[:7], (frame[7], frame[8]), frame[9])
        pictures.append(Image.fromarray(world.render()).quantize(64))
    world.close()
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 * stride / 12), loop=0)
