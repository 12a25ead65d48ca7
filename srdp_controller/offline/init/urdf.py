"""What a URDF says of its joints: limits of position, velocity and effort, and the chain from its base to its tool."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from scipy.spatial.transform import Rotation

from srdp_controller.errors import SrdpError
from srdp_controller.kinematics import Joint, KinematicChain

TURNING = ("revolute", "continuous")


class JointLimit(NamedTuple):
    """Of one joint; 0 where the URDF says nothing."""

    unit: str
    lower: float
    upper: float
    velocity: float
    effort: float


class Urdf(NamedTuple):
    """Limits by joint; the chain of turning joints that ends at ``tip``, None where there is none from ``base``."""

    origin: str
    limits: dict[str, JointLimit]
    base: str
    tip: str
    chain: KinematicChain | None


def read_urdf(path: Path, tip: str = "") -> Urdf:
    """A URDF file, as of ``parse_urdf``.

    Raises:
        SrdpError: no such file, or as of ``parse_urdf``.
    """
    try:
        return parse_urdf(path.read_bytes(), f"--urdf {path}", tip)
    except OSError as error:
        raise SrdpError(f"--urdf {path}: {error.strerror or error}") from None


def parse_urdf(text: bytes, origin: str, tip: str = "") -> Urdf:
    """The moving joints of a URDF, and its chain to a link.

    Args:
        text: of the URDF.
        origin: where it comes from, for messages.
        tip: the chain's last link; by default the one behind the most turning joints, and what is fixed to it.

    Raises:
        SrdpError: no XML (a xacro is to be expanded first), no moving joint in it, or no such link.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise SrdpError(f"{origin}: not XML ({error}); expand a xacro first: `xacro FILE > robot.urdf`") from None
    limits = {}
    for joint in root.iter("joint"):
        kind, limit = joint.get("type", ""), joint.find("limit")
        if kind not in (*TURNING, "prismatic"):
            continue

        def number(name: str, limit: ElementTree.Element | None = limit, joint: ElementTree.Element = joint) -> float:
            text = limit.get(name, "0") if limit is not None else "0"
            try:
                return float(text)
            except ValueError:
                raise SrdpError(f"{origin}: joint {joint.get('name')}: {name}={text!r} is no number") from None

        unit = "m" if kind == "prismatic" else "rad"
        limits[joint.get("name", "")] = JointLimit(
            unit, number("lower"), number("upper"), number("velocity"), number("effort")
        )
    if not limits:
        raise SrdpError(f"{origin}: no moving joint in it; expand a xacro first: `xacro FILE > robot.urdf`")
    above = {_end(joint, "child"): joint for joint in root.iter("joint") if _end(joint, "child")}
    links = {_end(joint, "parent") for joint in above.values()} | set(above)
    if tip and tip not in links:
        raise SrdpError(
            f"--tip {tip}: no such link in {origin.removeprefix('--urdf ')}; there are {', '.join(sorted(links))}"
        )
    tip = tip or _furthest(above)
    joints = _path(above, tip)
    base = _end(joints[0], "parent") if joints else tip
    return Urdf(origin, limits, base, tip, _chain(joints, origin))


def _end(joint: ElementTree.Element, which: str) -> str:
    """Name of a joint's parent or child."""
    link = joint.find(which)
    return link.get("link", "") if link is not None else ""


def _path(above: dict[str, ElementTree.Element], link: str) -> list[ElementTree.Element]:
    """Joints from the base to a link."""
    found: list[ElementTree.Element] = []
    while link in above and above[link] not in found:
        found.insert(0, above[link])
        link = _end(above[link], "parent")
    return found


def _furthest(above: dict[str, ElementTree.Element]) -> str:
    """The link behind the most turning joints, and on through what alone is fixed to it."""

    def turns(link: str) -> int:
        return sum(joint.get("type") in TURNING for joint in _path(above, link))

    # of those behind as many, the first: no finger is taken for the tool
    link = max(above, key=lambda name: (turns(name), -len(_path(above, name))), default="")
    passed = {link}
    while True:
        below = [name for name, joint in above.items() if _end(joint, "parent") == link]
        if len(below) != 1 or above[below[0]].get("type") != "fixed" or below[0] in passed:
            return link
        link = below[0]
        passed.add(link)


def _chain(joints: list[ElementTree.Element], origin: str) -> KinematicChain | None:
    """Joints that each turn about the z of their own frame, as ``ForwardKinematics`` takes them."""
    turn, shift = Rotation.identity(), np.zeros(3)
    found = []
    for joint in joints:
        shift = shift + turn.apply(_vector(joint.find("origin"), "xyz", origin))
        turn = turn * Rotation.from_euler("xyz", _vector(joint.find("origin"), "rpy", origin))
        if joint.get("type") == "fixed":
            continue
        if joint.get("type") not in TURNING or joint.find("mimic") is not None:
            return None
        axis = _vector(joint.find("axis"), "xyz", origin, (1.0, 0.0, 0.0))
        to_axis, _ = Rotation.align_vectors([axis / np.linalg.norm(axis)], [[0.0, 0.0, 1.0]])
        x, y, z = (float(value) for value in shift)
        roll, pitch, yaw = (float(value) for value in (turn * to_axis).as_euler("xyz"))
        found.append(Joint(name=joint.get("name", ""), translation_m=(x, y, z), rpy_rad=(roll, pitch, yaw)))
        turn, shift = to_axis.inv(), np.zeros(3)
    if not found:
        return None
    x, y, z = (float(value) for value in shift)
    return KinematicChain(base_translation_m=(0.0, 0.0, 0.0), base_yaw_rad=0.0, joints=tuple(found), tip_m=(x, y, z))


def _vector(
    element: ElementTree.Element | None, name: str, origin: str, default: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """Three numbers of an element."""
    text = element.get(name) if element is not None else None
    try:
        values = np.array([float(word) for word in text.split()] if text else default)
    except ValueError:
        values = np.zeros(0)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise SrdpError(f"{origin}: {name}={text!r}; expected three numbers")
    return values
