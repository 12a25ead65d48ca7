"""Scripted expert of the pushing task: goes round the post on the nearer side and pushes to the goal.

The side is decided early and depends on the state alone, except within ``COIN_BAND_M`` of the
symmetric line, where a coin decides: there the expert's action distribution has two modes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

COIN_BAND_M = 0.015
CLEARANCE_M = 0.080
PASSED_M = 0.05
FREE_M = 0.062  # half the box's diagonal and the post's radius
BLOCKED_M = 0.032  # radii of the post and the tip: the tip cannot pass between
CONTACT_M = 0.042
ORBIT_M = 0.070
PUSH_SPEED = 0.12
TRAVEL_SPEED = 0.20
Point = tuple[float, float]


class PushingTruth(NamedTuple):
    """True positions (x, y) [m] of the pusher's tip, the box, its goal and the post."""

    tip: Point
    box: Point
    goal: Point
    post: Point


class PushingExpert:
    """Planar tool velocity (2,) [m/s] from true positions [m]."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._side = 0

    def reset(self) -> None:
        """Forget the side chosen in the last episode."""
        self._side = 0

    @staticmethod
    def is_ambiguous(box: Point, post: Point) -> bool:
        """Whether the expert tosses a coin for the side at this box position."""
        return abs(box[1] - post[1]) < COIN_BAND_M and box[0] < post[0]

    def _waypoint(self, box: Point, goal: Point, post: Point) -> Point:
        if box[0] > post[0] + PASSED_M:
            return goal
        if box[0] > post[0] - 0.02:
            side = 1 if box[1] > post[1] else -1
            lateral = post[1] + side * CLEARANCE_M
            if abs(box[1] - post[1]) < FREE_M:  # too close for the tip to come between: slide past
                lateral = box[1] + side * 0.01
            return post[0] + PASSED_M + 0.04, lateral
        offset = box[1] - post[1]
        if abs(offset) >= COIN_BAND_M:
            self._side = 1 if offset > 0 else -1
        elif self._side == 0:
            self._side = 1 if self._rng.random() < 0.5 else -1
        return post[0] + 0.012, post[1] + self._side * CLEARANCE_M

    def act(self, truth: PushingTruth) -> np.ndarray:
        """The expert's command (2,) [m/s]."""
        tip, box, goal, post = truth
        way = self._waypoint(box, goal, post)
        dx, dy = way[0] - box[0], way[1] - box[1]
        distance = math.hypot(dx, dy) + 1e-9
        dx, dy = dx / distance, dy / distance
        rx, ry = tip[0] - box[0], tip[1] - box[1]
        along = rx * dx + ry * dy
        across = -rx * dy + ry * dx
        reach = math.hypot(rx, ry) + 1e-9
        misalignment = math.atan2(across, -along)
        if abs(misalignment) < 0.45 and reach < ORBIT_M + 0.03:
            speed = PUSH_SPEED
            if way == goal:
                speed = max(0.04, min(PUSH_SPEED, 2.0 * distance))
            forward = speed * max(0.15, 1.0 - 2.2 * abs(misalignment))
            sideways = -6.0 * across
            vx, vy = forward * dx - sideways * dy, forward * dy + sideways * dx
        else:
            # orbit the box towards the place behind it: anticlockwise from its left, else clockwise
            turn = -1.0 if misalignment > 0 else 1.0
            px, py = post[0] - box[0], post[1] - box[1]
            if math.hypot(px, py) < ORBIT_M + BLOCKED_M:
                to_post = math.atan2(rx * py - ry * px, rx * px + ry * py)
                on_the_way = -turn * to_post  # angle to the post in the sense of the turn
                if 0.0 < on_the_way < abs(misalignment):
                    turn = -turn
            ux, uy = rx / reach, ry / reach
            radial = 3.0 * (ORBIT_M - reach)
            tangential = min(TRAVEL_SPEED, 0.05 + 0.16 * abs(misalignment))
            vx = radial * ux + turn * tangential * uy
            vy = radial * uy - turn * tangential * ux
        speed = math.hypot(vx, vy)
        if speed > TRAVEL_SPEED:
            vx, vy = vx * TRAVEL_SPEED / speed, vy * TRAVEL_SPEED / speed
        return np.array([vx, vy], dtype=np.float32)
