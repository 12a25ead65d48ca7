"""The avoiding task, in the manner of D3IL's (arXiv 2402.14606): through three rows of posts, every gap is good.

| index | observation | source |
| --- | --- | --- |
| 0, 1 | tip x, y | ``/joint_states`` through the arm's forward kinematics |

One post, then two, then three, each opposite a gap of the row before: whoever has passed a row faces a post of the
next one, and both ways round it are as good. Eight ways lead through them by one decision a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from srdp_controller.simulation.scenario import Scenario, Sensor
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.avoiding.expert import AvoidingExpert
from srdp_controller.tasks.table import spec as table
from srdp_controller.tasks.table.arm import arm_chain
from srdp_controller.tasks.table.scenario import JOINT_SENSOR, TableScenario
from srdp_controller.tasks.task import Task

if TYPE_CHECKING:  # PyBullet is not needed to train and deploy
    from srdp_controller.tasks.avoiding.world import AvoidingWorld

HORIZON = 16
CONTROL_RATE_HZ = 20.0
MAX_DRIVEN_SPEED = 0.3  # [m/s]


class AvoidingScenario(TableScenario):
    """The simulated arm, and where the tip starts."""

    sensors: dict[str, Sensor] = Field(default_factory=lambda: {"/joint_states": JOINT_SENSOR})
    start_x_m: tuple[float, float] = (-0.23, -0.21)
    start_y_m: tuple[float, float] = (-0.02, 0.02)
    time_limit_s: float | None = Field(default=6.0, gt=0.0)


class AvoidingTask(Task):
    """Steer the tip through three rows of posts."""

    name = "avoiding"
    scenario_model = AvoidingScenario

    def spec(self) -> PolicySpec:
        """Observation (2,) [m], action chunk (16, 2) [m/s]."""
        return PolicySpec(
            task="avoiding",
            observation=table.tip(),
            action_groups=(table.tool(MAX_DRIVEN_SPEED),),
            horizon=HORIZON,
            control_rate_hz=CONTROL_RATE_HZ,
            workspace=table.WORKSPACE,
            kinematics={"arm": arm_chain()},
        )

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> AvoidingWorld:
        """The simulated arm, an ``AvoidingWorld``; needs PyBullet."""
        from srdp_controller.tasks.avoiding.world import AvoidingWorld

        assert isinstance(scenario, AvoidingScenario)
        return AvoidingWorld(scenario, self.spec(), seed, gui)

    def expert(self, rng: np.random.Generator) -> AvoidingExpert:
        """The scripted expert."""
        return AvoidingExpert(rng)

    def draw(self, axes: Any, episodes: list[dict[str, Any]]) -> None:
        """The tip's paths through the posts, seen from above."""
        from srdp_controller.tasks.avoiding.expert import POSTS
        from srdp_controller.tasks.table.drawing import draw_table

        draw_table(axes, POSTS)
        for episode in episodes:
            path = np.array(episode["details"]["tip_path"]).reshape(-1, 2)
            axes.plot(path[:, 0], path[:, 1], color="C0" if episode["success"] else "C3", alpha=0.5, lw=1.2)
        good = sum(bool(episode["success"]) for episode in episodes)
        axes.set_title(f"paths: {good} of {len(episodes)} succeeded")

    def draw_futures(self, axes: Any, observation: np.ndarray, chunks: np.ndarray, colour: str = "C0") -> None:
        """The tip's paths through the posts."""
        from srdp_controller.tasks.avoiding.expert import POSTS
        from srdp_controller.tasks.table.drawing import draw_table, draw_tip_paths

        draw_table(axes, POSTS)
        draw_tip_paths(axes, observation[:2], chunks, self.spec(), colour)

    def render(self, scenario: Scenario, details: dict[str, Any], snapshots: list[list[float]]) -> list[np.ndarray]:
        """Pictures (height, width, 3) uint8 by PyBullet's software renderer."""
        return self.make_world(scenario).pictures(snapshots)
