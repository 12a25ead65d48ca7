"""``srdp bench swap``: what exchanging the engine while the loop runs costs the loop.

Controller and simulated robot run as two processes over DDS. In each round the engine is swapped, one
swap after the other as fast as they are prepared; then the same is run for as long without a swap.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String
from tyro.conf import Positional

from srdp_controller.benchmarks.loop import WARM_UP_S, Totals, run_with_robot
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import Pair, join_private_domain
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report import tables
from srdp_controller.ros.client import set_parameters
from srdp_controller.ros.inputs import LATCHED

COUNTS = ("commands", "swaps", "rollbacks", "engine_failures", "limit_violations")


class _Swapper:
    """Asks for the next engine as soon as the last one drives."""

    def __init__(self, engines: list[str]) -> None:
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
        first = self.swaps
        while (done := self.swaps - first) < count:
            names = [name for name in self.engines if name != self.driving]
            wanted = names[done % len(names)]
            set_parameters(self.node, {"engine": wanted}, 10.0)
            if not self.wait(10.0, lambda wanted=wanted: self.driving == wanted):  # type: ignore[misc]
                raise SrdpError(f"the controller did not change over to {wanted} within 10 s")
            report(self.swaps - first)

    def close(self) -> None:
        """Leave the domain."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()


def bench_swap(
    bundle: Positional[Path] = Path("models/pushing"),
    *,
    rate: float = 500.0,
    swaps: int = 1000,
    rounds: int = 3,
    task: str = "",
) -> dict[str, Any]:
    """What exchanging the engine while the loop runs costs the loop.

    Args:
        bundle: bundle folder
        rate: update rate [Hz]
        swaps: how many
        rounds: turns, each followed by one without swaps
        task: whose robot is simulated; default: the bundle's

    Raises:
        SrdpError: fewer than two engines, a node did not start, or a swap did not come into force.
    """
    if swaps < 1 or rounds < 1:
        raise SrdpError(f"--swaps {swaps} --rounds {rounds}: expected at least 1")
    content = load_bundle(bundle).content
    task, policies = task or content.task, list(content.policies)
    engines = [name for name in policies if name != "teacher"]
    engines = engines if len(engines) > 1 else policies
    if len(engines) < 2:
        raise SrdpError(f"{bundle}: swaps need two policies; it has {', '.join(policies)}")
    report = ProgressPrinter()
    join_private_domain()
    swapping, quiet = Totals(), Totals()
    counts, quiet_counts = Counter[str](), Counter[str]()
    swap_seconds = 0.0
    swapper = _Swapper(engines)

    def turn(drive: Callable[[], object], totals: Totals, counts: Counter[str]) -> None:
        def meanwhile(pair: Pair) -> None:
            swapper.driving = ""
            if not swapper.wait(60.0, lambda: bool(swapper.driving)):
                raise SrdpError(f"no controller within a minute: {pair.said()}")
            swapper.wait(WARM_UP_S + 0.5)  # the robot's first episode begins
            drive()

        parameters = {"engine": engines[0], "update_rate": rate, "statistics.warm_up": WARM_UP_S}
        record = run_with_robot(bundle, task, parameters, meanwhile)
        totals.add(record)
        counts.update({key: record[key] for key in COUNTS})

    def swap_all() -> None:
        nonlocal swap_seconds
        began, before = time.monotonic(), counts["swaps"]
        swapper.swap(share, lambda done: report("bench swap", before + done, swaps, "swaps"))
        swap_seconds += time.monotonic() - began

    try:
        for number in range(rounds):
            share, before_s = swaps // rounds + (number < swaps % rounds), swap_seconds
            turn(swap_all, swapping, counts)
            turn(lambda: swapper.wait(swap_seconds - before_s), quiet, quiet_counts)  # noqa: B023  # runs here
    finally:
        swapper.close()
    with_swaps, without = swapping.result(), quiet.result()
    late, calm = with_swaps["lateness_us"], without["lateness_us"]
    result = {
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
    print(tables.swap(result))
    return result
