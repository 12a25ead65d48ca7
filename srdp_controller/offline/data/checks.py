"""What is wrong with demonstrations: each check is one function of trajectories (n, sensors), (n, act_dim) and a spec.

A check returns what it found, one sentence each that names the component; ``CHECKS`` has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from srdp_controller.offline.dataset import Trajectory
from srdp_controller.spec import PolicySpec, TopicSource

SAME = 1e-9  # of a column's size: no change, no difference
EXCLUDED = 0.01  # share of values outside limits from which on something is wrong with the limits
CLEAR = 0.5  # correlation that one joint needs to be taken for another's command
AHEAD = 0.2  # by which it must then be the better one
FEWEST = 50  # samples without which a correlation says nothing

Check = Callable[[Sequence[Trajectory], PolicySpec], Iterator[str]]


def _observed(trajectories: Sequence[Trajectory]) -> np.ndarray:
    return np.concatenate([one.observation for one in trajectories]).astype(np.float64)


def _acted(trajectories: Sequence[Trajectory]) -> np.ndarray:
    return np.concatenate([one.action for one in trajectories]).astype(np.float64)


def _columns(trajectories: Sequence[Trajectory], spec: PolicySpec) -> list[tuple[str, np.ndarray]]:
    names = [spec.observation[index].name for index in spec.sensor_indices()]
    seen = [(f"observation {name}", values) for name, values in zip(names, _observed(trajectories).T, strict=True)]
    acted = zip(spec.action, _acted(trajectories).T, strict=True)
    return seen + [(f"action {action.name}", values) for action, values in acted]


def constant_columns(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Iterator[str]:
    """Components that never change: a sensor that is not plugged in, or a number that tells nothing."""
    for name, values in _columns(trajectories, spec):
        if np.ptp(values) <= SAME * max(1.0, float(np.abs(values).max())):
            yield f"{name} is {values[0]:.6g} in all of the data; leave it out, or look at its sensor"


def duplicated_columns(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Iterator[str]:
    """Observations that are always equal to another one."""
    columns = [(name, values) for name, values in _columns(trajectories, spec) if name.startswith("observation")]
    for place, (name, values) in enumerate(columns):
        size = SAME * max(1.0, float(np.abs(values).max()))
        if np.ptp(values) <= size:
            continue
        for earlier, others in columns[:place]:
            if np.abs(values - others).max() <= size:
                yield f"{name} is always equal to {earlier}; leave one out, or look at the fields they read"


def limits(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Iterator[str]:
    """Limits that exclude more of the data than a fault now and then."""
    sensors = [spec.observation[index] for index in spec.sensor_indices()]
    for component, values in zip(sensors, _observed(trajectories).T, strict=True):
        share = float(((values < component.lower) | (values > component.upper)).mean())
        if share > EXCLUDED:
            yield (
                f"observation {component.name}: {share:.0%} of the data ({values.min():.4g} to {values.max():.4g}) are "
                f"outside its limits {component.lower:g} to {component.upper:g}; the controller would hold"
            )
    for action, values in zip(spec.action, _acted(trajectories).T, strict=True):
        share = float(((values < action.lower - 1e-6) | (values > action.upper + 1e-6)).mean())
        if share > EXCLUDED:
            yield (
                f"action {action.name}: {share:.0%} of the data ({values.min():.4g} to {values.max():.4g}) are outside "
                f"its limits {action.lower:g} to {action.upper:g}; the safety filter would cut them"
            )


def _rates(trajectories: Sequence[Trajectory], spec: PolicySpec) -> np.ndarray:
    """How fast each sensor's number changes in a step (n, sensors)."""
    return np.concatenate([np.diff(one.observation.astype(np.float64), axis=0) for one in trajectories]) / spec.step_s


