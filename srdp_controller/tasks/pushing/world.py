"""Tabletop pushing round a post: the physics of one episode, and what came of it.

Task frame: origin in the middle of the work area on the table top, x from start to goal, y to the
left, z up; metres, radians, simulation seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from srdp_controller.simulation.bullet import connect
from srdp_controller.simulation.world import Outcome, SimulatedWorld, TopicLayout
from srdp_controller.tasks.pushing.arm import SimulatedArm
from srdp_controller.tasks.pushing.expert import PushingExpert, PushingTruth
from srdp_controller.tasks.pushing.scenario import EpisodeLayout, PushingScenario
from srdp_controller.tasks.pushing.spec import FRAME, POSE, WORK_AREA_LOWER_M, WORK_AREA_UPPER_M, pushing_spec

PHYSICS_RATE_HZ = 240
SERVO_EVERY = 2  # physics steps between two inverse-kinematics solutions
PATH_EVERY = 12  # physics steps between two points of an episode's paths
OBJECT_HALF_HEIGHT_M = 0.03
POST_RADIUS_M = 0.02
POST_HEIGHT_M = 0.08
LEAD_LIMIT_M = 0.03  # the drives' set point never runs further ahead of the tip than this
POSE_FIELDS = ("pose.position.x", "pose.position.y", "pose.orientation.z", "pose.orientation.w")


class PushingWorld(SimulatedWorld):
    """One simulated robot; a tick is a physics step of 1/240 s, a snapshot the joints and the object's x, y, yaw."""

    scenario: PushingScenario

    def __init__(self, scenario: PushingScenario, seed: int = 0, gui: bool = False) -> None:
        self._client = b = connect(gui)
        b.setTimeStep(1.0 / PHYSICS_RATE_HZ)
        b.setGravity(0.0, 0.0, -9.81)
        plane = b.createCollisionShape(b.GEOM_PLANE)
        self._table = b.createMultiBody(0.0, plane)
        half, orange = scenario.payload.half_width_m, [0.85, 0.33, 0.1, 1.0]
        if scenario.payload.shape == "box":
            collision = b.createCollisionShape(b.GEOM_BOX, halfExtents=[half, half, OBJECT_HALF_HEIGHT_M])
            visual = b.createVisualShape(b.GEOM_BOX, halfExtents=[half, half, OBJECT_HALF_HEIGHT_M], rgbaColor=orange)
        else:
            height = 2 * OBJECT_HALF_HEIGHT_M
            collision = b.createCollisionShape(b.GEOM_CYLINDER, radius=half, height=height)
            visual = b.createVisualShape(b.GEOM_CYLINDER, radius=half, length=height, rgbaColor=orange)
        self._object = b.createMultiBody(scenario.payload.mass_kg, collision, visual)
        b.changeDynamics(self._table, -1, lateralFriction=1.0)
        b.changeDynamics(self._object, -1, lateralFriction=scenario.payload.friction)
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
        self.arm.place(0.0, 0.0)
        for _ in range(10):  # Bullet's caches settle in the first steps; states saved before differ after
            b.stepSimulation()
        self._pristine = b.saveState()
        joints = TopicLayout("sensor_msgs/msg/JointState", tuple(f"position[{name}]" for name in self.arm.joint_names))
        topics = {
            "/joint_states": joints,
            "/object_pose": TopicLayout(POSE, POSE_FIELDS, FRAME),
            "/goal_pose": TopicLayout(POSE, POSE_FIELDS, FRAME, latched=True),
            "/post_pose": TopicLayout(POSE, POSE_FIELDS, FRAME, latched=True),
        }
        super().__init__(scenario, pushing_spec(), topics, 1.0 / PHYSICS_RATE_HZ, seed)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        self.place(self.scenario.draw_layout(rng))
        self._velocity = (0.0, 0.0)
        self._touching = False
        return Outcome(
            metrics={"post_contacts": 0},
            details={"layout": self.layout.model_dump(), "object_path": [], "tip_path": [], "way": ""},
        )

    def place(self, layout: EpisodeLayout) -> None:
        """Put everything where an episode's layout says, at rest."""
        b = self._client
        b.restoreState(self._pristine)  # contacts and velocities of the last episode would leak into this one
        self.layout = layout
        self.arm.place(*layout.tip)
        self._place_object(*layout.object, layout.object_yaw)
        b.resetBaseVelocity(self._object, [0.0] * 3, [0.0] * 3)
        b.resetBasePositionAndOrientation(self._post, [*layout.post, POST_HEIGHT_M / 2], [0.0, 0.0, 0.0, 1.0])
        b.resetBasePositionAndOrientation(self._goal_marker, [*layout.goal, 0.001], [0.0, 0.0, 0.0, 1.0])
        self._target = list(layout.tip)

    def _place_object(self, x: float, y: float, yaw: float) -> None:
        b = self._client
        b.resetBasePositionAndOrientation(
            self._object, [x, y, OBJECT_HALF_HEIGHT_M], b.getQuaternionFromEuler([0.0, 0.0, yaw])
        )

    def _advance(self, command: Sequence[float]) -> None:
        dt = self.tick_s
        self._velocity = self._tool_velocity(command[0], command[1], dt)
        tip = self.arm.tip_position()
        for axis, velocity in enumerate(self._velocity):
            target = self._target[axis] + velocity * dt
            target = min(max(target, tip[axis] - LEAD_LIMIT_M), tip[axis] + LEAD_LIMIT_M)
            self._target[axis] = min(max(target, WORK_AREA_LOWER_M[axis]), WORK_AREA_UPPER_M[axis])
        if self._ticks % SERVO_EVERY == 0:
            self.arm.aim(self._target[0], self._target[1])
        self._client.stepSimulation()

    def _tool_velocity(self, vx: float, vy: float, dt: float) -> tuple[float, float]:
        """The tool's velocity after ``dt``, within the drives' speed and acceleration limits [m/s]."""
        limits = self.scenario.actuation
        speed = math.hypot(vx, vy)
        if speed > limits.velocity_limit:
            vx, vy = vx * limits.velocity_limit / speed, vy * limits.velocity_limit / speed
        dx, dy = vx - self._velocity[0], vy - self._velocity[1]
        change, most = math.hypot(dx, dy), limits.acceleration_limit * dt
        if change > most:
            dx, dy = dx * most / change, dy * most / change
        return self._velocity[0] + dx, self._velocity[1] + dy

    def _true_values(self, topic: str) -> Sequence[float]:
        if topic == "/joint_states":
            return self.arm.joint_positions()
        if topic == "/object_pose":
            return [*self.object_position(), self.object_yaw()]
        return [*(self.layout.goal if topic == "/goal_pose" else self.layout.post), 0.0]

    def _message(self, topic: str, measured: np.ndarray) -> Sequence[float]:
        values: list[float] = measured.tolist()
        if topic == "/joint_states" or len(values) < 3:
            return values
        x, y, yaw = values
        # an infinite angle, which a fault may give, has no sine
        return [x, y, *((math.sin(yaw / 2), math.cos(yaw / 2)) if math.isfinite(yaw) else (yaw, yaw))]

    def _judge(self) -> None:
        outcome = self.outcome
        x, y = self.object_position()
        if self._ticks % PATH_EVERY == 0:
            outcome.details["object_path"].append((x, y))
            outcome.details["tip_path"].append(self.arm.tip_position())
            touching = bool(self._client.getContactPoints(self._post, self._object)) or bool(
                self._client.getContactPoints(self._post, self.arm.body)
            )
            outcome.metrics["post_contacts"] = int(outcome.metrics["post_contacts"]) + (touching and not self._touching)
            self._touching = touching
            outcome.failed |= touching and self.scenario.touching_post_fails
        post, goal = self.layout.post, self.layout.goal
        if not outcome.details["way"] and x > post[0]:
            outcome.details["way"] = "left" if y > post[1] else "right"
        outcome.success = math.hypot(x - goal[0], y - goal[1]) <= self.scenario.success_radius_m
        outcome.success &= not outcome.failed
        outcome.finished |= outcome.success or outcome.failed
        # only of starts from which the expert tosses a coin; "stuck": the object never passed the post
        if outcome.finished and PushingExpert.is_ambiguous(self.layout.object, post):
            outcome.metrics["ways"] = outcome.details["way"] or "stuck"

    @property
    def truth(self) -> PushingTruth:
        """What the expert is told: the true positions [m]."""
        return PushingTruth(
            tip=self.arm.tip_position(),
            object=self.object_position(),
            goal=self.layout.goal,
            post=self.layout.post,
            shape=self.scenario.payload.shape,
        )

    def object_position(self) -> tuple[float, float]:
        """True position (x, y) [m] of what is pushed."""
        (x, y, _), _ = self._client.getBasePositionAndOrientation(self._object)
        return x, y

    def object_yaw(self) -> float:
        """Its true yaw [rad]."""
        _, quaternion = self._client.getBasePositionAndOrientation(self._object)
        return float(self._client.getEulerFromQuaternion(quaternion)[2])

    def snapshot(self) -> list[float]:
        """Joint positions [rad] and the object's x, y [m], yaw [rad]."""
        return [*self.arm.joint_positions(), *self.object_position(), self.object_yaw()]

    def show(self, snapshot: Sequence[float]) -> None:
        """Put arm and object where a snapshot says, without dynamics."""
        *angles, x, y, yaw = snapshot
        for joint, angle in zip(self.arm.joints, angles, strict=True):
            self._client.resetJointState(self.arm.body, joint, angle)
        self._place_object(x, y, yaw)

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
