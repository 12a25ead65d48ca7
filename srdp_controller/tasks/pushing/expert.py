"""Scripted expert of the pushing task: goes round the post on the nearer side and pushes to the goal.

The side is decided early and depends on the state alone, except within ``COIN_BAND_M`` of the
symmetric line, where a coin decides: there the expert's action distribution has two modes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

COIN_BAND_M = 0.015
REACH_M = 0.03  # beyond the orbit, at which the object still counts as being pushed
BLOCKED_M = 0.032  # radii of the post and the tip: the tip cannot pass between
Point = tuple[float, float]


class PushingTruth(NamedTuple):
    """True positions (x, y) [m] of the pusher's tip, the object, its goal and the post; and the object's shape."""

    tip: Point
    object: Point
    goal: Point
    post: Point
    shape: str


@dataclass(frozen=True)
class Manner:
    """How an object of one shape is pushed.

    Attributes:
        push_speed: of the tip while it pushes [m/s].
        travel_speed: on its way to the place behind the object [m/s].
        centring: gain from the tip's offset across the way to its velocity back [1/s].
        braking: share of the speed that 1 rad beside the way takes.
        aligned: within this angle of the way it pushes, else it orbits the object [rad].
        arrival: gain from the distance to the goal to the speed there [1/s].
        orbit_m: distance from the object's centre at which the tip goes round it.
        clearance_m: between the object's centre and the post's, beside it.
        before_m: so far before the post the object is to have its clearance.
        passed_m: so far beyond the post it may turn to the goal.
    """

    push_speed: float
    travel_speed: float
    centring: float
    braking: float
    aligned: float
    arrival: float
    orbit_m: float
    clearance_m: float
    before_m: float
    passed_m: float


# the disc's found by search over 60 episodes each: none touched the post with a disturbance of 5 cm/s
MANNERS = {
    "disc": Manner(
        push_speed=0.3,
        travel_speed=0.36,
        centring=13.0,
        braking=1.6,
        aligned=0.6,
        arrival=5.0,
        orbit_m=0.06,
        clearance_m=0.086,
        before_m=0.03,
        passed_m=0.042,
    ),
    "box": Manner(
        push_speed=0.12,
        travel_speed=0.2,
        centring=6.0,
        braking=2.2,
        aligned=0.45,
        arrival=2.0,
        orbit_m=0.07,
        clearance_m=0.09,
        before_m=0.03,
        passed_m=0.05,
    ),
}


class PushingExpert:
    """Planar tool velocity (2,) [m/s] from true positions [m]."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._side = 0

    def reset(self) -> None:
        """Forget the side chosen in the last episode."""
        self._side = 0

    @staticmethod
    def is_ambiguous(start: Point, post: Point) -> bool:
        """Whether the expert tosses a coin for the side when the object is there."""
        return abs(start[1] - post[1]) < COIN_BAND_M and start[0] < post[0]

    def _waypoint(self, truth: PushingTruth, manner: Manner) -> Point:
        x, y = truth.object[0] - truth.post[0], truth.object[1] - truth.post[1]
        if x > manner.passed_m:
            return truth.goal
        if x > -manner.before_m - 0.01:
            lateral = math.copysign(manner.clearance_m, y)
            return truth.post[0] + manner.passed_m + 0.04, truth.post[1] + lateral
        if abs(y) >= COIN_BAND_M:
            self._side = 1 if y > 0 else -1
        elif self._side == 0:
            self._side = 1 if self._rng.random() < 0.5 else -1
        return truth.post[0] - manner.before_m, truth.post[1] + self._side * manner.clearance_m

    def act(self, truth: PushingTruth) -> np.ndarray:
        """The expert's command (2,) [m/s]."""
        manner = MANNERS[truth.shape]
        tip, pushed, goal, post, _ = truth
        way = self._waypoint(truth, manner)
        dx, dy = way[0] - pushed[0], way[1] - pushed[1]
        distance = math.hypot(dx, dy) + 1e-9
        dx, dy = dx / distance, dy / distance
        rx, ry = tip[0] - pushed[0], tip[1] - pushed[1]
        along = rx * dx + ry * dy
        across = -rx * dy + ry * dx
        reach = math.hypot(rx, ry) + 1e-9
        misalignment = math.atan2(across, -along)
        if abs(misalignment) < manner.aligned and reach < manner.orbit_m + REACH_M:
            speed = manner.push_speed
            if way == goal:
                speed = max(0.2 * speed, min(speed, manner.arrival * distance))
            forward = speed * max(0.15, 1.0 - manner.braking * abs(misalignment))
            sideways = -manner.centring * across
            vx, vy = forward * dx - sideways * dy, forward * dy + sideways * dx
        else:
            # orbit the object towards the place behind it: anticlockwise from its left, else clockwise
            turn = -1.0 if misalignment > 0 else 1.0
            px, py = post[0] - pushed[0], post[1] - pushed[1]
            if math.hypot(px, py) < manner.orbit_m + BLOCKED_M:
                to_post = math.atan2(rx * py - ry * px, rx * px + ry * py)
                on_the_way = -turn * to_post  # angle to the post in the sense of the turn
                if 0.0 < on_the_way < abs(misalignment):
                    turn = -turn
            ux, uy = rx / reach, ry / reach
            radial = 0.5 * manner.centring * (manner.orbit_m - reach)
            tangential = min(manner.travel_speed, 0.05 + manner.travel_speed * abs(misalignment) / manner.aligned / 2)
            vx = radial * ux + turn * tangential * uy
            vy = radial * uy - turn * tangential * ux
        speed = math.hypot(vx, vy)
        if speed > manner.travel_speed:
            vx, vy = vx * manner.travel_speed / speed, vy * manner.travel_speed / speed
        return np.array([vx, vy], dtype=np.float32)
