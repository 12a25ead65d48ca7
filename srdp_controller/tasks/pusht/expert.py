"""Demonstrates PushT: a cross-entropy search over straight pushes, simulated, and smooth paths between them."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import NamedTuple

import numpy as np
import shapely
from shapely.ops import substring

from srdp_controller.tasks.pusht.simulation import AGENT_RADIUS_M, SIZE_M, TICK_S, PushTSimulation, placed

ROUNDS, TRIES, ELITES = 3, 64, 8  # of the search; each round tries so many pushes
SIDE_STEP_M = 0.01  # between two places on the block's sides that a push may begin at
BEFORE_M = 0.004  # so far from the block a push begins
PUSH_M = (0.01, 0.14)
SLANT_RAD = 0.5  # of a push, at most, from the side's normal
SPEED_M_S = 0.12  # of simulated pushes
LEAD_M = 0.025  # the command is a point so far ahead on the path
ARRIVED_M = 0.006  # a leg of the path ends so far before its end
CLEARANCE_M = 0.0005  # paths keep at least so far from the block; their corners keep ROUND_M
ROUND_M = 0.012
WALL_M = 0.016  # paths keep so far from the walls
WAY_COST = 0.02  # a metre to go to a push, in metres of the block's distance


class PushTTruth(NamedTuple):
    """Where the pusher (2,) [m] and the block (3,) [m, m, rad] truly are."""

    agent: np.ndarray
    block: np.ndarray


class Push(NamedTuple):
    """A straight push: where on the sides it begins, how it slants, how long it is; and what came of it."""

    place: int
    slant_rad: float
    length_m: float
    start: np.ndarray
    end: np.ndarray
    cost: float


class PushTExpert:
    """The next target (2,) [m] of the pusher. It plans a push, walks round the block to it, pushes, and plans anew."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._simulation = rng, PushTSimulation()
        corners = self._simulation.outline
        places, normals = [], []
        for first, second in itertools.pairwise([*corners, corners[0]]):
            side = second - first
            length = float(np.hypot(*side))
            count = max(1, int(length / SIDE_STEP_M))
            places += [first + side * (number + 0.5) / count for number in range(count)]
            normals += [np.array([side[1], -side[0]]) / length] * count
        self._places, self._normals, self._corners = np.array(places), np.array(normals), corners
        self._goal_corners = placed(corners, self._simulation.goal)
        self.reset()

    def reset(self) -> None:
        """A new episode: nothing is planned."""
        self._legs: list[shapely.LineString] = []
        self._done_m = 0.0
        self.plans = 0

    def act(self, truth: PushTTruth) -> np.ndarray:
        """The command (2,) [m]."""
        if self._legs and self._legs[0].length - self._done_m < ARRIVED_M:
            self._legs.pop(0)
            self._done_m = 0.0
        if not self._legs:
            push = self._plan(truth)
            if push is None:
                return truth.agent
            way = self._way(truth.agent, push.start, truth.block)
            self._legs = [shapely.LineString([truth.agent, *way]), shapely.LineString([push.start, push.end])]
            self._done_m = 0.0
        # pure pursuit; what of the path is searched for the nearest point lies ahead, so that it never turns back
        leg = self._legs[0]
        ahead = substring(leg, self._done_m, min(leg.length, self._done_m + 3 * LEAD_M))
        self._done_m = min(leg.length, self._done_m + float(ahead.project(shapely.Point(truth.agent))))
        target = leg.interpolate(self._done_m + LEAD_M)
        return np.array([target.x, target.y])

    # --- the search -----------------------------------------------------------------------------

    def _plan(self, truth: PushTTruth) -> Push | None:
        """The best push found; None where none can be reached."""
        rng, found, self.plans = self._rng, list[Push](), self.plans + 1
        near = shapely.Polygon(placed(self._corners, truth.block)).buffer(AGENT_RADIUS_M + 2 * CLEARANCE_M)
        for _ in range(ROUNDS):
            elites = sorted(found, key=lambda push: push.cost)[:ELITES]
            for _ in range(TRIES):
                if not elites:
                    place, slant = int(rng.integers(len(self._places))), rng.uniform(-SLANT_RAD, SLANT_RAD)
                    length = rng.uniform(*PUSH_M)
                else:
                    best = elites[int(rng.integers(len(elites)))]
                    place = (best.place + int(rng.integers(-2, 3))) % len(self._places)
                    slant = float(np.clip(best.slant_rad + 0.15 * rng.normal(), -SLANT_RAD, SLANT_RAD))
                    length = float(np.clip(best.length_m * math.exp(0.3 * rng.normal()), *PUSH_M))
                push = self._tried(truth, near, place, slant, length)
                found += [push] if push else []
        return min(found, key=lambda push: push.cost, default=None)

    def _tried(self, truth: PushTTruth, near: shapely.Polygon, place: int, slant: float, length: float) -> Push | None:
        """A push, simulated; None where it begins or ends out of reach."""
        turned = placed(self._normals[place : place + 1], np.array([0.0, 0.0, truth.block[2]]))[0]
        start = placed(self._places[place : place + 1], truth.block)[0] + (AGENT_RADIUS_M + BEFORE_M) * turned
        along = placed(-turned[None], np.array([0.0, 0.0, slant]))[0]
        end = start + length * along
        if near.contains(shapely.Point(start)) or not (_inside(start) and _inside(end)):
            return None
        simulation = self._simulation
        simulation.place(start, truth.block)
        ticks = math.ceil(length / SPEED_M_S / TICK_S)
        for tick in range(1, ticks + 20):
            simulation.tick(start + along * min(length, tick * SPEED_M_S * TICK_S))
        away = np.hypot(*(placed(self._corners, simulation.block) - self._goal_corners).T).mean()
        return Push(place, slant, length, start, end, float(away) + WAY_COST * float(np.hypot(*(start - truth.agent))))

    def _way(self, start: np.ndarray, end: np.ndarray, block: np.ndarray) -> list[np.ndarray]:
        """Corners of the shortest way round the block from ``start`` to ``end``, the last of them (Dijkstra)."""
        outline = shapely.Polygon(placed(self._corners, block))
        blocked = outline.buffer(AGENT_RADIUS_M + CLEARANCE_M)
        if not shapely.LineString([start, end]).intersects(blocked):
            return [end]
        round_it = outline.buffer(AGENT_RADIUS_M + ROUND_M, quad_segs=2).exterior.coords[:-1]
        nodes = [start, end, *(np.array(corner) for corner in round_it if _inside(np.array(corner)))]
        # whoever touches the block may leave it: the first leg may begin within
        leaves = blocked.contains(shapely.Point(start))
        lengths, before, waiting = {0: 0.0}, dict[int, int](), [(0.0, 0)]
        while waiting:
            length, here = heapq.heappop(waiting)
            if here == 1:
                break
            for there, node in enumerate(nodes):
                longer = length + float(np.hypot(*(node - nodes[here])))
                if longer >= lengths.get(there, math.inf):
                    continue
                inside = shapely.LineString([nodes[here], node]).intersection(blocked).length
                if inside == 0.0 or (here == 0 and leaves and inside < 0.8 * AGENT_RADIUS_M):
                    lengths[there], before[there] = longer, here
                    heapq.heappush(waiting, (longer, there))
        way, node_number = [], 1
        while node_number in before:
            way.append(nodes[node_number])
            node_number = before[node_number]
        return way[::-1] or [end]


def _inside(place: np.ndarray) -> bool:
    return bool(np.all((place > WALL_M) & (place < SIZE_M - WALL_M)))
