"""Controller nodes that only the benchmarks start: ``python -m srdp_controller.benchmarks.nodes KIND ...``.

``single`` and ``multi`` are the very same cycle, bundle and privileges on an rclpy timer with ordinary subscriptions,
as most people write it, under one of rclpy's executors; ``torch`` runs the policy in PyTorch eager; ``clock FILE``
reads a system clock that a fault can step.
"""

from __future__ import annotations

import mmap
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

from srdp_controller.control.cycle import Cycle
from srdp_controller.control.loop import absolute
from srdp_controller.control.privileges import use_affinity, use_fifo
from srdp_controller.ros.controller_node import ControllerNode, light_executor, run_node
from srdp_controller.ros.inputs import LATEST
from srdp_controller.ros.loop_thread import LoopThread, Publish


class CallbackSubscription:
    """Newest message of a topic, brought by an executor's callback."""

    def __init__(self, node: Node, message_type: Any, topic: str, qos: QoSProfile = LATEST) -> None:
        self._newest: tuple[Any, int] | None = None
        self._node = node
        group = ReentrantCallbackGroup()
        self.handle = node.create_subscription(message_type, topic, self._receive, qos, callback_group=group)

    def _receive(self, message: Any) -> None:
        self._newest = (message, time.time_ns())

    def close(self) -> None:
        """Leave the topic."""
        self._node.destroy_subscription(self.handle)

    def take(self) -> tuple[Any, int] | None:
        """The newest message since the last call, or None."""
        newest, self._newest = self._newest, None
        return newest


class TimerLoop(LoopThread):
    """A loop that is an rclpy timer's callback."""

    def __init__(
        self, node: ControllerNode, run: Callable[[int], None], cycle: Cycle, publish: Publish, stopping_s: float
    ) -> None:
        super().__init__(run, cycle, publish, stopping_s, node.values)
        self._node = node
        self._privileged: set[int] = set()
        self._deadline = self._previous = 0

    def start(self) -> None:
        """Start the timer instead of a thread."""
        self._call = self.counted_cycle()
        self._deadline = time.monotonic_ns() + self.period_ns
        group = MutuallyExclusiveCallbackGroup()
        self._timer = self._node.create_timer(self.period_ns * 1e-9, self._tick, callback_group=group)
        self._running = True

    def _tick(self) -> None:
        thread = threading.get_ident()
        if thread not in self._privileged:  # every thread of the executor gets what the loop's thread gets
            if self._privileged:  # the first one's privileges are the process's too
                use_fifo(self.values["thread_priority"])
                use_affinity(self.values["cpu_affinity"])
            else:
                self.take_privileges()
            self._privileged.add(thread)
        loop, period = self.state, self.period_ns
        if not self._running:
            return
        started = time.monotonic_ns()
        missed = max(0, (started - self._deadline) // period)
        loop.missed_cycles += missed
        loop.overruns += missed > 0
        self._deadline += missed * period
        loop.last_lateness_ns = started - self._deadline + missed * period
        loop.lateness.record(loop.last_lateness_ns)
        if self._previous:
            loop.period_error.record(absolute(started - self._previous - period))
        self._previous = started
        self._call(started)
        loop.cycles += 1
        loop.last_execution_ns = time.monotonic_ns() - started
        loop.execution.record(loop.last_execution_ns)
        self._deadline += period

    def stop(self) -> None:
        """Stop the timer."""
        if self._running:
            self._running = False
            self._timer.cancel()
        self._idle.close()


class TimerControllerNode(ControllerNode):
    """``ControllerNode`` whose cycle, and whose reports, are rclpy timers' callbacks."""

    subscription_class = CallbackSubscription
    serialized = False  # messages, as people write it
    reports_in_a_thread = False

    def make_loop(self, run: Callable[[int], None], cycle: Cycle, publish: Publish, stopping_s: float) -> LoopThread:
        """A timer."""
        return TimerLoop(self, run, cycle, publish, stopping_s)


def read_stepped_clock(file: Path) -> None:
    """Let this process's system clock be ahead by the nanoseconds in ``file``; the monotonic one stays."""
    with file.open("rb") as source:
        offset = mmap.mmap(source.fileno(), 8, access=mmap.ACCESS_READ)
    real_ns = time.time_ns

    def stepped_ns() -> int:
        return real_ns() + int.from_bytes(offset[:8], sys.byteorder, signed=True)

    time.time_ns = stepped_ns
    time.time = lambda: stepped_ns() * 1e-9


def main(kind: str, words: list[str]) -> int:
    """Run the node of a kind, given the words of a ROS command line; its exit status."""
    if kind in ("single", "multi"):
        executor: type[Executor] = SingleThreadedExecutor if kind == "single" else MultiThreadedExecutor
        return run_node(TimerControllerNode, executor, words)
    if kind == "clock":
        read_stepped_clock(Path(words.pop(0)))
        return run_node(ControllerNode, light_executor, words)
    from srdp_controller.benchmarks.torch_engine import load_torch_engine

    class TorchControllerNode(ControllerNode):
        load = staticmethod(load_torch_engine)

    return run_node(TorchControllerNode, light_executor, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
