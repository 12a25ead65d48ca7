"""The arm over its table: physics, drives, sensing and pictures of every task with it.

Task frame: origin in the middle of the work area on the table top, x away from where things begin, y to the left, z up;
metres, radians, simulation seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from srdp_controller.simulation.bullet import connect
from srdp_controller.simulation.world import SimulatedWorld, TopicLayout
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.table.arm import SimulatedArm
from srdp_controller.tasks.table.scenario import TableScenario
from srdp_controller.tasks.table.spec import WORK_AREA_LOWER_M, WORK_AREA_UPPER_M

PHYSICS_RATE_HZ = 240
SERVO_EVERY = 2  # physics steps between two inverse-kinematics solutions
PATH_EVERY = 12  # physics steps between two points of an episode's paths
POST_RADIUS_M = 0.02
POST_HEIGHT_M = 0.08
LEAD_LIMIT_M = 0.03  # the drives' set point never runs further ahead of the tip than this


class TableWorld(SimulatedWorld):
    """One simulated arm; a tick is a physics step of 1/240 s, a snapshot is the joints."""

    scenario: TableScenario

    def __init__(
        self,
        scenario: TableScenario,
        spec: PolicySpec,
        topics: Mapping[str, TopicLayout],
        seed: int = 0,
        gui: bool = False,
        tip_friction: float = 0.5,
    ) -> None:
        """``topics`` beside ``/joint_states``; ``tip_friction`` is the pusher's Coulomb coefficient."""
        self._client = b = connect(gui)
        b.setTimeStep(1.0 / PHYSICS_RATE_HZ)
        b.setGravity(0.0, 0.0, -9.81)
        self._table = b.createMultiBody(0.0, b.createCollisionShape(b.GEOM_PLANE))
        b.changeDynamics(self._table, -1, lateralFriction=1.0)
        self.scenario = scenario
        self._add_bodies()
        arm = scenario.arm
        self.arm = SimulatedArm(b, arm.payload_kg, arm.torque_scale, arm.joint_friction)
        b.changeDynamics(self.arm.body, self.arm.tip_link, lateralFriction=tip_friction)
        self.arm.place(0.0, 0.0)
        for _ in range(10):  # Bullet's caches settle in the first steps; states saved before differ after
            b.stepSimulation()
        self._pristine = b.saveState()
        joints = TopicLayout("sensor_msgs/msg/JointState", tuple(f"position[{name}]" for name in self.arm.joint_names))
        super().__init__(scenario, spec, {"/joint_states": joints, **topics}, 1.0 / PHYSICS_RATE_HZ, seed)

    def _add_bodies(self) -> None:
        """Put on the table what the task needs."""

    def _add_post(self) -> int:
        """A fixed post, to be placed; Bullet's number of it."""
        b = self._client
        colour = [0.25, 0.25, 0.3, 1.0]
        return int(
            b.createMultiBody(
                0.0,
                b.createCollisionShape(b.GEOM_CYLINDER, radius=POST_RADIUS_M, height=POST_HEIGHT_M),
                b.createVisualShape(b.GEOM_CYLINDER, radius=POST_RADIUS_M, length=POST_HEIGHT_M, rgbaColor=colour),
            )
        )

    def _place_post(self, body: int, x: float, y: float) -> None:
        """Put a post at (x, y) [m]."""
        self._client.resetBasePositionAndOrientation(body, [x, y, POST_HEIGHT_M / 2], [0.0, 0.0, 0.0, 1.0])

    def _reset_arm(self, x: float, y: float) -> None:
        """Everything as it was at the start, the arm at rest with its tip at (x, y) [m]."""
        self._client.restoreState(self._pristine)  # contacts and velocities of the last episode would leak into this
        self.arm.place(x, y)
        self._target, self._velocity = [x, y], (0.0, 0.0)

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
        return self.arm.joint_positions()

    def snapshot(self) -> list[float]:
        """Joint positions [rad]."""
        return self.arm.joint_positions()

    def show(self, snapshot: Sequence[float]) -> None:
        """Put the arm where a snapshot says, without dynamics."""
        for joint, angle in zip(self.arm.joints, snapshot, strict=True):
            self._client.resetJointState(self.arm.body, joint, angle)

    def render(self, width: int = 320, height: int = 240) -> np.ndarray:
        """Picture (height, width, 3) uint8 of the scene, by PyBullet's software renderer."""
        b = self._client
        view = b.computeViewMatrix([0.0, 0.75, 0.62], [0.0, -0.04, 0.02], [0.0, 0.0, 1.0])
        projection = b.computeProjectionMatrixFOV(46.0, width / height, 0.05, 3.0)
        _, _, pixels, _, _ = b.getCameraImage(
            width, height, view, projection, renderer=b.ER_TINY_RENDERER, shadow=1, lightDirection=[1.0, 2.0, 3.0]
        )
        return np.asarray(pixels, dtype=np.uint8).reshape(height, width, 4)[:, :, :3].copy()

    def pictures(self, snapshots: Sequence[Sequence[float]]) -> list[np.ndarray]:
        """Pictures (height, width, 3) uint8 of recorded snapshots; closes the world."""
        pictures = []
        for snapshot in snapshots:
            self.show(snapshot)
            pictures.append(self.render())
        self.close()
        return pictures

    def close(self) -> None:
        """Disconnect from PyBullet."""
        if self._client.isConnected():
            self._client.disconnect()
