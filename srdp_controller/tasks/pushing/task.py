"""The pushing task: spec, world, expert, drawing and pictures under one name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.pushing.expert import PushingExpert
from srdp_controller.tasks.pushing.scenario import EpisodeLayout, PushingScenario
from srdp_controller.tasks.pushing.spec import pushing_spec
from srdp_controller.tasks.task import Task

if TYPE_CHECKING:  # PyBullet is not needed to train and deploy
    from srdp_controller.tasks.pushing.world import PushingWorld


class PushingTask(Task):
    """Push a disc (scenario ``box``: a box) round a post, either way, to a goal."""

    name = "pushing"
    scenario_model = PushingScenario

    def spec(self) -> PolicySpec:
        """Observation (8,) [m], action chunk (16, 2) [m/s]."""
        return pushing_spec()

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> PushingWorld:
        """The simulated arm, a ``PushingWorld``; needs PyBullet."""
        from srdp_controller.tasks.pushing.world import PushingWorld

        assert isinstance(scenario, PushingScenario)
        return PushingWorld(scenario, seed, gui)

    def expert(self, rng: np.random.Generator) -> PushingExpert:
        """The scripted expert."""
        return PushingExpert(rng)

    def draw(self, axes: Any, episodes: list[dict[str, Any]]) -> None:
        """The object's paths on the table, seen from above."""
        from matplotlib.patches import Circle

        from srdp_controller.tasks.table.drawing import draw_table

        draw_table(axes, [tuple(episode["details"]["layout"]["post"]) for episode in episodes])
        for episode in episodes:
            details = episode["details"]
            path, layout = np.array(details["object_path"]).reshape(-1, 2), details["layout"]
            axes.plot(path[:, 0], path[:, 1], color="C0" if episode["success"] else "C3", alpha=0.7, lw=1.5)
            axes.add_patch(Circle(layout["goal"], 0.025, color="C2", alpha=0.15))
        good = sum(bool(episode["success"]) for episode in episodes)
        axes.set_title(f"paths: {good} of {len(episodes)} succeeded")

    def draw_futures(self, axes: Any, observation: np.ndarray, chunks: np.ndarray, colour: str = "C0") -> None:
        """The tip's paths on the table, the object and its goal."""
        from matplotlib.patches import Circle

        from srdp_controller.tasks.table.drawing import draw_table, draw_tip_paths

        thing, goal, post = ((float(x), float(y)) for x, y in observation[2:8].reshape(3, 2))
        draw_table(axes, [post])
        axes.add_patch(Circle(goal, 0.025, color="C2", alpha=0.15))
        axes.add_patch(Circle(thing, 0.035, color="C1", alpha=0.3))
        draw_tip_paths(axes, observation[:2], chunks, self.spec(), colour)

    def render(self, scenario: Scenario, details: dict[str, Any], snapshots: list[list[float]]) -> list[np.ndarray]:
        """Pictures (height, width, 3) uint8 by PyBullet's software renderer."""
        world = self.make_world(scenario)
        world.place(EpisodeLayout.model_validate(details["layout"]))
        return world.pictures(snapshots)
