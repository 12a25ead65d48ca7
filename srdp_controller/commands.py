"""How an action group's commands stand in its messages, for whoever reads or writes them. No rclpy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from srdp_controller.spec import ARRAY, JOG, TRAJECTORY, TWIST, ActionGroup


def output_type(group: ActionGroup, as_array: bool = False) -> str:
    """The type of a group's messages; ``as_array``: a Float64MultiArray in the place of a TwistStamped."""
    return ARRAY if as_array and group.output.type == TWIST else group.output.type


def output_joints(group: ActionGroup) -> list[str]:
    """The joints of a JointTrajectory or JointJog, in the order of its arrays."""
    found = [re.fullmatch(r"\w+\[(.+)\]", component.field) for component in group.components]
    return list(dict.fromkeys(match[1] for match in found if match is not None))


def output_fields(group: ActionGroup, as_array: bool = False) -> list[str]:
    """Where each component's value stands in the group's message, as paths for an ``Extractor``."""
    fields = [component.field for component in group.components]
    if output_type(group, as_array) != group.output.type:
        return [f"data[{place}]" for place in range(len(fields))]
    if group.output.type not in (TRAJECTORY, JOG):
        return fields
    joints = output_joints(group)
    parts = [field.partition("[") for field in fields]
    before = "points[0]." if group.output.type == TRAJECTORY else ""
    return [f"{before}{array}[{joints.index(inside[:-1])}]" for array, _, inside in parts]


class Track:
    """Follows the newest JointTrajectory as ros2_controllers' joint_trajectory_controller does.

    Points that are past are dropped; from where it is when a trajectory arrives it goes straight to the next point,
    and so on, and holds the last. Times [s] on any one clock.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.points: list[list[float]] = []

    def follow(self, now_s: float, times: Sequence[float], points: Sequence[Sequence[float]]) -> None:
        """A trajectory: points (n, components), and when each is due."""
        coming = [(due, list(point)) for due, point in zip(times, points, strict=True) if due > now_s]
        coming = coming or [(now_s, list(points[-1]))]
        here = self.at(now_s) if self.times else coming[0][1]
        self.times = [now_s, *(due for due, _ in coming)]
        self.points = [here, *(point for _, point in coming)]

    def take(self, message: Any, now_s: float, order: Sequence[int] | None = None) -> None:
        """Follow a JointTrajectory that arrives now (stamp 0: it begins now); ``order``: of its joints."""

        def seconds(one: Any) -> float:
            return float(one.sec) + 1e-9 * float(one.nanosec)

        begun_s = seconds(message.header.stamp) or now_s
        due = [begun_s + seconds(point.time_from_start) for point in message.points]
        points = [point.positions for point in message.points]
        if order is not None:
            points = [[point[place] for place in order] for point in points]
        self.follow(now_s, due, points)

    def at(self, now_s: float) -> list[float]:
        """Where it is (components,)."""
        return [float(np.interp(now_s, self.times, column)) for column in zip(*self.points, strict=True)]
