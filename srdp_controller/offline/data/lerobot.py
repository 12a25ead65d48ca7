"""LeRobot datasets (format v2 and v3: parquet below ``data/``, ``meta/info.json``): states and actions, no images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import DatasetError

STATES = ("observation.state", "observation.environment_state")
ACTION = "action"


@dataclass(frozen=True)
class LeRobotDataset:
    """A dataset's description: rate [Hz], names of the numbers of observation and action, and its parquet files."""

    path: Path
    rate_hz: float
    observation: list[str]
    action: list[str]
    columns: list[str]
    files: list[Path]
    images: list[str]

    def episodes(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(number, observations (n, obs), actions (n, act)) of each episode, in order.

        Raises:
            DatasetError: a file is damaged or lacks a column.
        """
        try:
            import pyarrow.parquet as parquet
        except ModuleNotFoundError:
            raise DatasetError(
                "LeRobot datasets are read with pyarrow: pip install 'srdp_controller[lerobot]'"
            ) from None
        rows: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for file in self.files:
            try:
                table = parquet.read_table(file, columns=["episode_index", "frame_index", *self.columns, ACTION])
            except Exception as error:  # pyarrow raises several types of its own
                raise DatasetError(f"{file}: no readable parquet file ({error})") from None
            content = {name: table[name].to_pylist() for name in table.column_names}
            for place, episode in enumerate(content["episode_index"]):
                seen = np.concatenate([np.atleast_1d(content[name][place]) for name in self.columns])
                taken = np.atleast_1d(content[ACTION][place])
                rows.setdefault(int(episode), []).append((int(content["frame_index"][place]), seen, taken))
        for episode in sorted(rows):
            frames = sorted(rows[episode], key=lambda row: row[0])
            yield episode, np.stack([seen for _, seen, _ in frames]), np.stack([taken for _, _, taken in frames])


def open_lerobot(path: Path) -> LeRobotDataset:
    """A local dataset (a folder with ``meta/info.json``; ``hf download --repo-type dataset`` fetches one).

    Raises:
        DatasetError: it is none, or has no states or no actions.
    """
    try:
        info: dict[str, Any] = json.loads((path / "meta" / "info.json").read_text())
        features, rate_hz = info["features"], float(info["fps"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}: no LeRobot dataset ({error}); expected a folder with meta/info.json and data/; "
            "fetch one with `hf download --repo-type dataset`"
        ) from None
    columns = [name for name in STATES if name in features]
    missing = [] if columns else [STATES[0]]
    missing += [] if ACTION in features else [ACTION]
    if missing:
        raise DatasetError(f"{path}: no feature {' or '.join(missing)}; it has {', '.join(features)}")
    files = sorted((path / "data").rglob("*.parquet"))
    if not files:
        raise DatasetError(f"{path}: no parquet file below data/; was only the metadata fetched?")
    observation = [name for column in columns for name in _names(column, features[column])]
    images = [name for name, feature in features.items() if feature.get("dtype") in ("image", "video")]
    return LeRobotDataset(path, rate_hz, observation, _names(ACTION, features[ACTION]), columns, files, images)


def _names(column: str, feature: dict[str, Any]) -> list[str]:
    """Names of a feature's numbers: its own where it gives as many as it has numbers."""
    size = int(np.prod(feature.get("shape") or [1]))
    names = feature.get("names")
    if isinstance(names, dict):  # {"motors": [...]}
        names = next((value for value in names.values() if isinstance(value, list)), None)
    if isinstance(names, list) and len(names) == size:
        return [str(name) for name in names]
    return [f"{column.removeprefix('observation.')}_{place}" for place in range(size)]
