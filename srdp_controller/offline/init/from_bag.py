"""A draft from an MCAP bag: which topics are observed and commanded, and what each command does to which joint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from srdp_controller.errors import SrdpError
from srdp_controller.kinematics import ForwardKinematics, relative_pose, rotation_numbers
from srdp_controller.messages import JOINT_STATE
from srdp_controller.offline.init.draft import DECIDE, MARGIN, Draft, commanded, measured, outward, rounded
from srdp_controller.offline.init.urdf import Urdf, parse_urdf
from srdp_controller.recordings.mcap_file import bag_files
from srdp_controller.recordings.survey import (
    DESCRIPTION_TOPIC,
    TopicSurvey,
    looks_like_commands,
    read_description,
    survey,
)
from srdp_controller.spec import ARRAY, FIELD_UNITS, JOG, TRAJECTORY, TWIST
from srdp_controller.spec import POSE as POSE_FIELDS

SENSORS = re.compile(
    r"^(sensor_msgs/msg/(JointState|Imu|Range|Temperature|FluidPressure)|geometry_msgs/msg/\w+|nav_msgs/msg/Odometry"
    r"|std_msgs/msg/(Float|Int|UInt|Bool)\w*)$"
)
CLOSE = 0.6  # error of a joint's velocity, of the command's spread, above which one is not the other
FOLLOWS = 0.8  # least correlation of a command with what it commands
GAP_S = 0.5
HAND = r"grip|finger|hand"
FASTER = 1.5  # than the demonstrator ever changed a command: a policy may
SLOW = 0.5  # m/s, rad/s or rad: of what nothing is known
POSE = "geometry_msgs/msg/PoseStamped"


@dataclass
class Motion:
    """Positions of joints at times; what commands are compared with."""

    times: np.ndarray
    positions: dict[str, np.ndarray]

    def reach(self, joint: str) -> tuple[float, float]:
        """Limits around where a joint was, as those of its observation."""
        return outward(float(self.positions[joint].min()), float(self.positions[joint].max()), MARGIN)

    def at(self, joint: str, times: np.ndarray) -> np.ndarray:
        """Positions (n,) at times (n,) [s]."""
        return np.interp(times, self.times, self.positions[joint])


class Wanted(NamedTuple):
    """What the user said of a spec; what is empty is found out.

    Attributes:
        observe: topics that are observed.
        command: topics that are commanded on.
        tool: topic of the tool's pose: positions of other poses in its frame are seen from it.
        tip: link of the URDF that is the tool.
        rate_hz: of the actions.
        urdf: of the robot.
    """

    observe: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    tool: str = ""
    tip: str = ""
    rate_hz: float | None = None
    urdf: Urdf | None = None


def draft_from_bag(
    task: str, path: Path, wanted: Wanted, silent: Mapping[str, str] = MappingProxyType({}), standing: bool = False
) -> Draft:
    """A spec's draft from MCAP bags.

    Without a ``urdf`` the bag's own ``/robot_description`` is looked at. ``silent`` are topics of commands (topic ->
    type) that somebody listens to, and on which nobody spoke. Of a robot that is ``standing`` what never changes is
    observed too.

    Raises:
        SrdpError: no bag, a topic that was named is not in it, or none is recognised as command or observation.
    """
    files = bag_files(path)
    topics, (observe, command, tool, tip, rate_hz, urdf) = survey(files), wanted
    described = read_description(files) if urdf is None else ""
    if described:
        urdf = parse_urdf(described.encode(), DESCRIPTION_TOPIC, tip)
    elif tip and urdf is None:
        raise SrdpError(f"--tip {tip}: a link of which URDF? Give --urdf, or record {DESCRIPTION_TOPIC}")
    for topic, kind in silent.items():
        topics.setdefault(topic, TopicSurvey(topic, kind, stamped=False))
    there = ", ".join(f"{topic} ({one.type})" for topic, one in sorted(topics.items()))
    for name in (*observe, *command, *((tool,) if tool else ())):
        if name not in topics:
            raise SrdpError(f"{path}: no topic {name}; the bag has {there}")
    commands = list(command) or [topic for topic, one in topics.items() if looks_like_commands(one)]
    for topic in commands:
        if topics[topic].type not in (TWIST, ARRAY, TRAJECTORY, JOG):
            raise SrdpError(
                f"--command {topic} is {topics[topic].type}; commands are {', '.join((TWIST, ARRAY, TRAJECTORY, JOG))}"
            )
    if not commands:
        raise SrdpError(f"{path}: no topic looks like commands; name them with --command TOPIC; the bag has {there}")
    sensors = list(observe) or [
        topic for topic, one in topics.items() if topic not in commands and SENSORS.match(one.type) and one.rows
    ]
    if not sensors:
        raise SrdpError(f"{path}: no topic looks like a sensor; name them with --observe TOPIC; the bag has {there}")
    if tool and topics[tool].type != POSE:
        raise SrdpError(f"--tool {tool} is {topics[tool].type}; expected {POSE}")
    spoken = [topics[topic] for topic in commands if topics[topic].rows]
    slowest = min(spoken or [topics[topic] for topic in sensors], key=lambda one: one.rate_hz)
    rate_from = f"{slowest.topic} comes at {slowest.rate_hz:.3g} Hz"
    draft = Draft(
        task,
        str(path),
        rounded(rate_hz or _round_rate(slowest.rate_hz), 3),
        "as you said" if rate_hz else rate_from if spoken else f"{DECIDE}: nobody commanded; {rate_from}",
    )
    names: set[str] = set()
    for topic in sensors:
        one, seen_from = topics[topic], None
        if tool and one.type == POSE and topic != tool and one.frame == topics[tool].frame:
            seen_from = topics[tool]
        draft.observation.append(_observed(one, names, urdf, seen_from, standing))
    if urdf is not None and urdf.chain is not None and not tool:
        _add_tip(draft, [topics[topic] for topic in sensors if topics[topic].type == JOINT_STATE], urdf, names)
    draft.observation = [part for part in draft.observation if part[1]]
    motion, named = _motion(topics, sensors), set[str]()
    for topic in commands:
        if topics[topic].rows:
            draft.groups.append(_group(topics[topic], draft, motion, named, urdf))
        else:
            draft.groups.append(_unheard_group(topics[topic], motion, named, urdf))
    rest = [topic for topic in topics if topic not in sensors and topic not in commands]
    if rest:
        draft.remarks.append(f"Not used: {', '.join(sorted(rest))} (--observe names what is to be observed).")
    return draft


def _round_rate(rate_hz: float) -> float:
    """The nearest rate that somebody would have set."""
    usual = np.array([5, 10, 15, 20, 25, 30, 40, 50, 60, 100, 125, 200, 250, 500, 1000])
    near = float(usual[np.abs(usual - rate_hz).argmin()])
    return near if abs(near - rate_hz) < 0.05 * near else rate_hz


def _unit(path: str, joint_unit: str = "rad") -> str:
    found = next((units for pattern, units in FIELD_UNITS if re.search(pattern, path)), ("1",))
    if path.startswith(("position[", "velocity[", "effort[")) and joint_unit == "m":
        return found[-1]
    return found[0]


def _unique(name: str, names: set[str]) -> str:
    """A name that is not taken yet."""
    name = re.sub(r"\W+", "_", name).strip("_")
    found, number = name, 2
    while found in names:
        found, number = f"{name}_{number}", number + 1
    names.add(found)
    return found


def _short(topic: str) -> str:
    return re.sub(r"\W+", "_", topic).strip("_")


def _observed(
    one: TopicSurvey, names: set[str], urdf: Urdf | None, seen_from: TopicSurvey | None, standing: bool
) -> tuple[str, list[dict[str, Any]]]:
    """The entries of a topic, less what never changes, with orientations as six continuous numbers."""
    reference = {"topic": one.topic, "type": one.type, **({"frame": one.frame} if one.frame else {})}
    entries, constant = [], []
    quaternions = [path[:-2] for path in one.fields if path.endswith(".w") and f"{path[:-2]}.z" in one.fields]
    for path in one.fields:
        if any(path.startswith(f"{quaternion}.") for quaternion in quaternions):
            continue
        if seen_from is not None and path.startswith("pose.position."):
            continue
        if one.constant(path) and not standing:
            constant.append(path)
            continue
        array, _, joint = path.partition("[")
        if one.type == JOINT_STATE:
            joint = joint[:-1]
            name, unit = (joint if array == "position" else f"{joint}_{array}"), _unit(path, _joint_unit(joint, urdf))
        else:
            tail = "_".join(re.sub(r"\W+", " ", path).split()[-2:])
            name, unit = f"{_short(one.topic)}_{tail}", _unit(path)
        values = one.column(path)
        entry = measured(values[np.isfinite(values)], _unique(name, names), unit, {**reference, "field": path})
        if one.type == JOINT_STATE and array == "position" and urdf is not None and joint in urdf.limits:
            limit = urdf.limits[joint]
            entry["lower"], entry["upper"] = min(entry["lower"], limit.lower), max(entry["upper"], limit.upper)
        entries.append(entry)
    if seen_from is not None:
        seen: dict[str, Any] = {**reference, "kind": "relative_pose", "field": "pose"}
        seen["to"] = {"topic": seen_from.topic, "type": POSE, "frame": seen_from.frame, "field": "pose"}
        for coordinate, values in zip("xyz", _seen(one, seen_from).T, strict=True):
            name = _unique(f"{_short(one.topic)}_seen_{coordinate}", names)
            entries.append(measured(values, name, "m", {**seen, "coordinate": coordinate}))
    for path in quaternions:
        if all(one.constant(f"{path}.{axis}") for axis in "xyzw") and not standing:
            constant.append(path)
            continue
        for component, values in enumerate(_six_dimensional(one, path).T):
            source = {**reference, "kind": "rotation", "field": path, "form": "six_dimensional", "component": component}
            entry = measured(values, _unique(f"{_short(one.topic)}_r{component}", names), "1", source)
            entries.append({**entry, "lower": -1.1, "upper": 1.1})
    left = f"; never changes, left out: {', '.join(constant)}" if constant else ""
    return f"{one.topic}: {len(one.rows)} messages at {one.rate_hz:.3g} Hz{left}", entries


def _add_tip(draft: Draft, states: list[TopicSurvey], urdf: Urdf, names: set[str]) -> None:
    """Observe where the chain's tip is, if one topic has all its joints."""
    chain = urdf.chain
    assert chain is not None
    fields = [f"position[{joint.name}]" for joint in chain.joints]
    for one in states:
        if not set(fields) <= set(one.fields):
            continue
        joints = np.stack([one.column(path) for path in fields], axis=1)
        forward = ForwardKinematics(chain)
        tips = np.array([forward.tip_position(row) for row in joints[np.isfinite(joints).all(axis=1)].tolist()])
        source = {"kind": "kinematics", "topic": one.topic, "type": JOINT_STATE, "chain": "arm"}
        entries = [
            measured(values, _unique(f"{_short(urdf.tip)}_{axis}", names), "m", {**source, "axis": axis})
            for axis, values in zip("xyz", tips.T, strict=True)
        ]
        draft.kinematics["arm"] = chain.model_dump(mode="json")
        draft.observation.append((f"where the joints put {urdf.tip}, in the frame {urdf.base} of the URDF", entries))
        return
    draft.remarks.append(f"No topic has all joints of the chain to {urdf.tip}: {', '.join(fields)}.")


