"""Where the posts stand, and a scripted expert that tosses a coin at each of them that it faces."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]

SPACING_M = 0.1  # between two posts of a row; half of it from a row's post to the next row's
ROWS_X_M = (-0.1, 0.01, 0.12)
ROWS: tuple[tuple[Point, ...], ...] = tuple(
    tuple((x, SPACING_M * (number - count / 2)) for number in range(count + 1)) for count, x in enumerate(ROWS_X_M)
)
POSTS: tuple[Point, ...] = tuple(post for row in ROWS for post in row)
FINISH_X_M = 0.2
COIN_BAND_M = 0.02  # further beside a post it goes round it on the nearer side
SPEED_M_S = 0.15
PASSED_M = 0.01  # a row counts as passed so far behind its posts
BEFORE_M = 0.04  # so far before a row the tip is to be opposite its gap
LOOK_AHEAD_M = 0.025  # it steers for a point so far ahead at least


class AvoidingTruth(NamedTuple):
    """The tip's true position [m]."""

    tip: Point


class AvoidingExpert:
    """Planar tool velocity (2,) [m/s]: past the post that it faces, left or right by a coin."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.reset()

    def reset(self) -> None:
        """A new episode: nothing is decided."""
        self._row, self._aim_y = -1, 0.0

    def act(self, truth: AvoidingTruth) -> np.ndarray:
        """The expert's command (2,) [m/s]."""
        x, y = truth.tip
        row = sum(x > row_x + PASSED_M for row_x in ROWS_X_M)
        if row != self._row and row < len(ROWS):
            faced = min((post[1] for post in ROWS[row]), key=lambda post_y: abs(post_y - y))
            beside = y - faced
            side = math.copysign(1.0, self._rng.random() - 0.5 if abs(beside) < COIN_BAND_M else beside)
            self._row, self._aim_y = row, faced + side * SPACING_M / 2
        to_row = ROWS_X_M[row] - BEFORE_M - x if row < len(ROWS) else FINISH_X_M - x
        dx, dy = max(to_row, LOOK_AHEAD_M), (self._aim_y - y if row < len(ROWS) else 0.0)
        distance = math.hypot(dx, dy)
        return np.array([SPEED_M_S * dx / distance, SPEED_M_S * dy / distance], dtype=np.float32)
