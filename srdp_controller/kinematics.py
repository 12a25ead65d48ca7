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


NORM_TOLERANCE = 1e-2


def unit_quaternion(x: float, y: float, z: float, w: float) -> tuple[float, float, float, float]:
    """The rotation's quaternion (x, y, z, w) of norm 1 whose first of w, x, y, z that is not 0 is positive.

    Raises:
        ValueError: its norm is not within ``NORM_TOLERANCE`` of 1, so that it is no rotation.
    """
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if not abs(norm - 1.0) <= NORM_TOLERANCE:
        raise ValueError(f"its quaternion has norm {norm:.4g}, expected 1")
    if (w or x or y or z) < 0.0:
        norm = -norm
    return x / norm, y / norm, z / norm, w / norm


def six_dimensional(x: float, y: float, z: float, w: float) -> tuple[float, float, float, float, float, float]:
    """First and second column of a unit quaternion's rotation matrix (Zhou et al., CVPR 2019)."""
    return (
        1.0 - 2.0 * (y * y + z * z),
        2.0 * (x * y + z * w),
        2.0 * (x * z - y * w),
        2.0 * (x * y - z * w),
        1.0 - 2.0 * (x * x + z * z),
        2.0 * (y * z + x * w),
    )


def yaw(x: float, y: float, z: float, w: float) -> float:
    """Rotation about z [rad] of a unit quaternion, yaw of URDF's roll, pitch, yaw."""
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def rotation_numbers(form: str, quaternion: Sequence[float]) -> Sequence[float]:
    """A quaternion (x, y, z, w) as ``canonical`` (4), ``six_dimensional`` (6) or ``yaw`` (1) numbers.

    Raises:
        ValueError: it is no rotation.
    """
    x, y, z, w = quaternion
    turn = unit_quaternion(x, y, z, w)
    if form == "canonical":
        return turn
    return six_dimensional(*turn) if form == "six_dimensional" else (yaw(*turn),)


def relative_pose(pose: Sequence[float], to: Sequence[float]) -> tuple[float, ...]:
    """``pose`` seen from ``to``, both (x, y, z [m], quaternion x, y, z, w) in one frame.

    Returns:
        x, y, z [m], yaw [rad] and the six-dimensional rotation (10 numbers).

    Raises:
        ValueError: one of the quaternions is no rotation.
    """
    px, py, pz, x, y, z, w = pose
    tx, ty, tz, u, v, s, c = to
    x, y, z, w = unit_quaternion(x, y, z, w)
    u, v, s, c = unit_quaternion(u, v, s, c)
    dx, dy, dz = px - tx, py - ty, pz - tz
    a, b, g, d, e, f = six_dimensional(u, v, s, c)
    i, j, k = b * f - g * e, g * d - a * f, a * e - b * d  # the third column
    turn = unit_quaternion(
        c * x - u * w - v * z + s * y,
        c * y - v * w - s * x + u * z,
        c * z - s * w - u * y + v * x,
        c * w + u * x + v * y + s * z,
    )
    return (
        a * dx + b * dy + g * dz,
        d * dx + e * dy + f * dz,
        i * dx + j * dy + k * dz,
        yaw(*turn),
        *six_dimensional(*turn),
    )
