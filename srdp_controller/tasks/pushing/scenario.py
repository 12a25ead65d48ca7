"""Scenarios of the pushing task: the arm's drives, what is pushed, and where things stand."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from srdp_controller.errors import ScenarioError
from srdp_controller.simulation.scenario import Scenario, Sensor
from srdp_controller.spec import Strict
from srdp_controller.tasks.table.scenario import JOINT_SENSOR, TableScenario

# what the dataset was collected with; /goal_pose and /post_pose are exact
SENSORS = {
    "/joint_states": JOINT_SENSOR,
    "/object_pose": Sensor(rate_hz=120.0, latency_s=0.01, noise=1e-3, quantisation=1e-4),
}


class Payload(Strict):
    """What is pushed."""

    shape: Literal["disc", "box"] = "disc"
    half_width_m: float = Field(default=0.035, gt=0.0, description="radius of the disc, or half the box's side")
    mass_kg: float = Field(default=0.3, gt=0.0)
    friction: float = Field(default=0.45, gt=0.0, description="Coulomb coefficient object to table")
    tip_friction: float = Field(default=0.25, gt=0.0)


class Rectangle(Strict):
    """A rectangle of the table [m]."""

    x: tuple[float, float]
    y: tuple[float, float]

    def holds(self, point: tuple[float, float]) -> bool:
        """Whether a point lies in it."""
        return self.x[0] <= point[0] <= self.x[1] and self.y[0] <= point[1] <= self.y[1]

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """A point of it, uniformly."""
        return float(rng.uniform(*self.x)), float(rng.uniform(*self.y))


class Region(Strict):
    """One combination of where the object starts and where its goal lies."""

    start: Rectangle
    goal: Rectangle


class Layout(Strict):
    """Where things stand at the start of an episode; a region is drawn uniformly."""

    regions: tuple[Region, ...] = (
        Region(start=Rectangle(x=(-0.17, -0.12), y=(-0.08, 0.08)), goal=Rectangle(x=(0.13, 0.17), y=(-0.08, 0.08))),
    )
    excluded: tuple[Region, ...] = Field(
        default=(), description="combinations of start and goal that are never drawn (coverage holes)"
    )
    post: Rectangle = Rectangle(x=(-0.01, 0.01), y=(-0.01, 0.01))
    tip: Rectangle = Rectangle(x=(-0.24, -0.21), y=(-0.08, 0.08))


class EpisodeLayout(Strict):
    """Positions drawn for one episode [m] and the object's yaw [rad]."""

    object: tuple[float, float]
    object_yaw: float
    goal: tuple[float, float]
    post: tuple[float, float]
    tip: tuple[float, float]


class PushingScenario(TableScenario):
    """All parameters of the simulated robot, its object and its table.

    A sensor that a file does not name keeps its default; ``joint_states: {...}`` and ``object_pose: {...}`` at the
    top of a file stand for its entries of ``sensors``.
    """

    sensors: dict[str, Sensor] = Field(default_factory=SENSORS.copy)
    payload: Payload = Payload()
    layout: Layout = Layout()
    time_limit_s: float | None = Field(default=5.0, gt=0.0)
    success_radius_m: float = Field(default=0.025, gt=0.0)
    touching_post_fails: bool = True

    @model_validator(mode="before")
    @classmethod
    def _all_sensors(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content = dict(content)
        sensors = {**SENSORS, **(content.get("sensors") or {})}
        for topic in SENSORS:
            if topic.strip("/") in content:
                sensors[topic] = content.pop(topic.strip("/"))
        return {**content, "sensors": sensors}

    def without(self, hole: Scenario) -> PushingScenario:
        """This scenario less the regions of ``hole``."""
        if not isinstance(hole, PushingScenario):
            raise ScenarioError(f"scenario {hole.name} is not one of pushing")
        excluded = self.layout.excluded + hole.layout.regions
        return self.model_copy(update={"layout": self.layout.model_copy(update={"excluded": excluded})})

    def draw_layout(self, rng: np.random.Generator) -> EpisodeLayout:
        """Draw an episode's layout; excluded combinations are drawn again.

        Raises:
            ScenarioError: every combination is excluded.
        """
        layout = self.layout
        for _ in range(10_000):
            region = layout.regions[int(rng.integers(len(layout.regions)))]
            start, goal = region.start.draw(rng), region.goal.draw(rng)
            if any(hole.start.holds(start) and hole.goal.holds(goal) for hole in layout.excluded):
                continue
            post, tip = layout.post.draw(rng), layout.tip.draw(rng)
            return EpisodeLayout(object=start, object_yaw=float(rng.uniform(-0.3, 0.3)), goal=goal, post=post, tip=tip)
        raise ScenarioError(f"scenario {self.name}: layout.excluded covers every region: nothing can be drawn")
