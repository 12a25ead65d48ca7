"""Split conformal prediction over whole trajectories (section 9, certified abstention).

Trajectories, not steps, are exchangeable: the score of a trajectory is its largest latent distance.
With n calibration trajectories the threshold at level alpha is the ceil((n + 1)(1 - alpha))-th
smallest score, so a fresh trajectory from the same distribution raises any alarm with probability at
most alpha. Under shift nothing is promised: there the alarm is the point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from srdp_controller.errors import SrdpError


def trajectories_needed(alpha: float) -> int:
    """Calibration trajectories without which no threshold holds at miscoverage ``alpha``."""
    return math.ceil(1.0 / alpha - 1e-9) - 1


def conformal_threshold(scores: np.ndarray, alpha: float) -> float:
    """Threshold for trajectory scores (n,) at miscoverage ``alpha``.

    Raises:
        SrdpError: n is too small for alpha; the message says how many trajectories are needed.
    """
    n = len(scores)
    rank = math.ceil((n + 1) * (1.0 - alpha))
    if rank > n:
        raise SrdpError(
            f"alpha {alpha} needs at least {trajectories_needed(alpha)} calibration trajectories, got {n}; "
            "collect more episodes or drop that alpha from the recipe"
        )
    return float(np.sort(scores)[rank - 1])


def trajectory_scores(distances: Sequence[np.ndarray]) -> np.ndarray:
    """Largest distance of each trajectory, (n,)."""
    return np.array([float(np.max(trajectory)) for trajectory in distances])
