"""Reads demonstrations into arrays: Minari or D4RL, per-trajectory splits, action chunks, validation."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import DatasetError
from srdp_controller.spec import (
    ActionPrefixSource,
    CommandHistorySource,
    ObservationComponent,
    ObservationHistorySource,
    PolicySpec,
)

SHOWN = 5  # faulty episodes that a message names

Scale = Mapping[str, float]  # centre and scale


@dataclass(frozen=True)
class Trajectory:
    """One episode, raw SI: observations (n, sensors) and the actions (n, act_dim) to learn from them.

    ``last`` (sensors,) is the observation after the last action, ``reward`` (n,) what each action
    earned, ``executed`` (n, act_dim) what was really sent (the same unless the collector disturbed it),
    ``terminated`` whether the episode ended in a terminal state.
    """

    observation: np.ndarray
    action: np.ndarray
    last: np.ndarray | None = None
    reward: np.ndarray | None = None
    executed: np.ndarray | None = None
    terminated: bool = False

    def digest(self) -> str:
        """SHA-256 of all its arrays."""
        content = hashlib.sha256(str(self.terminated).encode())
        for values in (self.observation, self.action, self.last, self.reward, self.executed):
            shape = None if values is None else values.shape
            content.update(str(shape).encode() + (b"" if values is None else np.ascontiguousarray(values).tobytes()))
        return content.hexdigest()


def dataset_digest(trajectories: list[Trajectory]) -> str:
    """SHA-256 of a dataset's content, whatever its name and format."""
    return hashlib.sha256("".join(trajectory.digest() for trajectory in trajectories).encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Trajectories for training, for calibration and for test, disjoint."""

    train: list[Trajectory]
    calibration: list[Trajectory]
    test: list[Trajectory]


def _checked(
    where: str,
    observation: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray | None,
    executed: np.ndarray | None,
    terminated: bool,
    spec: PolicySpec,
) -> Trajectory:
    try:
        observation, action = np.asarray(observation, dtype=np.float32), np.asarray(action, dtype=np.float32)
    except TypeError:
        raise DatasetError(
            f"{where}: observations are {type(observation).__name__}, expected arrays (n, size)"
        ) from None
    sensors = len(spec.sensor_indices())
    if observation.ndim != 2 or observation.shape[1] != sensors:
        raise DatasetError(f"{where}: observations are {observation.shape}, expected (n, {sensors})")
    if action.ndim != 2 or action.shape[1] != spec.act_dim:
        raise DatasetError(f"{where}: actions are {action.shape}, expected (n, {spec.act_dim})")
    n = len(action)
    if len(observation) not in (n, n + 1) or n == 0:
        raise DatasetError(f"{where}: {len(observation)} observations do not fit {n} actions")
    for name, values in (("rewards", reward), ("executed commands", executed)):
        if values is not None and len(values) != n:
            raise DatasetError(f"{where}: {len(values)} {name} do not fit {n} actions")
    numbers = [observation, action, *(values for values in (reward, executed) if values is not None)]
    if not all(np.isfinite(values).all() for values in numbers):
        raise DatasetError(f"{where}: contains NaN or infinity; remove the episode or repair the recording")
    return Trajectory(
        observation[:n],
        action,
        observation[n] if len(observation) > n else observation[-1],
        None if reward is None else np.asarray(reward, dtype=np.float32),
        None if executed is None else np.asarray(executed, dtype=np.float32),
        terminated,
    )


def _all_checked(where: str, episodes: Iterable[dict[str, Any]], spec: PolicySpec) -> list[Trajectory]:
    """Every episode (arguments of ``_checked``), or one error that lists what is wrong with how many."""
    trajectories, problems = [], []
    for episode in episodes:
        try:
            trajectories.append(_checked(**episode, spec=spec))
        except DatasetError as error:
            problems.append(str(error))
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"and {len(problems) - SHOWN} more episodes"]
    if problems:
        raise DatasetError("; ".join(problems))
    if not trajectories:
        raise DatasetError(f"{where}: the dataset is empty")
    return trajectories


def load_trajectories(
    folder: Path | None, dataset_id: str, spec: PolicySpec, download: bool = False, keys: Sequence[str] = ()
) -> list[Trajectory]:
    """All episodes of a local Minari dataset (``folder`` None: where Minari keeps them).

    Of Dict observations those under ``keys``, one after another (default: all, in the order of the dataset's space).

    Raises:
        DatasetError: the dataset is missing or empty, or episodes have a NaN, a wrong shape or
            unequal lengths; the message names the episodes.
    """
    return _all_checked(dataset_id, read_minari(folder, dataset_id, download, keys)[0], spec)


def read_minari(
    folder: Path | None, dataset_id: str, download: bool = False, keys: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """A Minari dataset's episodes as they are, and the names of an observation's numbers.

    An episode is where, observation, action, reward, executed, terminated. Of Dict observations those under ``keys``,
    as of ``load_trajectories``.

    Raises:
        DatasetError: it is missing, or has no such key, or what is under one is no row of numbers.
    """
    if folder is not None:
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
    import minari

    try:
        dataset = minari.load_dataset(dataset_id, download=download)
    except Exception as error:  # the hub's client raises its own types
        place = f"{folder}/{dataset_id}" if folder is not None else dataset_id
        remedy = "run `srdp collect`" if folder is not None else "set data.download=true, or name a local dataset"
        raise DatasetError(f"{place}: no readable Minari dataset ({error}); {remedy}") from None

    def executed(episode: Any) -> Any:
        sent = (episode.infos or {}).get("executed")
        # the reset's own entry
        return sent[1:] if sent is not None and len(sent) == len(episode.actions) + 1 else sent

    sizes = _observed_sizes(dataset_id, dataset.observation_space, keys)

    def observation(episode: Any) -> Any:
        seen = episode.observations
        if not isinstance(seen, dict):
            return seen
        return np.concatenate([np.asarray(seen[key]).reshape(len(seen[key]), -1) for key in sizes], axis=1)

    names = [f"{key}_{place}" for key, size in sizes.items() for place in range(size)]
    episodes = [
        {
            "where": f"{dataset_id}, episode {episode.id}",
            "observation": observation(episode),
            "action": episode.actions,
            "reward": episode.rewards,
            "executed": executed(episode),
            "terminated": bool(episode.terminations[-1]) if len(episode.terminations) else False,
        }
        for episode in dataset.iterate_episodes()
    ]
    return episodes, names


def _observed_sizes(dataset_id: str, space: Any, keys: Sequence[str]) -> dict[str, int]:
    """How many numbers stand under each key of a Dict space; of any other space under ``state``."""
    from gymnasium.spaces import Box, Dict

    if not isinstance(space, Dict):
        if keys:
            raise DatasetError(
                f"{dataset_id}: data.keys is {list(keys)}, its observations have no keys; leave it empty"
            )
        return {"state": int(np.prod(space.shape or (1,)))}
    found = {}
    for key in keys or space.spaces:
        if key not in space.spaces:
            raise DatasetError(f"{dataset_id}: no observations under {key!r}; there are {', '.join(space.spaces)}")
        box = space.spaces[key]
        if not isinstance(box, Box) or len(box.shape) > 2:
            rest = ", ".join(name for name in space.spaces if name != key)
            raise DatasetError(
                f"{dataset_id}: {key!r} is {box}, no row of numbers; name the others in data.keys: {rest}"
            )
        found[key] = math.prod(box.shape)
    return found


def load_d4rl(path: Path, spec: PolicySpec) -> list[Trajectory]:
    """Episodes of a D4RL-style HDF5 file: flat ``observations``, ``actions``, ``rewards``, ``terminals``, ``timeouts``.

    Raises:
        DatasetError: not an HDF5 file, a field is missing, or lengths, shapes or values are wrong.
    """
    return _all_checked(str(path), read_d4rl(path), spec)


def read_d4rl(path: Path) -> Iterator[dict[str, Any]]:
    """A D4RL-style file's episodes as they are, as of ``read_minari``.

    Raises:
        DatasetError: not an HDF5 file, a field is missing, or lengths differ.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            fields = {
                name: np.asarray(file[name])
                for name in ("observations", "actions", "rewards", "terminals", "timeouts")
                if name in file
            }
    except OSError as error:
        raise DatasetError(f"{path}: not a readable HDF5 file ({error})") from None
    for name in ("observations", "actions", "terminals"):
        if name not in fields:
            raise DatasetError(f"{path}: no field {name!r}; a D4RL file has observations, actions and terminals")
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) != 1:
        raise DatasetError(f"{path}: fields of unequal lengths {lengths}")
    n = lengths["actions"]
    if n == 0:
        raise DatasetError(f"{path}: the dataset is empty")
    terminals = fields["terminals"].astype(bool).reshape(n)
    ends = terminals | fields.get("timeouts", np.zeros(n)).astype(bool).reshape(n)
    ends[-1] = True

    start = 0
    for number, end in enumerate(np.flatnonzero(ends)):
        part = slice(start, end + 1)
        yield {
            "where": f"{path}, episode {number} (rows {start} to {end})",
            "observation": fields["observations"][part],
            "action": fields["actions"][part],
            "reward": fields["rewards"][part].reshape(-1) if "rewards" in fields else None,
            "executed": None,
            "terminated": bool(terminals[end]),
        }
        start = int(end) + 1


def split_indices(count: int, calibration_share: float, test_share: float, seed: int) -> dict[str, list[int]]:
    """Whole trajectories, by number, for ``train``, ``calibration`` and ``test``.

    Raises:
        DatasetError: too few trajectories.
    """
    order = np.random.default_rng(seed).permutation(count).tolist()
    calibration, test = round(calibration_share * count), round(test_share * count)
    if calibration < 1 or test < 1 or calibration + test >= count:
        raise DatasetError(f"{count} trajectories are too few to split; collect more episodes")
    return {
        "train": order[calibration + test :],
        "calibration": order[:calibration],
        "test": order[calibration : calibration + test],
    }


def normalised_spec(spec: PolicySpec, trajectories: list[Trajectory]) -> PolicySpec:
    """``spec`` with the centre and scale of its observations and actions measured on trajectories.

    The centre is the mean. The scale is the standard deviation, at least a thousandth of the range between the
    limits, and 1 where a component never changes; an action's is also large enough that every demonstrated value
    lies within 3 scales of the centre, since samplers clip at ``CLIP`` = 4.
    """
    observed = np.concatenate([trajectory.observation for trajectory in trajectories]).astype(np.float64)
    acted = np.concatenate([trajectory.action for trajectory in trajectories]).astype(np.float64)
    sensors = [
        _measured_scale(column, spec.observation[index].upper - spec.observation[index].lower, False)
        for index, column in zip(spec.sensor_indices(), observed.T, strict=True)
    ]
    actions = [_measured_scale(acted[:, action.index], action.upper - action.lower, True) for action in spec.action]
    return rescaled(spec, sensors, actions)


def rescaled(spec: PolicySpec, sensors: Sequence[Scale], acted: Sequence[Scale]) -> PolicySpec:
    """``spec`` with this centre and scale of every observation that a sensor fills, and of every action, in order.

    Past and committed values take the scales of what they are the past of.
    """
    actions = [action.model_copy(update=dict(scale)) for action, scale in zip(spec.action, acted, strict=True)]
    of_sensor = dict(zip(spec.sensor_indices(), sensors, strict=True))

    def scale_of(component: ObservationComponent) -> Scale:
        source = component.source
        if component.index in of_sensor:
            return of_sensor[component.index]
        if isinstance(source, ObservationHistorySource):
            return of_sensor[source.component]
        if isinstance(source, CommandHistorySource | ActionPrefixSource):
            return {"centre": actions[source.component].centre, "scale": actions[source.component].scale}
        return {}

    content = spec.model_dump()
    content["observation"] = [{**entry.model_dump(), **scale_of(entry)} for entry in spec.observation]
    for group in content["action_groups"]:
        group["components"] = [actions[component["index"]].model_dump() for component in group["components"]]
    return PolicySpec.model_validate(content)


def _measured_scale(values: np.ndarray, limits: float, reach: bool) -> Scale:
    centre, scale = float(values.mean()), float(values.std())
    largest = float(np.abs(values - centre).max())
    if largest <= 1e-6 * max(1.0, abs(centre)):
        return {"centre": centre, "scale": 1.0}
    return {"centre": centre, "scale": max(scale, 1e-3 * limits, largest / 3.0 if reach else 0.0)}


@dataclass(frozen=True)
class Samples:
    """One row per control step, normalised.

    Attributes:
        observation: (n, obs_dim); past commands filled in, committed ones empty.
        action: chunks (n, horizon * act_dim).
        committed: what was really sent in the chunk's steps (n, horizon * act_dim): the disturbed commands
            where the collector disturbed them. A prefix is made of these. The expert's own later commands
            would tell of disturbances that had not happened yet.
        chunk_return: discounted reward of the chunk's steps (n,).
        later: observation (n, obs_dim) when the chunk is over.
        later_discount: (n,) what ``later`` counts, 0 past a terminal state.
    """

    observation: np.ndarray
    action: np.ndarray
    committed: np.ndarray
    chunk_return: np.ndarray
    later: np.ndarray
    later_discount: np.ndarray


def full_observations(trajectory: Trajectory, spec: PolicySpec) -> np.ndarray:
    """Observations (n + 1, obs_dim), raw: the sensors', what they were before, and the commands in force before."""
    n = len(trajectory.action)
    last = trajectory.observation[-1] if trajectory.last is None else trajectory.last
    full = np.zeros((n + 1, spec.obs_dim), dtype=np.float32)
    full[:, spec.sensor_indices()] = np.concatenate([trajectory.observation, last[None]])
    executed = trajectory.action if trajectory.executed is None else trajectory.executed
    for index, component, age_s in spec.observation_history_columns():
        ago = max(1, round(age_s / spec.step_s))
        full[:, index] = full[np.maximum(np.arange(n + 1) - ago, 0), component]
    for index, component, age_s in spec.history_columns():
        ago = max(1, round(age_s / spec.step_s))
        full[ago:, index] = executed[: n + 1 - ago, component]
    return full


def samples(trajectories: list[Trajectory], spec: PolicySpec, discount: float = 1.0) -> Samples:
    """Rows of ``Samples``; past the end of an episode a chunk repeats the last action."""
    centre, scale = spec.observation_normalisation()
    action_centre, action_scale = spec.action_normalisation()
    horizon = spec.horizon
    powers = discount ** np.arange(horizon)
    rows: list[tuple[np.ndarray, ...]] = []
    for trajectory in trajectories:
        n = len(trajectory.action)
        observation = (full_observations(trajectory, spec) - centre) / scale
        steps = np.arange(n)[:, None] + np.arange(horizon)[None, :]
        normalised = (trajectory.action - action_centre) / action_scale
        executed = trajectory.action if trajectory.executed is None else trajectory.executed
        sent = (executed - action_centre) / action_scale
        reward = np.zeros(n, np.float32) if trajectory.reward is None else trajectory.reward
        padded = np.concatenate([reward, np.zeros(horizon, np.float32)])
        later = np.minimum(np.arange(n) + horizon, n)
        over = (np.arange(n) + horizon >= n) & trajectory.terminated
        taken = np.minimum(horizon, n - np.arange(n))
        rows.append(
            (
                observation[:-1],
                normalised[np.minimum(steps, n - 1)].reshape(n, -1),
                sent[np.minimum(steps, n - 1)].reshape(n, -1),
                (padded[steps] * powers).sum(axis=1).astype(np.float32),
                observation[later],
                np.where(over, 0.0, discount**taken).astype(np.float32),
            )
        )
    return Samples(*(np.concatenate(column) for column in zip(*rows, strict=True)))
