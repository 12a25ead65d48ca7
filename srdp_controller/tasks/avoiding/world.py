"""The posts on the table, and what came of an episode among them."""

from __future__ import annotations

import bisect

import numpy as np

from srdp_controller.simulation.world import FAILED, Outcome
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.avoiding.expert import FINISH_X_M, POSTS, ROWS, AvoidingTruth
from srdp_controller.tasks.avoiding.task import AvoidingScenario
from srdp_controller.tasks.table.world import PATH_EVERY, TableWorld


class AvoidingWorld(TableWorld):
    """One simulated arm among the posts; a snapshot is the joints.

    The metric ``ways`` names the gap of each row that the tip went through, from the right: ``0-1-3``. Of failures it
    is ``failed``.
    """

    scenario: AvoidingScenario

    def __init__(self, scenario: AvoidingScenario, spec: PolicySpec, seed: int = 0, gui: bool = False) -> None:
        super().__init__(scenario, spec, {}, seed, gui)

    def _add_bodies(self) -> None:
        self._posts = [self._add_post() for _ in POSTS]
        for body, place in zip(self._posts, POSTS, strict=True):
            self._place_post(body, *place)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        self._reset_arm(float(rng.uniform(*self.scenario.start_x_m)), float(rng.uniform(*self.scenario.start_y_m)))
        self._gaps: list[int] = []
        return Outcome(details={"tip_path": []})

    def _judge(self) -> None:
        outcome, (x, y) = self.outcome, self.arm.tip_position()
        if self._ticks % PATH_EVERY == 0:
            outcome.details["tip_path"].append((x, y))
        if len(self._gaps) < len(ROWS) and x > ROWS[len(self._gaps)][0][0]:
            self._gaps.append(bisect.bisect([post_y for _, post_y in ROWS[len(self._gaps)]], y))
        outcome.failed = any(self._client.getContactPoints(post, self.arm.body) for post in self._posts)
        outcome.success = x > FINISH_X_M and not outcome.failed
        outcome.finished |= outcome.success or outcome.failed
        if outcome.finished:
            outcome.metrics["ways"] = "-".join(map(str, self._gaps)) if outcome.success else FAILED

    @property
    def truth(self) -> AvoidingTruth:
        """What the expert is told: the tip's true position [m]."""
        return AvoidingTruth(self.arm.tip_position())
