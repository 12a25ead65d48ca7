"""The one way that files are written: under a temporary name, flushed to disk, renamed; whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_file(path: Path, data: bytes) -> None:
    """Write ``data``, making the folder where it is missing.

    Raises:
        OSError: the disk does not take it; the file is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, as ``write_file`` does."""
    write_file(path, json.dumps(content, indent=1).encode() + b"\n")
