"""``srdp bench swap``: what exchanging the engine while the loop runs costs the loop.

Controller and simulated robot run as two processes over DDS. In each round the engine is swapped, one
swap after the other as fast as they are prepared; then the same is run for as long without a swap.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srdp_controller.benchmarks.loop import WARM_UP_S, Totals
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import end_process, node_command, private_environment
from srdp_controller.progress import Report

COUNTS = ("commands", "swaps", "rollbacks", "engine_failures", "limit_violations")


class _Swapper:
    """Asks for the next engine as soon as the last one drives."""

    def __init__(self, engines: list[str]) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from std_msgs.msg import String

        from srdp_controller.ros.direct_take import LATCHED

        rclpy.init()
        self.engines = engines
        self.swaps = 0
        self.driving = ""
        self.node = Node("srdp_bench_swap")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.node.create_subscription(String, "/srdp_controller/engine", self._on_engine, LATCHED)

    def _on_engine(self, message: Any) -> None:
        if self.driving and message.data != self.driving:
            self.swaps += 1
        self.driving = message.data

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Serve messages for so long, or until a condition holds; whether it does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.executor.spin_once(timeout_sec=min(0.05, max(0.0, end - time.monotonic())))
        return until()

    def swap(self, count: int, report: Callable[[int], None]) -> None:
        """Swap so many times.

        Raises:
            SrdpError: a swap did not come into force within ten seconds, or was refused.
        """
        from srdp_controller.ros.swap_client import set_engine

        first = self.swaps
        while (done := self.swaps - first) < count:
            names = [name for name in self.engines if name != self.driving]
            wanted = names[done % len(names)]
            set_engine(self.node, wanted, 10.0)
            if not self.wait(10.0, lambda wanted=wanted: self.driving == wanted):  # type: ignore[misc]
                raise SrdpError(f"the controller did not change over to {wanted} within 10 s")
            report(self.swaps - first)

    def close(self) -> None:
        """Leave the domain."""
        import rclpy

        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()


def bench_swap(bundle: Path, *, rate: float, swaps: int, rounds: int, report: Report) -> dict[str, Any]:
    """Swap ``swaps`` times at ``rate``; returns the contract's keys and those of the quiet runs.

    Raises:
        SrdpError: a node did not start, or a swap did not come into force.
    """
    environment = private_environment()
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        os.environ[name] = environment[name]
    engines = [name for name in load_bundle(bundle).content.policies if name != "teacher"]
    swapping, quiet = Totals(), Totals()
    counts = dict.fromkeys(COUNTS, 0)
    quiet_counts = dict(counts)
    swap_seconds = 0.0
    swapper = _Swapper(engines)
    try:
        for turn in range(rounds):
            share = swaps // rounds + (turn < swaps % rounds)
            done_before = counts["swaps"]

            def drive_swapping(share: int = share, done_before: int = done_before) -> float:
                began = time.monotonic()
                swapper.swap(share, lambda done: report("bench swap", done_before + done, swaps, "swaps"))
                return time.monotonic() - began

            record, seconds = _drive(bundle, rate, engines[0], environment, swapper, drive_swapping)
            swapping.add(record)
            swap_seconds += seconds
            for key in COUNTS:
                counts[key] += record[key]

            def drive_quiet(seconds: float = seconds) -> float:
                swapper.wait(seconds)
                return seconds

            record, _ = _drive(bundle, rate, engines[0], environment, swapper, drive_quiet)
            quiet.add(record)
            for key in COUNTS:
                quiet_counts[key] += record[key]
    finally:
        swapper.close()
    with_swaps, without = swapping.result(), quiet.result()
    late, calm = with_swaps["lateness_us"], without["lateness_us"]
    return {
        "seed": 0,
        "rate_hz": rate,
        "swaps": counts["swaps"],
        "cycles": with_swaps["cycles"],
        "commands": counts["commands"],
        "overruns": with_swaps["overruns"],
        "added_lateness_us": {name: late[name] - calm[name] for name in late},
        "lateness_us": late,
        "swaps_per_second": counts["swaps"] / max(swap_seconds, 1e-9),
        "rollbacks": counts["rollbacks"],
        "engine_failures": counts["engine_failures"],
        "limit_violations": counts["limit_violations"],
        "quiet": {**without, "commands": quiet_counts["commands"]},
        "rounds": rounds,
    }


def _drive(
    bundle: Path,
    rate: float,
    engine: str,
    environment: dict[str, str],
    swapper: _Swapper,
    drive: Callable[[], float],
) -> tuple[dict[str, Any], float]:
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log.txt").open("wb") as log:
        parameters = {"engine": engine, "update_rate": rate, "model_dir": str(bundle.resolve()), "run_dir": name}
        parameters["statistics.warm_up"] = WARM_UP_S
        commands = [
            node_command("robot_node", {"duration": 1e6, "run_dir": str(Path(name) / "robot")}),
            node_command("controller_node", parameters),
        ]
        processes = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) for command in commands
        ]
        try:
            swapper.driving = ""
            if not swapper.wait(60.0, lambda: bool(swapper.driving)):
                raise SrdpError(f"no controller within a minute: {(Path(name) / 'log.txt').read_text()[-500:]}")
            swapper.wait(WARM_UP_S + 0.5)  # the robot's first episode begins
            seconds = drive()
        finally:
            status = end_process(processes[1])
            end_process(processes[0])
        if status != 0:
            raise SrdpError(f"the controller ended with {status}: {(Path(name) / 'log.txt').read_text()[-500:]}")
        record: dict[str, Any] = json.loads((Path(name) / "controller.json").read_text())
        return record, seconds
