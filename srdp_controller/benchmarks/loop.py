"""``srdp bench loop``: the whole controller at a fixed rate, beside the loops that people write instead.

Every loop runs beside the simulated robot in another process, the controllers with DDS between.
The loops take turns in short rounds, so that a noisy host hits all alike, and their histograms are added up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from srdp_controller.control.histogram import Histogram
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import (
    Pair,
    default_engine,
    end_process,
    node_command,
    private_environment,
    robot_and_controller,
)
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report import tables

Run = Callable[[float], dict[str, Any]]  # seconds to a controller.json, or what of it there is
TIMES = ("lateness_us", "inference_us", "overhead_us")
UNPRIVILEGED = {"thread_priority": 0, "helper_priority": 0, "lock_memory": False, "cpu_dma_latency": False}
CANDIDATES = 16
WARM_UP_S = 3.0  # the robot's process starts its first episode meanwhile


class Totals:
    """Sums of one loop over its rounds."""

    def __init__(self) -> None:
        self.counts = {"cycles": 0, "overruns": 0, "missed_cycles": 0}
        self.histograms = {name: Histogram() for name in TIMES}
        self.causes: dict[str, Counter[str]] = {}

    def add(self, record: dict[str, Any]) -> None:
        """Add a run's ``controller.json``."""
        for key in self.counts:
            self.counts[key] += record[key]
        for name, part in record["histograms"].items():
            self.histograms[name].add_sparse(part["counts"], part["largest"], part["total"])
        for kind in ("late_cycles", "overruns") if "late_cycles" in record else ():
            self.causes.setdefault(kind, Counter()).update(record["late_cycles"][kind])

    def result(self) -> dict[str, Any]:
        """Counters, and percentiles of what was measured."""
        times = {name: histogram.percentiles() for name, histogram in self.histograms.items() if histogram.count}
        causes = {f"{kind}_by_cause": dict(counts) for kind, counts in self.causes.items()}
        return {**self.counts, **times, **causes}


def run_with_robot(
    bundle: Path,
    task: str,
    parameters: dict[str, Any],
    meanwhile: Callable[[Pair], None],
    *,
    module: str = "controller_node",
    words: Sequence[str] = (),
    duration_s: float = 1e6,
) -> dict[str, Any]:
    """Run a controller beside the simulated robot until ``meanwhile`` returns; the controller's ``controller.json``.

    Args:
        bundle: its folder
        task: whose robot is simulated
        parameters: of the controller
        meanwhile: what is done while both run
        module: of the controller's node
        words: before its parameters on the command line
        duration_s: after which the robot leaves by itself

    Raises:
        SrdpError: the controller ended with a status other than 0.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), str(bundle.resolve())
        robot = {"task": task, "model_dir": model, "duration": duration_s, "run_dir": str(folder / "robot")}
        controller = node_command(module, {**parameters, "model_dir": model, "run_dir": name}, words)
        with robot_and_controller(robot, controller, private_environment(), folder / "log.txt") as pair:
            meanwhile(pair)
        record: dict[str, Any] = json.loads((folder / "controller.json").read_text())
        return record


@contextlib.contextmanager
def _robot(parameters: dict[str, Any]) -> Iterator[None]:
    """The load that the controller's machine bears anyway: the simulated robot, which nobody commands."""
    robot = subprocess.Popen(
        node_command("robot_node", parameters),
        env=private_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(WARM_UP_S)
        if robot.poll() is not None:
            raise SrdpError(f"the simulated robot ended with status {robot.returncode}")
        yield
    finally:
        end_process(robot)


def _bare(rate: float, seconds: float, busy_s: float = 0.0, *engine: str) -> dict[str, Any]:
    words = [str(word) for word in (rate, seconds, busy_s, *engine)]
    command = [sys.executable, "-m", "srdp_controller.benchmarks.bare_loop", *words]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30.0, check=True)
    record: dict[str, Any] = json.loads(answer.stdout)
    return record


def _cyclictest(rate: float, seconds: float) -> dict[str, Any]:
    period_us = round(1e6 / rate)
    command = ["cyclictest", "-q", "-p", "50", "-t", "1", "-i", str(period_us), "-l", str(round(rate * seconds))]
    answer = subprocess.run(
        [*command, "-h", "20000"], capture_output=True, text=True, timeout=seconds + 30.0, check=True
    )
    lateness, overruns = Histogram(), 0
    for line in answer.stdout.splitlines():
        words = line.split()
        if len(words) == 2 and words[0].isdigit():
            # a wake-up that comes a whole period late
            overruns += int(words[1]) if int(words[0]) >= period_us else 0
            for _ in range(int(words[1])):
                lateness.record(int(words[0]) * 1000)
        elif line.startswith("# Max Latencies:"):
            lateness.largest = max(lateness.largest, int(words[3]) * 1000)
    part = {"counts": lateness.sparse(), "largest": lateness.largest, "total": lateness.total}
    return {"cycles": lateness.count, "overruns": overruns, "missed_cycles": 0, "histograms": {"lateness_us": part}}


