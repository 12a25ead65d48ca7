"""What every task of the arm over its table draws, seen from above (matplotlib)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.table.world import POST_RADIUS_M


def draw_table(axes: Any, posts: Iterable[tuple[float, float]]) -> None:
    """The work area, and posts at (x, y) [m] on it."""
    from matplotlib.patches import Circle

    for post in posts:
        axes.add_patch(Circle(post, POST_RADIUS_M, color="0.3", alpha=0.5))
    axes.set(xlim=(-0.27, 0.27), ylim=(-0.18, 0.18), aspect="equal", xlabel="x [m]", ylabel="y [m]")


def draw_tip_paths(axes: Any, tip: np.ndarray, chunks: np.ndarray, spec: PolicySpec, colour: str) -> None:
    """Where the tip (2,) [m] would go if it followed chunks (n, horizon, 2) [m/s]."""
    steps = np.cumsum(chunks * spec.step_s, axis=1)
    paths = tip + np.concatenate([np.zeros_like(steps[:, :1]), steps], axis=1)
    axes.plot(*paths.transpose(2, 1, 0), color=colour, alpha=max(0.25, 1.0 / len(chunks)), linewidth=0.8)
    axes.plot(*tip, "o", color="black", markersize=4)
