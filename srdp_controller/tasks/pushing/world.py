"""Tabletop pushing round a post: the physics of one episode, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from srdp_controller.simulation.world import Outcome, TopicLayout
from srdp_controller.tasks.pushing.expert import PushingExpert, PushingTruth
from srdp_controller.tasks.pushing.scenario import EpisodeLayout, PushingScenario
from srdp_controller.tasks.pushing.spec import POSE, pushing_spec
from srdp_controller.tasks.table.spec import FRAME
from srdp_controller.tasks.table.world import PATH_EVERY, TableWorld

OBJECT_HALF_HEIGHT_M = 0.03
POSE_FIELDS = ("pose.position.x", "pose.position.y", "pose.orientation.z", "pose.orientation.w")
TOPICS = {
    "/object_pose": TopicLayout(POSE, POSE_FIELDS, FRAME),
    "/goal_pose": TopicLayout(POSE, POSE_FIELDS, FRAME, latched=True),
    "/post_pose": TopicLayout(POSE, POSE_FIELDS, FRAME, latched=True),
}


class PushingWorld(TableWorld):
    """One simulated robot; a snapshot is the joints and the object's x, y, yaw."""

    scenario: PushingScenario

    def __init__(self, scenario: PushingScenario, seed: int = 0, gui: bool = False) -> None:
        super().__init__(scenario, pushing_spec(), TOPICS, seed, gui, scenario.payload.tip_friction)

    def _add_bodies(self) -> None:
        b, payload = self._client, self.scenario.payload
        half, orange = payload.half_width_m, [0.85, 0.33, 0.1, 1.0]
        if payload.shape == "box":
            collision = b.createCollisionShape(b.GEOM_BOX, halfExtents=[half, half, OBJECT_HALF_HEIGHT_M])
            visual = b.createVisualShape(b.GEOM_BOX, halfExtents=[half, half, OBJECT_HALF_HEIGHT_M], rgbaColor=orange)
        else:
            height = 2 * OBJECT_HALF_HEIGHT_M
            collision = b.createCollisionShape(b.GEOM_CYLINDER, radius=half, height=height)
            visual = b.createVisualShape(b.GEOM_CYLINDER, radius=half, length=height, rgbaColor=orange)
        self._object = b.createMultiBody(payload.mass_kg, collision, visual)
        b.changeDynamics(self._object, -1, lateralFriction=payload.friction)
        self._post = self._add_post()
        radius, green = self.scenario.success_radius_m, [0.2, 0.7, 0.3, 0.8]
        marker = b.createVisualShape(b.GEOM_CYLINDER, radius=radius, length=0.002, rgbaColor=green)
        self._goal_marker = b.createMultiBody(0.0, -1, marker)

    def _begin(self, rng: np.random.Generator) -> Outcome:
        self.place(self.scenario.draw_layout(rng))
        self._touching = False
        return Outcome(
            metrics={"post_contacts": 0},
            details={"layout": self.layout.model_dump(), "object_path": [], "tip_path": [], "way": ""},
        )

    def place(self, layout: EpisodeLayout) -> None:
        """Put everything where an episode's layout says, at rest."""
        b = self._client
        self._reset_arm(*layout.tip)
        self.layout = layout
        self._place_object(*layout.object, layout.object_yaw)
        b.resetBaseVelocity(self._object, [0.0] * 3, [0.0] * 3)
        self._place_post(self._post, *layout.post)
        b.resetBasePositionAndOrientation(self._goal_marker, [*layout.goal, 0.001], [0.0, 0.0, 0.0, 1.0])

    def _place_object(self, x: float, y: float, yaw: float) -> None:
        b = self._client
        b.resetBasePositionAndOrientation(
            self._object, [x, y, OBJECT_HALF_HEIGHT_M], b.getQuaternionFromEuler([0.0, 0.0, yaw])
        )

    def _true_values(self, topic: str) -> Sequence[float]:
        if topic == "/joint_states":
            return super()._true_values(topic)
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
        return [*super().snapshot(), *self.object_position(), self.object_yaw()]

    def show(self, snapshot: Sequence[float]) -> None:
        """Put arm and object where a snapshot says, without dynamics."""
        super().show(snapshot[:-3])
        self._place_object(*snapshot[-3:])
