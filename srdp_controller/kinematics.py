"""Forward kinematics of a serial chain in scalar Python, for the control loop's observation.

A seven-joint chain costs about ten microseconds and allocates nothing but floats, so that the
controller can observe the tool centre point from ``/joint_states`` alone, as a real arm's driver
publishes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

Vector3 = tuple[float, float, float]


class Joint(BaseModel):
    """One revolute joint: a fixed transform from its parent, then a rotation about its own z axis."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    translation_m: Vector3
    rpy_rad: Vector3 = Field(description="roll, pitch, yaw of the fixed transform, URDF convention")


class KinematicChain(BaseModel):
    """A serial chain from the task frame to a tool centre point (lengths in m, angles in rad)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_translation_m: Vector3
    base_yaw_rad: float
    joints: tuple[Joint, ...] = Field(min_length=1)
    tip_m: Vector3 = Field(description="tool centre point in the last joint's frame")


def rotation_matrix(roll: float, pitch: float, yaw: float) -> tuple[Vector3, Vector3, Vector3]:
    """Rotation matrix (rows) of URDF roll, pitch, yaw in rad: Rz(yaw) Ry(pitch) Rx(roll)."""
    cr, sr = math.cos(roll), math.sin(roll)
    cp, sp = math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    return (
        (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        (-sp, cp * sr, cp * cr),
    )


class ForwardKinematics:
    """Position of the tool centre point of a ``KinematicChain``.

    The tip is carried backwards from the last frame to the task frame, a vector through each joint,
    so no 4x4 matrix is ever multiplied.
    """

    def __init__(self, chain: KinematicChain) -> None:
        self._tip = chain.tip_m
        fixed = []
        for joint in reversed(chain.joints):
            (a, b, c), (d, e, f), (g, h, i) = rotation_matrix(*joint.rpy_rad)
            fixed.append((a, b, c, d, e, f, g, h, i, *joint.translation_m))
        self._fixed = tuple(fixed)
        self._base = (*chain.base_translation_m, math.cos(chain.base_yaw_rad), math.sin(chain.base_yaw_rad))
        self.joint_names = tuple(joint.name for joint in chain.joints)

    def tip_position(self, joint_positions: Sequence[float]) -> Vector3:
        """Tip position in the task frame [m] for joint angles [rad], base joint first."""
        x, y, z = self._tip
        cos, sin = math.cos, math.sin
        index = len(joint_positions)
        for a, b, c, d, e, f, g, h, i, tx, ty, tz in self._fixed:
            index -= 1
            angle = joint_positions[index]
            cosine, sine = cos(angle), sin(angle)
            x, y = cosine * x - sine * y, sine * x + cosine * y
            x, y, z = a * x + b * y + c * z + tx, d * x + e * y + f * z + ty, g * x + h * y + i * z + tz
        bx, by, bz, cosine, sine = self._base
        return cosine * x - sine * y + bx, sine * x + cosine * y + by, z + bz
