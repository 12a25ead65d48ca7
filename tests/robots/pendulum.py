"""(a) Any Gymnasium environment by its ID: ``gymnasium:Pendulum-v1``. All that is written here is an expert."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

UPRIGHT_ENERGY = 5.0  # of the environment's rod (1 kg, 1 m, g = 10 m/s^2), about its hinge [J]
MAX_TORQUE = 2.0  # N m


class SwingUp:
    """Pumps energy until the rod can reach the top, then balances it there."""

    def __init__(self, rng: np.random.Generator) -> None:
        pass

    def reset(self) -> None:
        pass

    def act(self, truth: Any) -> np.ndarray:
        """Torque (1,) [N m] for cos and sin of the angle from upright, and its speed [rad/s]."""
        cosine, sine, speed = (float(value) for value in truth["observation"])
        angle = math.atan2(sine, cosine)
        if abs(angle) < 0.4:
            torque = -20.0 * angle - 4.0 * speed
        else:
            missing = UPRIGHT_ENERGY - (speed * speed / 6.0 + 5.0 * cosine)
            torque = math.copysign(MAX_TORQUE, missing * (speed if speed else 1.0))
        return np.array([min(max(torque, -MAX_TORQUE), MAX_TORQUE)])
