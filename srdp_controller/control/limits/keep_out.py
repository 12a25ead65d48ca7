"""Discs that a tool must not enter."""

from __future__ import annotations

import math

from srdp_controller.control.limits.common import TOLERANCE, KeepOut


def slide(
    zones: tuple[KeepOut, ...], x: float, y: float, velocity: tuple[float, float], gain: float, margin: float
) -> tuple[float, float]:
    """The velocity nearest to a wish that leads a tool at x, y into no zone, each ``margin`` [m] larger than it is.

    Each zone allows a half plane of velocities, v n >= -gain h with n its outward normal, and the projection onto it
    is closed. Several zones are projected onto in turn; standing still is allowed by all of them, so that is what
    remains where their half planes leave nothing of the wish.
    """
    for _ in range(2 * len(zones)):
        before = velocity
        for zone in zones:
            dx, dy = x - zone.x, y - zone.y
            distance = math.hypot(dx, dy) or 1e-9
            dx, dy = dx / distance, dy / distance
            least = -gain * max(0.0, distance - zone.radius - margin)
            missing = least - (velocity[0] * dx + velocity[1] * dy)
            if missing > TOLERANCE:
                velocity = velocity[0] + missing * dx, velocity[1] + missing * dy
        if velocity is before:
            return velocity
    return 0.0, 0.0
