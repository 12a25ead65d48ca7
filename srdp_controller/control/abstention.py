"""When a policy abstains: its score at an observation, the calibrated threshold, and the test with hysteresis.

Another score is another function here, called where an engine has run (``sources.Student``, ``planner.PlanWorker``),
the same quantity in ``offline/calibrate.py``, and what it is computed from in ``offline/export/graphs.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from srdp_controller.engines.bundle import INPAINTING, LoadedBundle
from srdp_controller.engines.engine import Engine


def latent_distance(engine: Engine) -> float:
    """||z_T(s) - h(z_K(s))|| of an engine's last run, the same for all of its candidates."""
    difference = engine.teacher_latent[0] - engine.latent[0]
    return math.sqrt(float(difference.dot(difference)))


def alarm_threshold(bundle: LoadedBundle, policy: str, values: Mapping[str, Any]) -> float:
    """The score above which a policy abstains; infinite where it never does (switched off, or nothing calibrated).

    Raises:
        BundleError: the calibration cannot give ``abstain.alpha``.
    """
    if not values["abstain.enabled"] or policy in ("teacher", INPAINTING) or policy not in bundle.content.policies:
        return math.inf
    return bundle.calibration().threshold(policy, values["abstain.alpha"])


class Abstention:
    """Latent-distance test with hysteresis: fires above ``threshold``, clears below a share of it.

    It clears only after the score has stayed below for ``dwell_ns``.
    """

    def __init__(self, hysteresis: float, dwell_ns: int) -> None:
        self.hysteresis = hysteresis
        self.dwell_ns = dwell_ns
        self.fired = False
        self.count = 0
        self._below_since: int | None = None

    def update(self, score: float, threshold: float, now_ns: int, count: bool = True) -> bool:
        """Whether to abstain; a score that is not a number counts as infinite. A new alarm counts where asked to."""
        if not score <= threshold:
            if not self.fired and count:
                self.count += 1
            self.fired = True
            self._below_since = None
        elif self.fired:
            if score > threshold * (1.0 - self.hysteresis):
                self._below_since = None
            elif self._below_since is None:
                self._below_since = now_ns
            if self._below_since is not None and now_ns - self._below_since >= self.dwell_ns:
                self.fired = False
                self._below_since = None
        return self.fired

    def clear(self) -> None:
        """Forget the past (the engine was exchanged)."""
        self.fired = False
        self._below_since = None
