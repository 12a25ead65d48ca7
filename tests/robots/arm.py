"""(b) Seven joints and a gripper: joint velocities and an opening go out, the object's pose comes in.

The camera gives an orientation as q or as -q, which is the same rotation, as it likes.
"""

from __future__ import annotations

import math
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
    PoseReference,
    RelativePoseSource,
    RotationSource,
    TopicSource,
)
from srdp_controller.tasks.task import Task

AXES = "zyzyzyz"
LENGTHS = (0.34, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1)  # each along z after its joint [m]
HOME = np.array([0.0, 0.5, 0.0, 1.2, 0.0, 1.4416, 0.0])  # the tool looks down [rad]
RANGE = 0.9  # of each joint about HOME [rad]
FASTEST, OPEN = 0.7, 0.08  # rad/s, m
JOINTS = tuple(f"joint_{number}" for number in range(1, 8))
POSE, STATES = "geometry_msgs/msg/PoseStamped", "sensor_msgs/msg/JointState"


def forward(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tool position (3,) [m], its rotation (3, 3) and Jacobian (6, 7) for joint angles (7,) [rad]."""
    rotation, position = np.eye(3), np.zeros(3)
    axes, origins = np.empty((7, 3)), np.empty((7, 3))
    for number, (axis, angle, length) in enumerate(zip(AXES, joints, LENGTHS, strict=True)):
        axes[number], origins[number] = rotation[:, "xyz".index(axis)], position
        c, s = math.cos(angle), math.sin(angle)
        turn = (
            [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]
            if axis == "z"
            else [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]
        )
        rotation = rotation @ turn
        position = position + length * rotation[:, 2]
    return position, rotation, np.vstack([np.cross(axes, position - origins).T, axes.T])


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Quaternion (x, y, z, w) of a rotation matrix; from its most significant entry, so that none is divided by 0."""
    m = rotation
    products = np.array(  # 4 q q^T
        [
            [1 + m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], 1 - m[0, 0] + m[1, 1] - m[2, 2], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 - m[0, 0] - m[1, 1] + m[2, 2], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    row = products[int(np.argmax(np.diag(products)))]
    return row / np.linalg.norm(row)


def arm_spec() -> PolicySpec:
    tool = PoseReference(topic="/tool_pose", type=POSE, frame="base", field="pose")

    def seen_from_tool(axis: Any) -> RelativePoseSource:
        return RelativePoseSource(
            topic="/object_pose", type=POSE, frame="base", max_age=0.5, field="pose", to=tool, coordinate=axis
        )

    def turned(component: int) -> RotationSource:
        return RotationSource(
            topic="/object_pose",
            type=POSE,
            frame="base",
            max_age=0.5,
            field="pose.orientation",
            form="six_dimensional",
            component=component,
        )

    observation = [
        ObservationComponent(
            name=joint,
            unit="rad",
            source=TopicSource(topic="/joint_states", type=STATES, field=f"position[{joint}]"),
            lower=-3.0,
            upper=3.0,
            centre=centre,
            scale=0.4,
        )
        for joint, centre in zip(JOINTS, HOME, strict=True)
    ]
    observation.append(
        ObservationComponent(
            name="opening",
            unit="m",
            source=TopicSource(topic="/joint_states", type=STATES, field="position[gripper]"),
            lower=-0.01,
            upper=0.1,
            centre=0.04,
            scale=0.03,
        )
    )
    observation += [
        ObservationComponent(
            name=f"object_{axis}",
            unit="m",
            source=seen_from_tool(axis),
            lower=-1.0,
            upper=1.0,
            scale=0.1,
        )
        for axis in "xyz"
    ]
    observation += [
        ObservationComponent(name=f"object_r{i}", unit="1", source=turned(i), lower=-1.1, upper=1.1, scale=0.5)
        for i in range(6)
    ]
    velocities = tuple(
        ActionComponent(
            name=f"{joint}_velocity",
            unit="rad/s",
            field=f"data[{number}]",
            lower=-0.8,
            upper=0.8,
            scale=0.4,
            max_acceleration=20.0,
            measured_by=joint,
            position_lower=HOME[number] - RANGE,
            position_upper=HOME[number] + RANGE,
        )
        for number, joint in enumerate(JOINTS)
    )
    opening = ActionComponent(
        name="gripper",
        unit="m",
        field="data[0]",
        lower=0.0,
        upper=OPEN,
        centre=0.04,
        scale=0.03,
        max_rate=0.4,
        measured_by="opening",
    )
    return PolicySpec(
        task="arm",
        observation=tuple(observation),
        action_groups=(
            ActionGroup(
                name="joints",
                kind="joint_velocity",
                components=velocities,
                output=Output(topic="/arm_controller/commands", type=ARRAY),
                on_hold="zero",
            ),
            ActionGroup(
                name="gripper",
                kind="gripper",
                components=(opening,),
                output=Output(topic="/gripper/commands", type=ARRAY),
                on_hold="last",
            ),
        ),
        horizon=8,
        control_rate_hz=20.0,
    )


class ArmWorld(SimulatedWorld):
    """Joints that follow their velocities, a gripper that follows its opening, an object that is to be grasped."""

    flips = True  # the camera's sign is drawn

    def __init__(self, scenario: Scenario, seed: int) -> None:
        place = tuple(f"pose.position.{axis}" for axis in "xyz")
        pose = TopicLayout(POSE, (*place, *(f"pose.orientation.{axis}" for axis in "xyzw")), frame="base")
        states = TopicLayout(STATES, tuple(f"position[{name}]" for name in (*JOINTS, "gripper")))
        topics = {"/joint_states": states, "/tool_pose": pose, "/object_pose": pose}
        super().__init__(scenario, arm_spec(), topics, tick_s=0.01, seed=seed)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        goal = HOME + rng.uniform(-0.35, 0.35, 7)
        self.object_position, self.object_rotation, _ = forward(goal)
        self.joints, self.opening, self.held_s = HOME + rng.uniform(-0.2, 0.2, 7), OPEN, 0.0
        self._signs = np.random.default_rng(int(rng.integers(2**31)))
        return Outcome()

    def _start_command(self) -> Sequence[float]:
        return (0.0,) * 7 + (OPEN,)

    def _advance(self, command: Sequence[float]) -> None:
        dt = self.tick_s
        self.joints = self.joints + dt * np.array(command[:7])
        self.opening += min(max(command[7] - self.opening, -0.3 * dt), 0.3 * dt)
        self.distance = float(np.linalg.norm(forward(self.joints)[0] - self.object_position))
        self.held_s = self.held_s + dt if self.opening < 0.04 and self.distance < 0.05 else 0.0

    def _true_values(self, topic: str) -> Sequence[float]:
        if topic == "/joint_states":
            return (*self.joints, self.opening)
        if topic == "/tool_pose":
            position, rotation, _ = forward(self.joints)
            return (*position, *quaternion(rotation))
        return (*self.object_position, *quaternion(self.object_rotation))

    def _message(self, topic: str, measured: np.ndarray) -> Sequence[float]:
        if topic == "/object_pose" and self._signs.random() < 0.5 and self.flips:
            measured = np.concatenate([measured[:3], -measured[3:]])
        return measured.tolist()

    def _judge(self) -> None:
        self.outcome.success = self.held_s >= 1.0
        self.outcome.finished = self.outcome.finished or self.outcome.success or self.time_s >= 4.0

    @property
    def truth(self) -> ArmWorld:
        return self


class GraspExpert:
    """Moves as the Jacobian says until tool and object coincide, and closes the gripper on the way."""

    def reset(self) -> None:
        pass

    def act(self, truth: Any) -> np.ndarray:
        position, rotation, jacobian = forward(truth.joints)
        missing = truth.object_position - position
        x, y, z, w = quaternion(truth.object_rotation @ rotation.T)
        turn = 2.0 * math.copysign(1.0, w) * np.array([x, y, z])
        wish = 5.0 * np.concatenate([missing, turn])
        velocities = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 0.01 * np.eye(6), wish)
        opening = min(max(2.0 * (float(np.linalg.norm(missing)) - 0.03), 0.0), OPEN)
        return np.array([*np.clip(velocities, -FASTEST, FASTEST), opening])


class Arm(Task):
    def spec(self) -> PolicySpec:
        return arm_spec()

    def make_world(self, scenario: Scenario, seed: int = 0, gui: bool = False) -> ArmWorld:
        return ArmWorld(scenario, seed)

    def expert(self, rng: np.random.Generator) -> GraspExpert:
        return GraspExpert()
