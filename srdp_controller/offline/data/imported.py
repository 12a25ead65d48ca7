"""Demonstrations of other formats, read once and kept as a Minari dataset in the run folder, from which all go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import DatasetError
from srdp_controller.files import write_json
from srdp_controller.offline.data.bag import Imported, import_bags
from srdp_controller.offline.data.lerobot import open_lerobot
from srdp_controller.offline.dataset import Trajectory, load_trajectories
from srdp_controller.offline.recipe import Recipe, content_hash
from srdp_controller.progress import Progress
from srdp_controller.recordings.mcap_file import bag_files
from srdp_controller.simulation.scenario import slug
from srdp_controller.spec import PolicySpec

RECORD = "imported.json"


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 of files' contents, whatever they are called."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def imported_trajectories(folder: Path, recipe: Recipe, spec: PolicySpec, progress: Progress) -> list[Trajectory]:
    """The recipe's bags or LeRobot dataset as trajectories; read anew only when it, the spec or ``data`` changed.

    Raises:
        DatasetError: as of ``import_bags`` and ``import_lerobot``.
    """
    path, source = Path(recipe.data.dataset), recipe.data.source
    if not recipe.data.dataset:
        raise DatasetError(
            f"data.dataset is empty; name the {'bag, or a folder of them' if source == 'bag' else 'folder'}"
        )
    files = bag_files(path) if source == "bag" else open_lerobot(path).files
    key = content_hash(source, [recipe.data.bag], files_digest(files), spec)
    name, place = f"{slug(recipe.task)}/imported-v1", folder / "dataset"
    record = imported_record(folder)
    if record.get("key") != key:
        found = import_bags(path, spec, recipe.data.bag, progress) if source == "bag" else import_lerobot(path, spec)
        shutil.rmtree(place / slug(recipe.task), ignore_errors=True)
        _write(place, name, found.trajectories, spec, recipe)
        write_json(folder / RECORD, {"key": key, **facts(found)})
    return load_trajectories(place, name, spec)


def import_lerobot(path: Path, spec: PolicySpec) -> Imported:
    """The episodes of a LeRobot dataset, whose numbers are the spec's sensors and actions in their order.

    Raises:
        DatasetError: they are not as many, or come at another rate.
    """
    dataset, sensors = open_lerobot(path), len(spec.sensor_indices())
    for what, found, expected in (
        ("observations", len(dataset.observation), sensors),
        ("actions", len(dataset.action), spec.act_dim),
    ):
        if found != expected:
            raise DatasetError(f"{path}: {found} {what}, the spec has {expected}")
    if abs(dataset.rate_hz - spec.control_rate_hz) > 1e-3 * spec.control_rate_hz:
        raise DatasetError(
            f"{path}: {dataset.rate_hz:g} Hz, the spec's control_rate_hz is {spec.control_rate_hz:g}; set it to that"
        )
    imported, outside = Imported(), np.zeros(spec.act_dim)
    low, high = spec.action_limits()
    for number, seen, taken in dataset.episodes():
        if len(taken) < 2:
            imported.leave_out("shorter than 2 steps")
            continue
        outside += ((taken < low - 1e-6) | (taken > high + 1e-6)).mean(axis=0)
        action = np.clip(taken, low, high).astype(np.float32)[:-1]
        imported.trajectories.append(Trajectory(seen[:-1].astype(np.float32), action, seen[-1].astype(np.float32)))
        imported.sources.append(f"episode {number}")
    if not imported.trajectories:
        raise DatasetError(f"{path}: no episode of two steps or more")
    shares = outside / len(imported.trajectories)
    imported.limited = {one.name: float(share) for one, share in zip(spec.action, shares, strict=True) if share}
    return imported


def imported_record(folder: Path) -> dict[str, Any]:
    """What was found when the dataset was imported; empty where none was."""
    path = folder / RECORD
    return json.loads(path.read_text()) if path.exists() else {}  # type: ignore[no-any-return]


def facts(found: Imported) -> dict[str, Any]:
    """What an import found: episodes, steps, and what is not in it, and why."""
    return {
        "episodes": len(found.trajectories),
        "steps": sum(len(trajectory.action) for trajectory in found.trajectories),
        "left_out": found.left_out,
        "refused_messages": {
            topic: {"count": count, "of": found.heard[topic], "first": why}
            for topic, (count, why) in found.refused.items()
        },
        "commands_outside_limits": found.limited,
        "remarks": found.remarks,
        "sources": found.sources,
    }


def _write(place: Path, name: str, trajectories: list[Trajectory], spec: PolicySpec, recipe: Recipe) -> None:
    place.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(place)
    import minari
    from gymnasium.spaces import Box

    warnings.filterwarnings("ignore", module="minari")  # that there is no environment
    from minari.data_collector import EpisodeBuffer

    def whole(trajectory: Trajectory) -> np.ndarray:
        last = trajectory.observation[-1] if trajectory.last is None else trajectory.last
        return np.concatenate([trajectory.observation, last[None]])

    sensors = [spec.observation[index] for index in spec.sensor_indices()]
    low, high = spec.action_limits()
    minari.create_dataset_from_buffers(
        dataset_id=name,
        buffer=[
            EpisodeBuffer(
                id=number,
                observations=whole(trajectory),
                actions=trajectory.action,
                rewards=[0.0] * len(trajectory.action),
                terminations=[False] * len(trajectory.action),
                truncations=[False] * (len(trajectory.action) - 1) + [True],
            )
            for number, trajectory in enumerate(trajectories)
        ],
        observation_space=Box(
            np.array([one.lower for one in sensors], np.float32), np.array([one.upper for one in sensors], np.float32)
        ),
        action_space=Box(low.astype(np.float32), high.astype(np.float32)),
        algorithm_name="recorded",
        author="srdp_controller",
        author_email="none@example.org",
        code_permalink="https://example.org",
        description=f"Demonstrations of task {recipe.task}, imported from {Path(recipe.data.dataset).name}",
    )
