"""Watches a run from outside: mode, diagnostics and episodes, as a line on the terminal."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from srdp_controller.control.telemetry import MODES
from srdp_controller.ros.client import set_parameters
from srdp_controller.ros.inputs import LATCHED


class Monitor:
    """Context manager around a node that listens to the controller and the simulated robot."""

    def __enter__(self) -> Monitor:
        """Join the ROS domain."""
        rclpy.init()
        self._node = Node("srdp_monitor")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self.mode = "starting"
        self.values: dict[str, str] = {}
        self.episodes = self.successes = 0
        self._first: float | None = None
        self._node.create_subscription(String, "/srdp_controller/mode", self._on_mode, LATCHED)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._node.create_subscription(String, "/srdp_simulation/episode", self._on_episode, LATCHED)
        self._shown = 0.0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown()

    def _on_mode(self, message: String) -> None:
        self.mode = message.data
        if self._first is None and self.mode in ("STUDENT", "TEACHER"):
            self._first = time.monotonic()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith("srdp_controller"):
                self.values = {item.key: item.value for item in status.values}

    def _on_episode(self, message: String) -> None:
        self.episodes += 1
        self.successes += bool(json.loads(message.data)["success"])

    @property
    def elapsed_s(self) -> float:
        """Seconds since the controller first drove."""
        return 0.0 if self._first is None else time.monotonic() - self._first

    def wait(self, seconds: float) -> None:
        """Serve messages for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def swap(self, engine: str) -> None:
        """Ask for an engine swap; errors as in ``set_parameters``."""
        set_parameters(self._node, {"engine": engine}, 10.0)

    def show(self, duration: float) -> None:
        """Print the state: rewritten in place on a terminal, every five seconds elsewhere."""
        values = self.values
        line = (
            f"{self.elapsed_s:5.1f}/{duration:.0f} s  {self.mode:<8} {values.get('engine', ''):<10} "
            f"episodes {self.successes}/{self.episodes}  cycles {values.get('cycles', 0)}  "
            f"overruns {values.get('overruns', 0)}  inference {values.get('inference_p50_us', '-')} us  "
            f"latency {values.get('latency_p50_us', '-')} us"
        )
        if sys.stdout.isatty():
            print(f"\r{line[:118]:<118}", end="", flush=True)
        elif time.monotonic() - self._shown >= 5.0:
            self._shown = time.monotonic()
            print(line, flush=True)


ROWS = (
    ("lateness", "lateness [us]", 1.0),
    ("execution", "execution [us]", 1.0),
    ("inference", "inference [us]", 1.0),
    ("latency", "received to published [us]", 1.0),
    ("observation_age", "observation age [ms]", 1e-3),
)


def table(mode: str, values: dict[str, str]) -> str:
    """What ``srdp top`` shows: mode, counters, and the last second's times."""
    if not values:
        return "waiting for /diagnostics of /srdp_controller: is it running, on this ROS_DOMAIN_ID?"
    lines = [
        f"{mode:<8} {values['engine']} at {float(values['update_rate_hz']):.0f} Hz",
        f"cycles {values['cycles']}   overruns {values['overruns']}   missed {values['missed_cycles']}   "
        f"swaps {values['swaps']} ({values['rollbacks']} rolled back)   refused messages {values['rejected_messages']}",
        f"latent distance {values['latent_distance']} of {values['threshold']}   abstentions {values['abstentions']}   "
        f"alarms between episodes {values['alarms_between_episodes']}",
        f"filter interventions {values['filter_interventions']}   violations {values['limit_violations']}",
        "time in " + "   ".join(f"{name} {values[f'cycles_{name}']}" for name in MODES) + " cycles",
        "",
        f"{'the last second':<28} {'p50':>9} {'p99':>9} {'max':>9}",
    ]
    for key, label, unit in ROWS:
        figures = [float(values[f"recent_{key}_{name}_us"]) * unit for name in ("p50", "p99", "max")]
        lines.append(f"{label:<28} " + " ".join(f"{figure:>9.1f}" for figure in figures))
    return "\n".join(lines)


def top(*, duration: float | None = None) -> dict[str, Any]:
    """Live view of the running controller.

    Args:
        duration: seconds; default: until Ctrl-C
    """
    with Monitor() as monitor:
        end = None if duration is None else time.monotonic() + duration
        try:
            while end is None or time.monotonic() < end:
                monitor.wait(1.0)
                text = table(monitor.mode, monitor.values)
                print(f"\033[2J\033[H{text}" if sys.stdout.isatty() else text, flush=True)
        except KeyboardInterrupt:
            pass
        return {"seed": None, "values": dict(monitor.values), "failed": not monitor.values}
