"""Hears of episodes: whoever resets the robot's surroundings may say so, and nobody has to."""

from __future__ import annotations

import time

from rclpy.node import Node
from std_msgs.msg import Header

from srdp_controller.control.cycle import Cycle
from srdp_controller.ros.boundary import cause
from srdp_controller.ros.inputs import RELIABLE, DirectSubscription

TOPIC = "/episode"
BEGIN, END = "begin", "end"
CREDIBLE_NS = 10_000_000_000  # a stamp further from now than this is of another clock


class EpisodeTopic:
    """``/episode`` (std_msgs/Header), taken by the loop: ``frame_id`` is ``begin`` or ``end``.

    The stamp of a beginning is the time from which on observations belong to the new episode.
    """

    def __init__(self, node: Node) -> None:
        # volatile: it hears publishers that keep their last message for late ones, and those that do not
        self._subscription = DirectSubscription(node, Header, TOPIC, RELIABLE)
        self.close = self._subscription.close
        self.refused = ""

    def take(self, now_ns: int, cycle: Cycle) -> None:
        """Tell the cycle what has been announced since the last call; never waits, never raises."""
        try:
            taken = self._subscription.take()
        except Exception as error:  # rclpy raises what its middleware raises
            self.refused = f"{TOPIC}: {cause(error)}"
            return
        if taken is None:
            return
        message = taken[0]
        if message.frame_id == BEGIN:
            age_ns = time.time_ns() - (message.stamp.sec * 1_000_000_000 + message.stamp.nanosec)
            cycle.begin_episode(now_ns - age_ns if abs(age_ns) < CREDIBLE_NS else now_ns)
        elif message.frame_id == END:
            cycle.end_episode()
        else:
            self.refused = f"{TOPIC}: frame_id {message.frame_id!r}; expected {BEGIN!r} or {END!r}"
