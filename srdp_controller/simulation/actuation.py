"""The way from a published command to the arm: delay with jitter, loss, hold, rate limits."""

from __future__ import annotations

import heapq
import math

import numpy as np

from srdp_controller.simulation.scenario import Actuation


class DelayedActuator:
    """Planar velocity commands that take effect late, in order, and expire.

    Times are simulation seconds; velocities (2,) in m/s.
    """

    def __init__(self, parameters: Actuation, rng: np.random.Generator) -> None:
        self._parameters = parameters
        self._rng = rng
        self._queue: list[tuple[float, int, float, float]] = []
        self._sequence = 0
        self._newest_effective = -1
        self._target = (0.0, 0.0)
        self._since = -math.inf
        self.velocity = (0.0, 0.0)

    def send(self, velocity: tuple[float, float], now: float) -> None:
        """Accept a command at time ``now`` [s]."""
        parameters = self._parameters
        self._sequence += 1
        if parameters.loss and self._rng.random() < parameters.loss:
            return
        delay = parameters.delay_s
        if parameters.jitter_s:
            delay = max(0.0, delay + parameters.jitter_s * float(self._rng.standard_normal()))
        heapq.heappush(self._queue, (now + delay, self._sequence, velocity[0], velocity[1]))

    def step(self, now: float, dt: float) -> tuple[float, float]:
        """Velocity in force during the next ``dt`` seconds, within speed and acceleration limits."""
        while self._queue and self._queue[0][0] <= now:
            effective, sequence, vx, vy = heapq.heappop(self._queue)
            if sequence > self._newest_effective:
                self._newest_effective = sequence
                self._target, self._since = (vx, vy), effective
        parameters = self._parameters
        tx, ty = self._target if now - self._since <= parameters.hold_s else (0.0, 0.0)
        speed = math.hypot(tx, ty)
        if speed > parameters.velocity_limit:
            tx, ty = tx * parameters.velocity_limit / speed, ty * parameters.velocity_limit / speed
        dx, dy = tx - self.velocity[0], ty - self.velocity[1]
        change = math.hypot(dx, dy)
        most = parameters.acceleration_limit * dt
        if change > most:
            dx, dy = dx * most / change, dy * most / change
        self.velocity = (self.velocity[0] + dx, self.velocity[1] + dy)
        return self.velocity
