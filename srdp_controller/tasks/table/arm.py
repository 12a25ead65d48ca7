"""The simulated arm: PyBullet's KUKA iiwa with a pusher fixed to its flange.

Why the iiwa and not the Panda: the arm alone steps three times as fast in PyBullet (no gripper to
simulate, fewer collision meshes), and its seven joints have the torque reserve that makes the
payload of scenario ``heavy`` a disturbance rather than a failure. The base stands beside the work
area so that all of it lies within reach.
"""

from __future__ import annotations

import math
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from srdp_controller.kinematics import Joint, KinematicChain

BASE_POSITION_M = (0.0, -0.56, 0.0)
BASE_YAW_RAD = math.pi / 2
PUSHER_LENGTH_M = 0.22
PUSHER_RADIUS_M = 0.012
FLANGE_OFFSET_M = 0.045
TIP_HEIGHT_M = 0.015
JOINT_TORQUE_LIMITS_NM = (176.0, 176.0, 110.0, 110.0, 110.0, 40.0, 40.0)
JOINT_VELOCITY_LIMITS_RAD_S = (1.71, 1.71, 1.75, 2.27, 2.44, 3.14, 3.14)
READY_POSE_RAD = (0.0, 0.6, 0.0, -1.7, 0.0, 0.85, 0.0)


def _model_path() -> Path:
    import pybullet_data

    return Path(pybullet_data.getDataPath()) / "kuka_iiwa" / "model.urdf"


def _floats(text: str | None) -> tuple[float, float, float]:
    x, y, z = (float(part) for part in (text or "0 0 0").split())
    return x, y, z


def arm_urdf(payload_kg: float) -> str:
    """URDF text of the iiwa with the pusher as its last link; meshes by absolute path."""
    root = ElementTree.parse(_model_path()).getroot()
    for mesh in root.iter("mesh"):
        mesh.set("filename", str(_model_path().parent / str(mesh.get("filename"))))
    middle = f'<origin xyz="0 0 {PUSHER_LENGTH_M / 2}"/>'
    shape = f'<geometry><cylinder radius="{PUSHER_RADIUS_M}" length="{PUSHER_LENGTH_M}"/></geometry>'
    inertia = payload_kg * PUSHER_LENGTH_M**2 / 12
    root.append(
        ElementTree.fromstring(
            f'<link name="pusher"><inertial><mass value="{payload_kg}"/>{middle}'
            f'<inertia ixx="{inertia}" iyy="{inertia}" izz="{inertia / 20}" ixy="0" ixz="0" iyz="0"/></inertial>'
            f"<visual>{middle}{shape}</visual><collision>{middle}{shape}</collision></link>"
        )
    )
    root.append(
        ElementTree.fromstring(
            '<joint name="pusher_joint" type="fixed"><parent link="lbr_iiwa_link_7"/><child link="pusher"/>'
            f'<origin xyz="0 0 {FLANGE_OFFSET_M}"/></joint>'
        )
    )
    return ElementTree.tostring(root, encoding="unicode")


def arm_chain() -> KinematicChain:
    """Chain from the task frame (table top, middle of the work area) to the pusher's tip."""
    joints = []
    for joint in ElementTree.parse(_model_path()).getroot().findall("joint"):
        if joint.get("type") != "revolute":
            continue
        origin = joint.find("origin")
        assert origin is not None
        joints.append(
            Joint(
                name=str(joint.get("name")),
                translation_m=_floats(origin.get("xyz")),
                rpy_rad=_floats(origin.get("rpy")),
            )
        )
    return KinematicChain(
        base_translation_m=BASE_POSITION_M,
        base_yaw_rad=BASE_YAW_RAD,
        joints=tuple(joints),
        tip_m=(0.0, 0.0, FLANGE_OFFSET_M + PUSHER_LENGTH_M),
    )


class SimulatedArm:
    """Position-controlled, torque-limited arm that follows a planar tool velocity."""

    def __init__(self, client: Any, payload_kg: float, torque_scale: float, joint_friction: float) -> None:
        self._client = client
        handle, path = tempfile.mkstemp(suffix=".urdf")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(arm_urdf(payload_kg))
            self.body = client.loadURDF(
                path,
                BASE_POSITION_M,
                client.getQuaternionFromEuler([0.0, 0.0, BASE_YAW_RAD]),
                useFixedBase=True,
            )
        finally:
            os.unlink(path)
        b = self._client
        self.joints = [
            i for i in range(b.getNumJoints(self.body)) if b.getJointInfo(self.body, i)[2] == b.JOINT_REVOLUTE
        ]
        self.joint_names = [b.getJointInfo(self.body, i)[1].decode() for i in self.joints]
        self.tip_link = b.getNumJoints(self.body) - 1
        self._down = b.getQuaternionFromEuler([math.pi, 0.0, 0.0])
        self._forces = [limit * torque_scale for limit in JOINT_TORQUE_LIMITS_NM]
        for link in range(-1, self.tip_link):  # only the pusher touches anything
            b.setCollisionFilterGroupMask(self.body, link, 0, 0)
        for joint in self.joints:
            b.changeDynamics(self.body, joint, jointDamping=joint_friction)

    def place(self, x: float, y: float) -> None:
        """Put the tip at (x, y) [m] without dynamics."""
        b = self._client
        for joint, angle in zip(self.joints, READY_POSE_RAD, strict=True):
            b.resetJointState(self.body, joint, angle)
        for _ in range(20):
            solution = self._inverse(x, y)
            for joint, angle in zip(self.joints, solution, strict=True):
                b.resetJointState(self.body, joint, angle)
        self._hold(solution)

    def _inverse(self, x: float, y: float) -> tuple[float, ...]:
        height = TIP_HEIGHT_M + PUSHER_LENGTH_M  # PyBullet steers the link frame, at the flange
        return self._client.calculateInverseKinematics(
            self.body, self.tip_link, [x, y, height], self._down, maxNumIterations=20, residualThreshold=1e-5
        )

    def _hold(self, angles: tuple[float, ...]) -> None:
        self._client.setJointMotorControlArray(
            self.body, self.joints, self._client.POSITION_CONTROL, targetPositions=angles, forces=self._forces
        )

    def aim(self, x: float, y: float) -> None:
        """Let the drives follow the tip position (x, y) [m]."""
        self._hold(self._inverse(x, y))

    def joint_positions(self) -> list[float]:
        """Joint positions [rad], base joint first."""
        return [state[0] for state in self._client.getJointStates(self.body, self.joints)]

    def tip_position(self) -> tuple[float, float]:
        """True tip position (x, y) [m]."""
        x, y, _ = self._client.getLinkState(self.body, self.tip_link)[0]
        return x, y
