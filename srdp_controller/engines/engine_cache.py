"""Built TensorRT engines, kept beside the bundle: a cache that is never committed and rebuilt where the key differs.

An engine is machine code for one TensorRT and one kind of GPU, and its parser trusts it. So it is made on
the machine that runs it or brought there by someone trusted, and its hash is checked before it is parsed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import LoadedBundle, sha256
from srdp_controller.errors import EngineError
from srdp_controller.files import write_file

FOLDER = ".engines"


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built for; another graph, version, GPU or precision needs another engine."""

    policy: str
    graph_sha256: str
    flavour: str
    version: str
    compute_capability: str
    precision: str

    @property
    def file_name(self) -> str:
        """Name of the engine's file, which holds the whole key."""
        capability = self.compute_capability.replace(".", "")
        parts = (self.policy, self.graph_sha256[:16], self.flavour, self.version, f"sm{capability}", self.precision)
        return "-".join(parts) + ".engine"


def cache_folder(bundle: LoadedBundle, override: str = "") -> Path:
    """Where a bundle's engines lie: ``override``, or ``.engines`` in the bundle's own folder."""
    return Path(override) if override else bundle.folder / FOLDER


def store(folder: Path, key: EngineKey, plan: bytes, facts: dict[str, Any]) -> Path:
    """Write an engine, then the file that makes it valid; returns the engine's path.

    Raises:
        EngineError: the folder cannot be written.
    """
    path = folder / key.file_name
    record = {**asdict(key), "sha256": sha256(plan), "bytes": len(plan), **facts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, plan)
        write_file(path.with_suffix(".json"), json.dumps(record, indent=1).encode() + b"\n")
    except OSError as error:
        raise EngineError(
            f"{folder}: {error.strerror}; engines cannot be kept there, choose another folder "
            "(--cache, the node's engine_cache)"
        ) from None
    return path


def find(folder: Path, key: EngineKey) -> bytes | None:
    """The engine for a key, its hash verified; None where there is none.

    Raises:
        EngineError: there is one and it is damaged.
    """
    path = folder / key.file_name
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        plan = path.read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: {error}; delete it, it will be built again") from None
    wanted = record.get("sha256") if isinstance(record, dict) else None
    if sha256(plan) != wanted or record.get("graph_sha256") != key.graph_sha256:
        raise EngineError(f"{path}: damaged, its hash is not the one that was written with it; delete it and rebuild")
    return plan


def delete_outdated(folder: Path, bundle: LoadedBundle) -> list[Path]:
    """Delete engines of graphs that the bundle no longer has; returns what was deleted."""
    known = {entry.sha256[:16] for entry in bundle.content.policies.values()}
    gone = []
    for path in sorted(folder.glob("*.engine")) if folder.is_dir() else []:
        if not any(f"-{graph}-" in path.name for graph in known):
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
            gone.append(path)
    return gone
