"""Any world as a Gymnasium environment, for Minari's collector and for users' own tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.simulation.world import World
from srdp_controller.spec import PolicySpec


class WorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A world at the spec's control rate, seen as the controller would see it.

    Observation (sensors,), which is what a dataset holds of the spec's observation (past and committed commands can
    be told from the actions), and action (act_dim,), float32, SI units. The reward is what the metric ``return`` grew
    by where the world keeps one, else 1 on success. Terminated on success and on
    failure for good, truncated at any other end (only there may a critic bootstrap).
    """

    def __init__(self, world: World, spec: PolicySpec) -> None:
        self.observed = ObservedWorld(world, spec)
        self._sensors = spec.sensor_indices()
        sensors = [spec.observation[index] for index in self._sensors]
        self.observation_space = _box([sensor.lower for sensor in sensors], [sensor.upper for sensor in sensors])
        self.action_space = _box(*spec.action_limits())

    @property
    def world(self) -> World:
        """The physics behind the sensors."""
        return self.observed.world

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; returns the first observation and an empty info."""
        super().reset(seed=seed)
        self.observed.reset(self.np_random)
        self._return = self._reward_so_far()
        return self.observed.observation[self._sensors], {}

    def _reward_so_far(self) -> float:
        outcome = self.world.outcome
        return float(outcome.metrics.get("return", outcome.success))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Send the command and run one control period."""
        self.observed.step(np.asarray(action, dtype=np.float64).tolist())
        outcome, before = self.world.outcome, self._return
        terminated = outcome.success or outcome.failed
        self._return = self._reward_so_far()
        return (
            self.observed.observation[self._sensors],
            self._return - before,
            terminated,
            outcome.finished and not terminated,
            {},
        )

    def close(self) -> None:
        """Free the world."""
        self.world.close()


def _box(lower: Sequence[float] | np.ndarray, upper: Sequence[float] | np.ndarray) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(np.array(lower, dtype=np.float32), np.array(upper, dtype=np.float32))
