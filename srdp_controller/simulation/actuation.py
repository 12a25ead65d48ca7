"""The way from a published command to the drives: delay with jitter, order, loss, and the robot's own watchdog."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from srdp_controller.simulation.scenario import Actuation
from srdp_controller.spec import PolicySpec


def watchdog_values(spec: PolicySpec) -> list[float | None]:
    """What each action does when commands stay away: a value (zero for velocities), or None, to stay as it is."""
    found: list[float | None] = []
    for group in spec.action_groups:
        values = group.hold_values()
        found += [None] * len(group.components) if values is None else list(values)
    return found


class DelayedActuator:
    """Commands (act_dim,) that take effect late, in order, and expire; times are seconds of the episode."""

    def __init__(
        self,
        parameters: Actuation,
        watchdog: Sequence[float | None],
        start: Sequence[float],
        rng: np.random.Generator,
    ) -> None:
        self._parameters = parameters
        self._watchdog = watchdog
        self._rng = rng
        self._queue: list[tuple[float, int, list[float]]] = []
        self._sequence = 0
        self._newest_effective = -1
        self._target = [float(value) for value in start]
        self._since = 0.0

    def send(self, command: Sequence[float], now: float) -> None:
        """Accept a command at time ``now`` [s]."""
        parameters = self._parameters
        self._sequence += 1
        if parameters.loss and self._rng.random() < parameters.loss:
            return
        delay = parameters.delay_s
        if parameters.jitter_s:
            delay = max(0.0, delay + parameters.jitter_s * float(self._rng.standard_normal()))
        heapq.heappush(self._queue, (now + delay, self._sequence, [float(value) for value in command]))

    def in_force(self, now: float) -> list[float]:
        """The command (act_dim,) that the drives follow at time ``now`` [s]; never to be asked back in time."""
        while self._queue and self._queue[0][0] <= now + 1e-9:
            effective, sequence, command = heapq.heappop(self._queue)
            if sequence > self._newest_effective:
                self._newest_effective = sequence
                self._target, self._since = command, effective
        if now - self._since > self._parameters.hold_s + 1e-9:
            pairs = zip(self._target, self._watchdog, strict=True)
            self._target = [held if value is None else value for held, value in pairs]
        return self._target
