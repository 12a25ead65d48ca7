"""Reads a Minari dataset into arrays: per-trajectory splits, action chunks, validation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srdp_controller.errors import DatasetError
from srdp_controller.spec import PolicySpec


@dataclass(frozen=True)
class Trajectory:
    """One episode: observations (n, obs_dim) and the actions (n, act_dim) taken from them, raw SI."""

    observation: np.ndarray
    action: np.ndarray


@dataclass(frozen=True)
class Split:
    """Trajectories for training, for calibration and for test, disjoint."""

    train: list[Trajectory]
    calibration: list[Trajectory]
    test: list[Trajectory]


def load_trajectories(folder: Path, dataset_id: str, spec: PolicySpec) -> list[Trajectory]:
    """All episodes of a local Minari dataset.

    Raises:
        DatasetError: the dataset is missing or empty, or an episode has a NaN, a wrong shape or
            unequal lengths; the message names the episode.
    """
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    import minari

    try:
        dataset = minari.load_dataset(dataset_id)
    except (FileNotFoundError, KeyError, OSError, ValueError) as error:
        raise DatasetError(f"{folder}/{dataset_id}: no readable Minari dataset ({error}); run `srdp collect`") from None
    trajectories = []
    for episode in dataset.iterate_episodes():
        observation = np.asarray(episode.observations, dtype=np.float32)
        action = np.asarray(episode.actions, dtype=np.float32)
        where = f"{dataset_id}, episode {episode.id}"
        if observation.ndim != 2 or observation.shape[1] != spec.obs_dim:
            raise DatasetError(f"{where}: observations are {observation.shape}, expected (n, {spec.obs_dim})")
        if action.ndim != 2 or action.shape[1] != spec.act_dim:
            raise DatasetError(f"{where}: actions are {action.shape}, expected (n, {spec.act_dim})")
        if len(observation) not in (len(action), len(action) + 1) or len(action) == 0:
            raise DatasetError(f"{where}: {len(observation)} observations do not fit {len(action)} actions")
        if not (np.isfinite(observation).all() and np.isfinite(action).all()):
            raise DatasetError(f"{where}: contains NaN or infinity; remove the episode or repair the recording")
        trajectories.append(Trajectory(observation[: len(action)], action))
    if not trajectories:
        raise DatasetError(f"{dataset_id}: the dataset is empty")
    return trajectories


def split_trajectories(trajectories: list[Trajectory], calibration_share: float, test_share: float, seed: int) -> Split:
    """Split whole trajectories at random, so that no episode is in two parts."""
    order = np.random.default_rng(seed).permutation(len(trajectories))
    calibration = round(calibration_share * len(trajectories))
    test = round(test_share * len(trajectories))
    if calibration < 1 or test < 1 or calibration + test >= len(trajectories):
        raise DatasetError(f"{len(trajectories)} trajectories are too few to split; collect more episodes")
    picked = [trajectories[index] for index in order]
    return Split(picked[calibration + test :], picked[:calibration], picked[calibration : calibration + test])


def chunks(trajectories: list[Trajectory], spec: PolicySpec) -> tuple[np.ndarray, np.ndarray]:
    """Normalised observations (n, obs_dim) and action chunks (n, horizon * act_dim).

    Step t's chunk is actions t .. t + horizon - 1; past the end of an episode the last one repeats.
    """
    centre, scale = spec.observation_normalisation()
    action_centre, action_scale = spec.action_normalisation()
    observations, actions = [], []
    for trajectory in trajectories:
        n = len(trajectory.action)
        index = np.minimum(np.arange(n)[:, None] + np.arange(spec.horizon)[None, :], n - 1)
        normalised = (trajectory.action - action_centre) / action_scale
        observations.append((trajectory.observation - centre) / scale)
        actions.append(normalised[index].reshape(n, -1))
    return np.concatenate(observations), np.concatenate(actions)
