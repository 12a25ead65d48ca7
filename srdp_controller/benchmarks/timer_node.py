"""The same controller on an rclpy timer, as most people write it: the baseline of ``srdp bench loop``.

The very same cycle, bundle and privileges, but called by an executor, with ordinary subscriptions.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.lifecycle import State, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import QoSProfile

from srdp_controller.control.loop import absolute
from srdp_controller.control.privileges import lock_memory, use_affinity, use_fifo
from srdp_controller.ros.controller_node import REPORT_EVERY_S, ControllerNode, run_node
from srdp_controller.ros.direct_take import LATEST


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


class TimerControllerNode(ControllerNode):
    """``ControllerNode`` whose cycle is an rclpy timer's callback."""

    subscription_class = CallbackSubscription
    serialized = False  # messages, as people write it

    def __init__(self) -> None:
        super().__init__()
        self.create_timer(REPORT_EVERY_S, super().report)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start the timer instead of a thread."""
        self._privileged: set[int] = set()
        self._running = True
        self._deadline = time.monotonic_ns() + self._period_ns
        self._previous = 0
        self._cycle = self._counted_cycle()
        self._idle.open(self.values["cpu_dma_latency"])
        lock_memory(self.values["lock_memory"])
        self._timer = self.create_timer(
            self._period_ns * 1e-9, self._tick, callback_group=MutuallyExclusiveCallbackGroup()
        )
        return TransitionCallbackReturn.SUCCESS

    def report(self) -> float:
        """Nothing between two callbacks: as people write it, a timer reports."""
        return 0.1

    def _tick(self) -> None:
        thread = threading.get_ident()
        if thread not in self._privileged:  # every thread of the executor gets what the loop's thread gets
            if not self._privileged:
                self._raise_helpers()
            self._privileged.add(thread)
            use_fifo(self.values["thread_priority"])
            use_affinity(self.values["cpu_affinity"])
        controller, loop, period = self._controller, self._loop_state, self._period_ns
        if controller is None or not self._running:
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
        self._cycle(started)
        loop.cycles += 1
        loop.last_execution_ns = time.monotonic_ns() - started
        loop.execution.record(loop.last_execution_ns)
        self._deadline += period

    def stop_loop(self) -> None:
        """Stop the timer."""
        self._running = False
        if hasattr(self, "_timer"):
            self._timer.cancel()
        self._idle.close()


def main(arguments: list[str] | None = None) -> int:
    """Run with ``--executor single`` or ``multi`` before ``--ros-args``."""
    words = list(sys.argv if arguments is None else arguments)
    kind = words.pop(words.index("--executor") + 1)
    words.remove("--executor")
    executor: type[Executor] = SingleThreadedExecutor if kind == "single" else MultiThreadedExecutor
    return run_node(TimerControllerNode, executor, words)


if __name__ == "__main__":
    sys.exit(main())