def _joint_unit(joint: str, urdf: Urdf | None) -> str:
    if urdf is not None and joint in urdf.limits:
        return urdf.limits[joint].unit
    return "m" if "gripper" in joint or "finger" in joint or "slide" in joint else "rad"


def _six_dimensional(one: TopicSurvey, path: str) -> np.ndarray:
    """The first two columns of the rotation matrices (n, 6) of a quaternion's field."""
    columns = [one.column(f"{path}.{axis}") for axis in "xyzw"]
    rows = [rotation_numbers("six_dimensional", row) for row in zip(*columns, strict=True)]
    return np.array(rows)


def _seen(one: TopicSurvey, other: TopicSurvey) -> np.ndarray:
    """Positions (n, 3) of poses seen from another topic's newest pose."""
    fields = [f"pose.{part}" for part in POSE_FIELDS]
    poses, others = (np.stack([each.column(path) for path in fields], axis=1) for each in (one, other))
    newest = np.maximum(np.searchsorted(other.times, one.times, side="right") - 1, 0)
    return np.array([relative_pose(pose, others[at])[:3] for pose, at in zip(poses, newest, strict=True)])


def _motion(topics: dict[str, TopicSurvey], sensors: list[str]) -> Motion:
    for topic in sensors:
        one = topics[topic]
        if one.type == JOINT_STATE:
            joints = [path for path in one.fields if path.startswith("position[")]
            return Motion(np.array(one.times), {path[9:-1]: one.column(path) for path in joints})
    return Motion(np.zeros(1), {})