@contextlib.contextmanager
def cpu_hogs(wanted: bool) -> Iterator[None]:
    """A process on every core that never rests."""
    count = (os.cpu_count() or 1) if wanted else 0
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def bench_loop(
    bundle: Positional[Path] = Path("models/pushing"),
    *,
    rate: float = 1000.0,
    engine: str = "",
    duration: float = 60.0,
    rounds: int = 3,
    hogs: bool = False,
    loops: tuple[str, ...] = (),
    task: str = "",
) -> dict[str, Any]:
    """The controller's timing beside other loops, each beside the simulated robot.

    Args:
        bundle: bundle folder
        rate: update rate [Hz]
        engine: a policy of the bundle; default: its middle student
        duration: seconds for each loop
        rounds: turns in which the loops share that time
        hogs: with a process on every core that never rests
        loops: only these
        task: whose robot is simulated; default: the bundle's

    Raises:
        SrdpError: a loop did not run, or ``loops`` names one that is not there.
    """
    report, loaded = ProgressPrinter(), load_bundle(bundle)
    engine = engine or default_engine(loaded)
    task = task or loaded.content.task
    common = {"engine": engine, "update_rate": float(rate), "statistics.warm_up": WARM_UP_S}

    def node(parameters: dict[str, Any], module: str = "controller_node", *words: str) -> Run:
        def run(seconds: float) -> dict[str, Any]:
            def wait(pair: Pair) -> None:
                try:
                    pair.robot.wait(seconds + WARM_UP_S + 60.0)
                except subprocess.TimeoutExpired:
                    raise SrdpError(f"no command came within a minute: {pair.said()}") from None

            chosen = {**common, **parameters}
            duration_s = float(seconds + WARM_UP_S)
            return run_with_robot(bundle, task, chosen, wait, module=module, words=words, duration_s=duration_s)

        return run

    def beside_robot(run: Run) -> Run:
        def both(seconds: float) -> dict[str, Any]:
            with _robot({"task": task, "model_dir": str(bundle.resolve())}):
                return run(seconds)

        return both

    def bare_work(seconds: float) -> dict[str, Any]:
        """As much work as the controller's median cycle, all of it the engine's."""
        so_far = totals["dedicated"].histograms
        median_ns = so_far["inference_us"].quantile(0.5) + so_far["overhead_us"].quantile(0.5)
        return _bare(rate, seconds, median_ns * 1e-9, str(bundle), engine)

    runs: dict[str, Run] = {
        "bare": beside_robot(lambda seconds: _bare(rate, seconds)),
        "dedicated": node({}),
        "bare_work": beside_robot(bare_work),
        "rclpy_timer_single": node({}, "benchmarks.nodes", "single"),
        "rclpy_timer_multi": node({}, "benchmarks.nodes", "multi"),
        "dedicated_candidates": node({"sampling.candidates": CANDIDATES}),
        "dedicated_explained": node({"statistics.late_cycles": True}),
        "dedicated_ordinary_helpers": node({"helper_priority": 0}),
        "dedicated_unprivileged": node(UNPRIVILEGED),
    }
    if importlib.util.find_spec("torch") is None:
        report("bench loop", 0, 1, "without torch_eager: pip install 'srdp_controller[train]'")
    else:
        runs["torch_eager"] = node({}, "benchmarks.nodes", "torch")
    if shutil.which("cyclictest"):
        runs["cyclictest"] = beside_robot(lambda seconds: _cyclictest(rate, seconds))
    unknown = [name for name in loops if name not in runs]
    if unknown:
        raise SrdpError(f"--loops: no loop {unknown[0]!r} here; there are: {', '.join(runs)}")
    if "bare_work" in loops and "dedicated" not in loops:
        raise SrdpError("--loops: bare_work works as long as dedicated, which is not among them")
    runs = {name: run for name, run in runs.items() if not loops or name in loops}
    totals = {name: Totals() for name in runs}
    done = 0
    for _ in range(rounds):
        for name, run in runs.items():
            with cpu_hogs(hogs):
                totals[name].add(run(duration / rounds))
            done += 1
            lateness = totals[name].histograms["lateness_us"].percentiles()
            report("bench loop", done, rounds * len(runs), f"{name}: p99.9 {lateness['p999']:.0f} us late")
    result: dict[str, Any] = {
        "seed": 0,
        "rate_hz": rate,
        "engine": engine,
        "duration_s": duration,
        "rounds": rounds,
        "warm_up_s": WARM_UP_S,
        "hogs": hogs,
        "loops": {name: total.result() for name, total in totals.items()},
    }
    print(tables.loop(result))
    if "dedicated_explained" in result["loops"]:
        print(tables.late(result))
    return result