def _correlations(columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Correlation (k,) of values (n,) with each of columns (n, k); 0 where one does not change."""
    centred, own = columns - columns.mean(axis=0), values - values.mean()
    sizes = np.sqrt((centred**2).sum(axis=0) * (own**2).sum())
    return np.divide(centred.T @ own, sizes, out=np.zeros(columns.shape[1]), where=sizes > 1e-12)


def joint_order(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Iterator[str]:
    """Commands, and measured velocities, that move another joint than the one that they are said to move.

    A velocity is compared with the finite differences of the positions, a commanded position with the positions a
    step later.
    """
    sensors = spec.sensor_indices()
    places = {spec.observation[index].name: place for place, index in enumerate(sensors)}
    rates = _rates(trajectories, spec)
    if len(rates) < FEWEST:
        return
    after = np.concatenate([one.observation[1:] for one in trajectories]).astype(np.float64)
    commands = np.concatenate([one.action[: len(one.observation) - 1] for one in trajectories]).astype(np.float64)
    said = [
        (f"action {action.name}", action.measured_by, rates if group.kind == "joint_velocity" else after, values)
        for group, _ in spec.group_slices()
        if group.kind in ("joint_velocity", "joint_position")
        for action, values in ((action, commands[:, action.index]) for action in group.components)
        if action.measured_by is not None
    ]
    positions = _joint_fields(spec, "position")
    for joint, name in _joint_fields(spec, "velocity").items():
        if joint in positions:
            said.append((f"observation {name}", positions[joint], rates, after[:, places[name]]))
    candidates = sorted({places[name] for _, name, _, _ in said if name is not None})
    by_place = {place: name for name, place in places.items()}
    for what, name, moved, values in said:
        found = _correlations(moved[:, candidates], values)
        own = float(found[candidates.index(places[str(name)])])
        best = int(found.argmax())
        if found[best] > CLEAR and found[best] > own + AHEAD:
            yield (
                f"{what} moves {by_place[candidates[best]]} (correlation {found[best]:.2f}), not {name} ({own:.2f}), "
                "which is said to measure it; are the joints in another order?"
            )
        elif own < -CLEAR:
            yield f"{what} moves {name} the other way (correlation {own:.2f}); is its sign right?"


def _joint_fields(spec: PolicySpec, array: str) -> dict[str, str]:
    """Names of the observations that read an array of a JointState, by joint."""
    return {
        component.source.field.partition("[")[2][:-1]: component.name
        for component in spec.observation
        if isinstance(component.source, TopicSource) and component.source.field.startswith(f"{array}[")
    }


def quaternion_signs(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Iterator[str]:
    """Quaternions, observed as four numbers, that switch between q and -q, which are the same rotation."""
    sensors = spec.sensor_indices()
    found: dict[tuple[str, str], dict[str, int]] = {}
    for place, index in enumerate(sensors):
        source = spec.observation[index].source
        if isinstance(source, TopicSource) and source.field[-2:] in (".x", ".y", ".z", ".w"):
            found.setdefault((source.topic, source.field[:-2]), {})[source.field[-1]] = place
    for (topic, field), axes in found.items():
        if set(axes) != set("xyzw"):
            continue
        flips = steps = 0
        for one in trajectories:
            rotation = one.observation[:, [axes[axis] for axis in "xyzw"]].astype(np.float64)
            before, later = rotation[:-1], rotation[1:]
            flips += int((np.linalg.norm(later + before, axis=1) < np.linalg.norm(later - before, axis=1)).sum())
            steps += len(before)
        if flips:
            yield (
                f"{topic} {field} switches between q and -q in {flips} of {steps} steps; observe it as "
                "{kind: rotation, form: six_dimensional} instead of four numbers"
            )


def jumps(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Iterator[str]:
    """Observations that jump by half their range in one step, again and again: lost messages, or a wrapped angle."""
    columns, rates = _observed(trajectories), _rates(trajectories, spec) * spec.step_s
    for place, index in enumerate(spec.sensor_indices()):
        wide = float(np.ptp(columns[:, place]))
        many = int((np.abs(rates[:, place]) > 0.5 * wide).sum()) if wide > 0.0 else 0
        values = np.unique(columns[:, place])
        if many and len(values) > 10:  # a switch may jump
            yield (
                f"observation {spec.observation[index].name} jumps by more than half its range in {many} steps; an "
                "angle that wraps, or messages that were lost"
            )


CHECKS: dict[str, Check] = {
    "constant columns": constant_columns,
    "duplicated columns": duplicated_columns,
    "limits": limits,
    "joint order": joint_order,
    "quaternion signs": quaternion_signs,
    "jumps": jumps,
}
