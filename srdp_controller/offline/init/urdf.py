"""What a URDF says of its joints: limits of position, velocity and effort."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from srdp_controller.errors import SrdpError


class JointLimit(NamedTuple):
    """Of one joint; 0 where the URDF says nothing."""

    unit: str
    lower: float
    upper: float
    velocity: float
    effort: float


class Urdf(NamedTuple):
    """Limits by joint."""

    path: Path
    limits: dict[str, JointLimit]


def read_urdf(path: Path) -> Urdf:
    """The moving joints of a URDF file.

    Raises:
        SrdpError: no such file, no XML (a xacro is to be expanded first), or no moving joint in it.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except OSError as error:
        raise SrdpError(f"--urdf {path}: {error.strerror or error}") from None
    except ElementTree.ParseError as error:
        raise SrdpError(f"--urdf {path}: not XML ({error}); expand a xacro first: `xacro FILE > robot.urdf`") from None
    limits = {}
    for joint in root.iter("joint"):
        kind, limit = joint.get("type", ""), joint.find("limit")
        if kind not in ("revolute", "continuous", "prismatic"):
            continue

        def number(name: str, limit: ElementTree.Element | None = limit, joint: ElementTree.Element = joint) -> float:
            text = limit.get(name, "0") if limit is not None else "0"
            try:
                return float(text)
            except ValueError:
                raise SrdpError(f"--urdf {path}: joint {joint.get('name')}: {name}={text!r} is no number") from None

        unit = "m" if kind == "prismatic" else "rad"
        limits[joint.get("name", "")] = JointLimit(
            unit, number("lower"), number("upper"), number("velocity"), number("effort")
        )
    if not limits:
        raise SrdpError(f"--urdf {path}: no moving joint in it; expand a xacro first: `xacro FILE > robot.urdf`")
    return Urdf(path, limits)