def _group(
    one: TopicSurvey, draft: Draft, motion: Motion, action_names: set[str], urdf: Urdf | None
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """An action group out of a topic of commands, and what its owner has to decide.

    How fast a command may change is measured too, ``FASTER`` times what the demonstrator did.
    """
    name, output = _short(one.topic), {"topic": one.topic, "type": one.type}
    if one.frame:
        output["frame"] = one.frame
    columns = {path: one.column(path) for path in one.fields}
    said = f"{one.topic}: {len(one.rows)} commands at {one.rate_hz:.3g} Hz, changes {FASTER:g} times the fastest"
    times = np.array(one.times)
    if one.type == TWIST:
        moving = {path: values for path, values in columns.items() if not one.constant(path)}
        entries = [
            commanded(values, _unique(path.replace("twist.", ""), action_names), _unit(path), path)
            for path, values in moving.items()
        ]
        group: dict[str, Any] = {"name": name, "kind": "twist", "on_hold": "zero", "output": output}
        linear = [values for path, values in moving.items() if path.startswith("twist.linear.")]
        if linear:
            group["max_speed"] = outward(0.0, float(np.linalg.norm(linear, axis=0).max()), 0.05)[1]
        group |= _named("max_acceleration", _fastest(times, np.stack(list(moving.values()), axis=1), True))
        return said, {**group, "components": entries}, {}
    if one.type == TRAJECTORY:
        entries = [
            {
                **commanded(values, _unique(path[10:-1], action_names), _joint_unit(path[10:-1], urdf), path),
                **_named("max_velocity", _fastest(times, values)),
                **_limits(path[10:-1], urdf, position=True),
                "measured_by": path[10:-1],
            }
            for path, values in columns.items()
        ]
        group = {"name": name, "kind": "joint_position", "on_hold": "measured", "output": output, "components": entries}
        return said, group, {}
    roles = [_role(np.array(one.times), values, motion, 1.0 / draft.rate_hz) for values in columns.values()]
    kinds, least = {kind for kind, _, _ in roles}, min((follows for _, _, follows in roles), default=0.0)
    entries = []
    if kinds == {"velocity"}:
        for (path, values), (_, joint, _) in zip(columns.items(), roles, strict=True):
            unit = f"{_joint_unit(joint, urdf)}/s"
            entry = commanded(values, _unique(f"{joint}_velocity", action_names), unit, path)
            room = dict(zip(("position_lower", "position_upper"), motion.reach(joint), strict=True))
            changes = _named("max_acceleration", _fastest(times, values, True))
            entries.append({**entry, **changes, "measured_by": joint, **room, **_limits(joint, urdf, position=False)})
        group = {"name": name, "kind": "joint_velocity", "on_hold": "zero", "output": output, "components": entries}
        return f"{said}; the joints move as fast as these say (correlation at least {least:.2f})", group, {}
    if kinds == {"position"}:
        gripper = re.search(HAND, one.topic + "".join(joint for _, joint, _ in roles)) is not None
        for (path, values), (_, joint, _) in zip(columns.items(), roles, strict=True):
            unit = _joint_unit(joint, urdf)
            entry = commanded(values, _unique(joint, action_names), unit, path)
            if gripper and values.min() >= 0.0:
                entry["lower"] = max(entry["lower"], 0.0)
            rate = _named("max_rate" if gripper else "max_velocity", _fastest(times, values))
            rate |= {} if gripper else _limits(joint, urdf, position=True)
            entries.append({**entry, **rate, "measured_by": joint})
        kind, hold = ("gripper", "last") if gripper else ("joint_position", "measured")
        group = {"name": name, "kind": kind, "on_hold": hold, "output": output, "components": entries}
        return f"{said}; the positions follow these (correlation at least {least:.2f})", group, {}
    for path, values in columns.items():
        entries.append(commanded(values, _unique(path, action_names), "1", path))
    decide = {
        "kind": "twist, joint_velocity, joint_position, joint_effort, gripper or generic (docs/own_task.md)",
        "on_hold": "what stops the robot: zero, last, measured, or a value",
    }
    group = {"name": name, "kind": "generic", "on_hold": "last", "output": output, "components": entries}
    return f"{said}; no joint's position or velocity follows these", group, decide


def _fastest(times: np.ndarray, values: np.ndarray, from_rest: bool = False) -> float:
    """``FASTER`` times the fastest change of commands (n,) or (n, k) in an episode [unit/s].

    With ``from_rest`` an episode's first command is a change from zero.
    """
    pauses, rows = np.diff(times), values.reshape(len(values), -1)
    usual = float(np.median(pauses)) if len(pauses) else 0.0
    changes = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    inside = changes[pauses < GAP_S]
    if from_rest:
        first = np.concatenate([[True], pauses >= GAP_S])
        inside = np.concatenate([inside, np.linalg.norm(rows[first], axis=1)])
    return FASTER * float(inside.max()) / usual if len(inside) and usual > 0.0 else 0.0


def _named(limit: str, value: float) -> dict[str, float]:
    """A limit; nothing where none was measured."""
    return {limit: rounded(value)} if value > 0.0 else {}


def _unheard_group(
    one: TopicSurvey, motion: Motion, action_names: set[str], urdf: Urdf | None
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """An action group out of a topic on which nobody spoke: what its type and name say, and the rest to be decided."""
    output = {"topic": one.topic, "type": one.type}
    group: dict[str, Any] = {"name": _short(one.topic), "kind": "twist", "on_hold": "zero", "output": output}

    def entry(name: str, unit: str, path: str, low: float, high: float) -> dict[str, Any]:
        centre, scale = rounded((low + high) / 2.0), rounded((high - low) / 4.0)
        limits = {"lower": rounded(low), "upper": rounded(high), "centre": centre, "scale": scale}
        return {"name": name, "unit": unit, "field": path, **limits}

    asks = "its components, their order and their limits"
    if one.type == TWIST:
        group["components"] = [
            entry(f"{part}_{axis}", unit, f"twist.{part}.{axis}", -SLOW, SLOW)
            for part, unit in (("linear", "m/s"), ("angular", "rad/s"))
            for axis in "xyz"
        ]
        asks = "its frame, its components and their limits"
    else:
        velocity = one.type == ARRAY and re.search(r"veloc|speed", one.topic) is not None
        group["kind"] = "joint_velocity" if velocity else "joint_position"
        group["on_hold"] = "zero" if velocity else "measured"
        group["components"] = []
        # a gripper's topic is for the gripper, the others for the rest
        gripper = re.search(HAND, one.topic) is not None
        chosen = {joint: q for joint, q in motion.positions.items() if (re.search(HAND, joint) is not None) is gripper}
        for number, (joint, positions) in enumerate((chosen or motion.positions).items()):
            path = f"positions[{joint}]" if one.type == TRAJECTORY else f"data[{number}]"
            unit, limit = _joint_unit(joint, urdf), urdf.limits.get(joint) if urdf is not None else None
            more = {"measured_by": joint, **_limits(joint, urdf, position=not velocity)}
            if velocity:
                fastest = limit.velocity if limit is not None and limit.velocity else SLOW
                found = entry(_unique(f"{joint}_velocity", action_names), f"{unit}/s", path, -fastest, fastest)
            elif limit is not None and limit.lower < limit.upper:
                found = entry(_unique(joint, action_names), unit, path, limit.lower, limit.upper)
            else:
                found = entry(
                    _unique(joint, action_names),
                    unit,
                    path,
                    float(positions.min()) - SLOW,
                    float(positions.max()) + SLOW,
                )
            group["components"].append({**found, **more})
    decide = {"kind": "twist, joint_velocity, joint_position, joint_effort, gripper or generic (docs/own_task.md)"}
    return f"{DECIDE}: nobody commanded on {one.topic}: {asks}", group, decide if one.type == ARRAY else {}


def _limits(joint: str, urdf: Urdf | None, position: bool) -> dict[str, float]:
    """What a URDF says of a joint, as limits of its commands."""
    if urdf is None or joint not in urdf.limits:
        return {}
    limit = urdf.limits[joint]
    if position:
        return {"max_velocity": limit.velocity} if limit.velocity else {}
    return {"position_lower": limit.lower, "position_upper": limit.upper} if limit.lower < limit.upper else {}


def _role(times: np.ndarray, values: np.ndarray, motion: Motion, step_s: float) -> tuple[str, str, float]:
    """What a command is to which joint, ``velocity`` or ``position``, and their correlation."""
    spread = float(values.std())
    if spread < 1e-9 or not motion.positions:
        return "unknown", "", 0.0
    # within one episode only: no pause of the sensors between a command and what it did
    later = np.searchsorted(motion.times, times + step_s)
    inside = (later > 0) & (later < len(motion.times))
    pause = motion.times[np.minimum(later, len(motion.times) - 1)] - motion.times[np.maximum(later - 1, 0)]
    inside &= pause < GAP_S
    times, values = times[inside], values[inside]
    if len(times) < 10:
        return "unknown", "", 0.0
    follows: dict[tuple[str, str], float] = {}
    for joint in motion.positions:
        before, after = motion.at(joint, times), motion.at(joint, times + step_s)
        velocity = (after - before) / step_s
        if float(np.sqrt(np.mean((velocity - values) ** 2))) < CLOSE * spread:
            follows["velocity", joint] = _correlation(velocity, values)
        follows["position", joint] = _correlation(after, values)
    kind, joint = max(follows, key=lambda role: follows[role])
    return (kind, joint, follows[kind, joint]) if follows[kind, joint] > FOLLOWS else ("unknown", "", 0.0)


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.corrcoef(left, right)[0, 1]) if min(left.std(), right.std()) > 1e-9 else 0.0
