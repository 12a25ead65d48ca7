"""``srdp summary``: judges a run folder: merges both nodes' records into ``summary.json``, prints a table, draws it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_json
from srdp_controller.provenance import describe_run
from srdp_controller.report import tables
from srdp_controller.tasks.task import Outcome, Task, TaskError, find_task, summarise


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except FileNotFoundError:
        raise SrdpError(f"{path} is missing: the controller did not end properly; its messages say why") from None
    except ValueError as error:
        raise SrdpError(f"{path}: not valid JSON ({error})") from None


def every_cycle_commanded(record: Mapping[str, Any]) -> bool:
    """Whether each cycle published a command, once the robot's state was known: nothing is published before."""
    return bool(record["cycles"] - record.get("cycles_before_ready", 0) == record["commands"])


def by_engine(outcomes: list[dict[str, Any]], engines: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Episodes and successes of each engine that drove one from its beginning to its end; those with a swap count not.

    Args:
        outcomes: with ``begun_s``, ``ended_s`` and ``success``.
        engines: with ``since_s`` and ``engine``, in order; times are the system's [s].
    """
    found: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        engine = engine_of(outcome, engines)
        if engine:
            counts = found.setdefault(engine, {"episodes": 0, "successes": 0})
            counts["episodes"] += 1
            counts["successes"] += bool(outcome["success"])
    return found


def engine_of(outcome: dict[str, Any], engines: list[dict[str, Any]]) -> str:
    """The engine that drove an episode from its beginning to its end; empty where it was swapped meanwhile."""
    before = [entry["engine"] for entry in engines if entry["since_s"] <= outcome["begun_s"]]
    swapped = any(outcome["begun_s"] < entry["since_s"] < outcome["ended_s"] for entry in engines)
    return before[-1] if before and not swapped else ""


def judge(summary: dict[str, Any]) -> list[str]:
    """What was unsound about a run, the cause before what follows from it; an empty list for a sound one."""
    problems = []
    if summary.get("failure"):
        problems.append(f"the controller failed: {summary['failure']}")
    if summary["cycles"] == 0:
        problems.append("no cycle ran")
    elif summary["modes"]["STUDENT"] + summary["modes"]["TEACHER"] == 0:
        why = summary.get("reason") or (
            f"{summary['rejected_messages']} messages were refused"
            if summary["rejected_messages"]
            else "the log names what it waited for"
        )
        problems.append(f"neither student nor teacher ever drove: {why}")
    if not every_cycle_commanded(summary):
        problems.append(f"{summary['cycles']} cycles but {summary['commands']} commands")
    if summary["limit_violations"]:
        problems.append(f"{summary['limit_violations']} commands outside the limits left the filter")
    if summary.get("bad_commands"):
        problems.append(f"the robot refused {summary['bad_commands']} commands, outside its limits or not finite")
    return problems


def summarise_run(run_folder: Positional[Path] = Path("runs/latest")) -> dict[str, Any]:
    """Judge a run: write ``summary.json``, ``run.png`` and ``episode.gif`` into its folder, print the table.

    Args:
        run_folder: what ``run_dir`` was; without simulation.json it was a robot of one's own, which tells nothing

    Raises:
        SrdpError: the controller's record is missing.
    """
    folder = run_folder
    control = _read(folder / "controller.json")
    simulation = _read(folder / "simulation.json") if (folder / "simulation.json").exists() else {}
    summary = {key: value for key, value in control.items() if key != "histograms" and value != ""}
    summary |= describe_run("srdp summary", control["seed"])
    summary["duration_s"] = control["cycles"] / control["update_rate_hz"]
    if simulation:
        metrics = summarise([Outcome(metrics=outcome["metrics"]) for outcome in simulation["outcomes"]])
        summary = {**metrics, **summary, "metrics": metrics, "commands_received": simulation["commands"]}
        summary |= {key: simulation[key] for key in ("task", "scenario", "episodes", "successes", "bad_commands")}
        summary["by_engine"] = by_engine(simulation["outcomes"], control["engines"])
    problems = judge(summary)
    summary |= {"sound": not problems, "problems": problems}
    write_json(folder / "summary.json", summary)
    print(tables.demo(summary))
    print(f"{folder}/{', '.join(['summary.json', *draw_run(folder, simulation, control['engines'])])}")
    for problem in problems:
        print(f"UNSOUND: {problem}")
    return {**summary, "failed": bool(problems)}


def draw_run(folder: Path, simulation: dict[str, Any], engines: list[dict[str, Any]]) -> list[str]:
    """Draw a run into ``run.png``, a failure and a success of it into ``episode.gif``; names of what was drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (episodes, times, histogram) = pyplot.subplots(1, 3, figsize=(15, 4.5))
    drawn = ["run.png"]
    episodes.set_axis_off()
    if simulation:
        task = find_task(simulation["task"])
        try:
            task.draw(episodes, simulation["outcomes"])
            episodes.set_axis_on()
            pictures = episode_pictures(task, simulation, engines)
            if pictures:
                save_animation(folder / "episode.gif", pictures, simulation["frames_per_s"])
                drawn.append("episode.gif")
        except TaskError as error:
            print(f"  left out: {error}")
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
    return drawn


def episode_pictures(task: Task, simulation: dict[str, Any], engines: list[dict[str, Any]]) -> list[np.ndarray]:
    """The first failure and the newest success of which one engine drove the whole, as captioned pictures."""
    scenario, shown = task.scenario(simulation["scenario"]), simulation["shown"]
    driven = [one for one in shown if engine_of(one, engines)] or shown
    failures = [one for one in driven if not one["success"]]
    pictures = []
    for one in failures[:1] + [one for one in driven if one["success"]]:
        told = (engine_of(one, engines), "success" if one["success"] else "failure")
        for picture in task.render(scenario, one["details"], one["frames"]):
            pictures.append(captioned(picture, ": ".join(part for part in told if part)))
    return pictures


def captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture (height, width, 3) uint8 with a line of text in its upper left corner."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((8, 6), text, fill=(0, 0, 0), font_size=18)
    return np.asarray(image)


def save_animation(path: Path, pictures: list[np.ndarray], per_s: float, most: int = 100) -> None:
    """Write pictures (height, width, 3) uint8, taken ``per_s`` a second, as a GIF of at most ``most`` in real time."""
    from PIL import Image

    every = math.ceil(len(pictures) / most)
    frames = [Image.fromarray(picture).quantize(64) for picture in pictures[::every]]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1e3 * every / per_s), loop=0)
