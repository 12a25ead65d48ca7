"""(d) One action: a vertical slide that presses up against a spring until a force sensor reads the wanted force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.simulation.world import Outcome, SimulatedWorld, TopicLayout
from srdp_controller.spec import (
    ARRAY,
    ActionComponent,
    ActionGroup,
    ObservationComponent,
    Output,
    PolicySpec,
    TopicSource,
)
from srdp_controller.tasks.task import Task

MASS, DAMPING = 2.0, 40.0  # kg, N s/m
STIFFNESS, CONTACT = 500.0, 0.1  # of the spring [N/m], and where it begins [m]
WEIGHT = 9.81 * MASS  # what holds the slide still [N]


def press_spec() -> PolicySpec:
    states = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
    height = TopicSource(**states, field="position[slide]")
    speed = TopicSource(**states, field="velocity[slide]")
    force = TopicSource(topic="/wrench", type="geometry_msgs/msg/WrenchStamped", frame="tool", field="wrench.force.z")
    wanted = TopicSource(topic="/wanted_force", type="std_msgs/msg/Float64", field="data")
    push = ActionComponent(
        name="push", unit="N", field="data[0]", lower=0.0, upper=60.0, centre=30.0, scale=10.0, max_rate=1000.0
    )
    return PolicySpec(
        task="press",
        observation=(
            ObservationComponent(
                name="height", unit="m", source=height, lower=-0.05, upper=0.3, centre=0.08, scale=0.04
            ),
            ObservationComponent(name="speed", unit="m/s", source=speed, lower=-3.0, upper=3.0, scale=0.2),
            ObservationComponent(name="force", unit="N", source=force, lower=-9.0, upper=99.0, centre=8.0, scale=8.0),
            ObservationComponent(name="wanted", unit="N", source=wanted, lower=0.0, upper=50.0, centre=12.0, scale=5.0),
        ),
        action_groups=(
            ActionGroup(
                name="slide",
                kind="joint_effort",
                components=(push,),
                output=Output(topic="/effort_controller/commands", type=ARRAY),
                on_hold=WEIGHT,
            ),
        ),
        horizon=8,
        control_rate_hz=20.0,
    )


class PressWorld(SimulatedWorld):
    """The physics; sensing, delays and faults are the base's and come from the scenario."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        topics = {
            "/joint_states": TopicLayout("sensor_msgs/msg/JointState", ("position[slide]", "velocity[slide]")),
            "/wrench": TopicLayout("geometry_msgs/msg/WrenchStamped", ("wrench.force.z",), frame="tool"),
            "/wanted_force": TopicLayout("std_msgs/msg/Float64", ("data",)),
        }
        super().__init__(scenario, press_spec(), topics, tick_s=0.01, seed=seed)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        self.height, self.speed, self.held_s = float(rng.uniform(0.0, 0.08)), 0.0, 0.0
        self.wanted = float(rng.uniform(6.0, 18.0))
        return Outcome()

    @property
    def force(self) -> float:
        return max(0.0, STIFFNESS * (self.height - CONTACT))

    def _advance(self, command: Sequence[float]) -> None:
        dt = self.tick_s
        self.speed += dt * (command[0] - WEIGHT - self.force - DAMPING * self.speed) / MASS
        self.height += dt * self.speed
        if self.height < 0.0:  # the lower stop
            self.height = self.speed = 0.0
        self.held_s = self.held_s + dt if abs(self.force - self.wanted) < 1.0 else 0.0

    def _true_values(self, topic: str) -> Sequence[float]:
        return {"/joint_states": (self.height, self.speed), "/wrench": (self.force,), "/wanted_force": (self.wanted,)}[
            topic
        ]

    def _judge(self) -> None:
        self.outcome.success = self.held_s >= 0.6
        self.outcome.finished = self.outcome.finished or self.outcome.success or self.time_s >= 3.0
        self.outcome.metrics["error_n"] = abs(self.force - self.wanted)

    @property
    def truth(self) -> PressWorld:
        return self


class PressExpert:
    """Carries the weight and the wanted force, and damps the rest."""

    def reset(self) -> None:
        pass

    def act(self, truth: Any) -> np.ndarray:
        missing = CONTACT + truth.wanted / STIFFNESS - truth.height
        push = WEIGHT + truth.wanted + 200.0 * missing - 20.0 * truth.speed
        return np.array([min(max(push, 0.0), 60.0)])


class Press(Task):
    def spec(self) -> PolicySpec:
        return press_spec()

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> PressWorld:
        return PressWorld(scenario, seed)

    def expert(self, rng: np.random.Generator) -> PressExpert:
        return PressExpert()
