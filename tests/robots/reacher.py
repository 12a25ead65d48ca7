"""(c) Joint positions: a planar arm of three joints; its chunks go out as JointTrajectory messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.simulation.world import Outcome, SimulatedWorld, TopicLayout
from srdp_controller.spec import (
    TRAJECTORY,
    ActionComponent,
    ActionGroup,
    ObservationComponent,
    Output,
    PolicySpec,
    TopicSource,
)
from srdp_controller.tasks.task import Task

LINKS = np.array([0.3, 0.25, 0.15])  # m
HOME = np.array([0.6, 0.8, 0.5])  # rad
STEP_S = 0.05
FASTEST = 1.5  # rad/s
JOINTS = ("shoulder", "elbow", "wrist")


def tip(joints: np.ndarray) -> np.ndarray:
    """Position (2,) [m] of the tip for joint angles (3,) [rad]."""
    angles = np.cumsum(joints)
    return np.array([LINKS @ np.cos(angles), LINKS @ np.sin(angles)])


def goal_joints(target: np.ndarray) -> np.ndarray:
    """Joint angles (3,) from HOME that bring the tip to a target (2,), by damped least squares."""
    joints = HOME.copy()
    for _ in range(60):
        angles = np.cumsum(joints)
        columns = np.array([-LINKS * np.sin(angles), LINKS * np.cos(angles)])
        jacobian = np.cumsum(columns[:, ::-1], axis=1)[:, ::-1]  # a joint moves every link after it
        error = target - tip(joints)
        joints += jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-3 * np.eye(2), 0.5 * error)
    return joints


def reacher_spec() -> PolicySpec:
    states = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
    target = {"topic": "/target", "type": "geometry_msgs/msg/PointStamped", "frame": "base", "max_age": 1.0}
    measured = [
        ObservationComponent(
            name=joint,
            unit="rad",
            source=TopicSource(**states, field=f"position[{joint}]"),
            lower=-3.0,
            upper=3.0,
            centre=centre,
            scale=0.4,
        )
        for joint, centre in zip(JOINTS, HOME, strict=True)
    ]
    aim = [
        ObservationComponent(
            name=f"target_{axis}",
            unit="m",
            source=TopicSource(**target, field=f"point.{axis}"),
            lower=-1.0,
            upper=1.0,
            centre=centre,
            scale=0.08,
        )
        for axis, centre in zip("xy", tip(HOME), strict=True)
    ]
    commands = tuple(
        ActionComponent(
            name=f"{joint}_position",
            unit="rad",
            field=f"positions[{joint}]",
            lower=-2.6,
            upper=2.6,
            centre=centre,
            scale=0.4,
            max_velocity=2.0,
            max_acceleration=40.0,
            measured_by=joint,
        )
        for joint, centre in zip(JOINTS, HOME, strict=True)
    )
    return PolicySpec(
        task="reacher",
        observation=(*measured, *aim),
        action_groups=(
            ActionGroup(
                name="arm",
                kind="joint_position",
                components=commands,
                output=Output(topic="/joint_trajectory_controller/joint_trajectory", type=TRAJECTORY),
                on_hold="measured",
            ),
        ),
        horizon=8,
        control_rate_hz=1.0 / STEP_S,
    )


class ReacherWorld(SimulatedWorld):
    """Joints that go to their set points; between a trajectory's points the robot node interpolates."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        topics = {
            "/joint_states": TopicLayout("sensor_msgs/msg/JointState", tuple(f"position[{joint}]" for joint in JOINTS)),
            "/target": TopicLayout("geometry_msgs/msg/PointStamped", ("point.x", "point.y"), frame="base"),
        }
        super().__init__(scenario, reacher_spec(), topics, tick_s=0.01, seed=seed)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        self.joints = HOME + rng.uniform(-0.4, 0.4, 3)
        self.target = tip(HOME + rng.uniform(-0.5, 0.5, 3))
        self.held_s = 0.0
        return Outcome()

    def _start_command(self) -> Sequence[float]:
        return self.joints.tolist()

    def _advance(self, command: Sequence[float]) -> None:
        most = FASTEST * self.tick_s
        self.joints = self.joints + np.clip(np.array(command) - self.joints, -most, most)
        self.distance = float(np.linalg.norm(tip(self.joints) - self.target))
        self.held_s = self.held_s + self.tick_s if self.distance < 0.05 else 0.0

    def _true_values(self, topic: str) -> Sequence[float]:
        return (self.joints if topic == "/joint_states" else self.target).tolist()

    def _judge(self) -> None:
        self.outcome.success = self.held_s >= 1.0
        self.outcome.finished = self.outcome.finished or self.outcome.success or self.time_s >= 4.0

    @property
    def truth(self) -> ReacherWorld:
        return self


class ReachExpert:
    """Goes straight to the joint angles that bring the tip to the target."""

    def reset(self) -> None:
        self._goal: np.ndarray | None = None

    def act(self, truth: Any) -> np.ndarray:
        if self._goal is None:
            self._goal = goal_joints(truth.target)
        most = FASTEST * STEP_S
        return truth.joints + np.clip(self._goal - truth.joints, -most, most)


class Reacher(Task):
    def spec(self) -> PolicySpec:
        return reacher_spec()

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> ReacherWorld:
        return ReacherWorld(scenario, seed)

    def expert(self, rng: np.random.Generator) -> ReachExpert:
        return ReachExpert()
