"""Tabletop pushing round a post: the physics, the sensors and the actuators of one episode.

Task frame: origin in the middle of the work area on the table top, x from start to goal, y to the
left, z up; metres, radians, simulation seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from srdp_controller.simulation.actuation import DelayedActuator
from srdp_controller.simulation.bullet import connect
from srdp_controller.simulation.faults import FaultInjector
from srdp_controller.simulation.scenario import EpisodeLayout, Scenario, draw_layout
from srdp_controller.simulation.sensors import Measurement, SensorStream
from srdp_controller.tasks.pushing.arm import SimulatedArm

PHYSICS_RATE_HZ = 240
SERVO_EVERY = 2  # physics steps between two inverse-kinematics solutions
BOX_HALF_M = 0.03
POST_RADIUS_M = 0.02
POST_HEIGHT_M = 0.08
WORK_AREA_LOWER_M = (-0.26, -0.17)
WORK_AREA_UPPER_M = (0.26, 0.17)
LEAD_LIMIT_M = 0.03  # the drives' set point never runs further ahead of the tip than this


@dataclass
class EpisodeOutcome:
    """What an episode came to."""

    layout: EpisodeLayout
    success: bool = False
    finished: bool = False
    duration_s: float = 0.0
    post_contacts: int = 0
    way: str = ""
    box_path: list[tuple[float, float]] = field(default_factory=list)
    tip_path: list[tuple[float, float]] = field(default_factory=list)


class PushingWorld:
    """One simulated robot; ``reset`` starts an episode, ``step`` advances the physics by 1/240 s."""

    def __init__(self, scenario: Scenario, gui: bool = False) -> None:
        self.scenario = scenario
        self._client = b = connect(gui)
        b.setTimeStep(1.0 / PHYSICS_RATE_HZ)
        b.setGravity(0.0, 0.0, -9.81)
        plane = b.createCollisionShape(b.GEOM_PLANE)
        self._table = b.createMultiBody(0.0, plane)
        half = [BOX_HALF_M] * 3
        visual = b.createVisualShape(b.GEOM_BOX, halfExtents=half, rgbaColor=[0.85, 0.33, 0.1, 1.0])
        self._box = b.createMultiBody(
            scenario.payload.mass_kg, b.createCollisionShape(b.GEOM_BOX, halfExtents=half), visual
        )
        b.changeDynamics(self._table, -1, lateralFriction=1.0)
        b.changeDynamics(self._box, -1, lateralFriction=scenario.payload.friction)
        self._post = b.createMultiBody(
            0.0,
            b.createCollisionShape(b.GEOM_CYLINDER, radius=POST_RADIUS_M, height=POST_HEIGHT_M),
            b.createVisualShape(
                b.GEOM_CYLINDER, radius=POST_RADIUS_M, length=POST_HEIGHT_M, rgbaColor=[0.25, 0.25, 0.3, 1.0]
            ),
        )
        self._goal_marker = b.createMultiBody(
            0.0,
            -1,
            b.createVisualShape(
                b.GEOM_CYLINDER,
                radius=scenario.success_radius_m,
                length=0.002,
                rgbaColor=[0.2, 0.7, 0.3, 0.8],
            ),
        )
        arm = scenario.arm
        self.arm = SimulatedArm(b, arm.payload_kg, arm.torque_scale, arm.joint_friction)
        b.changeDynamics(self.arm.body, self.arm.tip_link, lateralFriction=scenario.payload.tip_friction)
        self.time_s = 0.0
        self.outcome: EpisodeOutcome
        self.arm.place(0.0, 0.0)
        for _ in range(10):  # Bullet's caches settle in the first steps; states saved before differ after
            b.stepSimulation()
        self._pristine = b.saveState()
        self._rng = np.random.default_rng(0)
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator, layout: EpisodeLayout | None = None) -> EpisodeLayout:
        """Start an episode; everything random in it comes from ``rng``."""
        b = self._client
        scenario = self.scenario
        b.restoreState(self._pristine)  # contacts and velocities of the last episode would leak into this one
        self._rng = rng
        self.layout = layout or draw_layout(scenario.layout, rng)
        self.outcome = EpisodeOutcome(self.layout)
        self.time_s = 0.0
        self._steps = 0
        self._touching = False
        self.arm.place(*self.layout.tip)
        b.resetBasePositionAndOrientation(
            self._box, [*self.layout.box, BOX_HALF_M], b.getQuaternionFromEuler([0.0, 0.0, self.layout.box_yaw])
        )
        b.resetBaseVelocity(self._box, [0.0] * 3, [0.0] * 3)
        b.resetBasePositionAndOrientation(self._post, [*self.layout.post, POST_HEIGHT_M / 2], [0.0, 0.0, 0.0, 1.0])
        b.resetBasePositionAndOrientation(self._goal_marker, [*self.layout.goal, 0.001], [0.0, 0.0, 0.0, 1.0])
        self._target = list(self.layout.tip)
        self.actuator = DelayedActuator(scenario.actuation, rng)
        self.joint_sensor = SensorStream(scenario.joint_states, len(self.arm.joints), rng)
        self.object_sensor = SensorStream(scenario.object_pose, 3, rng)
        self._joint_faults = FaultInjector(scenario.faults, "joint_states")
        self._object_faults = FaultInjector(scenario.faults, "object_pose")
        self._observe()
        return self.layout

    def send(self, velocity: tuple[float, float]) -> None:
        """Accept a planar tool velocity command [m/s] now."""
        self.actuator.send(velocity, self.time_s)

    def step(self) -> None:
        """Advance by one physics step (1/240 s)."""
        dt = 1.0 / PHYSICS_RATE_HZ
        vx, vy = self.actuator.step(self.time_s, dt)
        tip = self.arm.tip_position()
        for axis, velocity in ((0, vx), (1, vy)):
            target = self._target[axis] + velocity * dt
            target = min(max(target, tip[axis] - LEAD_LIMIT_M), tip[axis] + LEAD_LIMIT_M)
            self._target[axis] = min(max(target, WORK_AREA_LOWER_M[axis]), WORK_AREA_UPPER_M[axis])
        if self._steps % SERVO_EVERY == 0:
            self.arm.aim(self._target[0], self._target[1])
        self._client.stepSimulation()
        self._steps += 1
        self.time_s = self._steps / PHYSICS_RATE_HZ
        self._observe()
        self._judge()

    def _observe(self) -> None:
        if self.joint_sensor.due(self.time_s):
            positions, _ = self.arm.joint_states()
            self.joint_sensor.sample(np.array(positions), self.time_s)
        if self.object_sensor.due(self.time_s):
            self.object_sensor.sample(np.array([*self.box_position(), self.box_yaw()]), self.time_s)

    def _judge(self) -> None:
        outcome = self.outcome
        if outcome.finished:
            return
        x, y = self.box_position()
        outcome.duration_s = self.time_s
        if self._steps % 12 == 0:
            outcome.box_path.append((x, y))
            outcome.tip_path.append(self.arm.tip_position())
            touching = bool(self._client.getContactPoints(self._post, self._box)) or bool(
                self._client.getContactPoints(self._post, self.arm.body)
            )
            outcome.post_contacts += touching and not self._touching
            self._touching = touching
        if not outcome.way and x > self.layout.post[0]:
            outcome.way = "left" if y > self.layout.post[1] else "right"
        goal = self.layout.goal
        if math.hypot(x - goal[0], y - goal[1]) <= self.scenario.success_radius_m:
            outcome.success = outcome.finished = True
        elif self.time_s >= self.scenario.time_limit_s:
            outcome.finished = True

    def box_position(self) -> tuple[float, float]:
        """True box position (x, y) [m]."""
        (x, y, _), _ = self._client.getBasePositionAndOrientation(self._box)
        return x, y

    def box_yaw(self) -> float:
        """True box yaw [rad]."""
        _, quaternion = self._client.getBasePositionAndOrientation(self._box)
        return float(self._client.getEulerFromQuaternion(quaternion)[2])

    def joint_measurements(self) -> list[Measurement]:
        """Joint positions (7,) [rad] published since the last call: the newest, unless a fault adds to it."""
        return self._publish(self.joint_sensor, self._joint_faults)

    def object_measurements(self) -> list[Measurement]:
        """Box poses (x, y, yaw) published since the last call: the newest, unless a fault adds to it."""
        return self._publish(self.object_sensor, self._object_faults)

    def _publish(self, sensor: SensorStream, faults: FaultInjector) -> list[Measurement]:
        newest = sensor.published(self.time_s)
        return [] if newest is None else faults.apply(newest, self.time_s)

    def pose(self, joint_positions: Sequence[float], box: tuple[float, float], box_yaw: float) -> None:
        """Put arm [rad] and box [m, rad] where a recording says, without dynamics."""
        b = self._client
        for joint, angle in zip(self.arm.joints, joint_positions, strict=True):
            b.resetJointState(self.arm.body, joint, angle)
        b.resetBasePositionAndOrientation(self._box, [*box, BOX_HALF_M], b.getQuaternionFromEuler([0.0, 0.0, box_yaw]))

    def render(self, width: int = 320, height: int = 240) -> np.ndarray:
        """Picture (height, width, 3) uint8 of the scene, by PyBullet's software renderer."""
        b = self._client
        view = b.computeViewMatrix([0.0, 0.75, 0.62], [0.0, -0.04, 0.02], [0.0, 0.0, 1.0])
        projection = b.computeProjectionMatrixFOV(46.0, width / height, 0.05, 3.0)
        _, _, pixels, _, _ = b.getCameraImage(
            width, height, view, projection, renderer=b.ER_TINY_RENDERER, shadow=1, lightDirection=[1.0, 2.0, 3.0]
        )
        return np.asarray(pixels, dtype=np.uint8).reshape(height, width, 4)[:, :, :3].copy()

    def close(self) -> None:
        """Disconnect from PyBullet."""
        if self._client.isConnected():
            self._client.disconnect()
