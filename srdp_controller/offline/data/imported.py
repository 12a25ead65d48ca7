"""Demonstrations of other formats, read once and kept as a Minari dataset in the run folder, from which all go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import DatasetError
from srdp_controller.files import write_json
from srdp_controller.offline.data.bag import Imported, import_bags
from srdp_controller.offline.data.mcap_file import bag_files
from srdp_controller.offline.dataset import Trajectory, load_trajectories
from srdp_controller.offline.recipe import Recipe, content_hash
from srdp_controller.progress import Progress
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
    """The recipe's bags as trajectories; read anew only when they, the spec or ``data.bag`` have changed.

    Raises:
        DatasetError: as of ``import_bags``.
    """
    path = Path(recipe.data.dataset)
    if not recipe.data.dataset:
        raise DatasetError("data.dataset is empty; name an MCAP bag, or a folder of them")
    key = content_hash("bag", [recipe.data.bag], files_digest(bag_files(path)), spec)
    name, place = f"{slug(recipe.task)}/imported-v1", folder / "dataset"
    record = imported_record(folder)
    if record.get("key") != key:
        found = import_bags(path, spec, recipe.data.bag, progress)
        shutil.rmtree(place / slug(recipe.task), ignore_errors=True)
        _write(place, name, found.trajectories, spec, recipe)
        write_json(folder / RECORD, {"key": key, **facts(found)})
    return load_trajectories(place, name, spec)


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
        "refused_messages": {topic: {"count": n, "first": why} for topic, (n, why) in found.refused.items()},
        "commands_outside_limits": found.limited,
        "sources": found.sources,
    }


def _write(place: Path, name: str, trajectories: list[Trajectory], spec: PolicySpec, recipe: Recipe) -> None:
    place.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(place)
    import minari
    from gymnasium.spaces import Box
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
