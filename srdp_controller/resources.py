"""Finds the package's data (models, scenarios, configuration) in a checkout or an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from srdp_controller.errors import SrdpError

PACKAGE = "srdp_controller"


def share_candidates() -> list[Path]:
    """Folders that may hold ``models/``, ``sim/`` and ``config/``, best first."""
    candidates = [Path(__file__).resolve().parent.parent]
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    candidates += [Path(prefix) / "share" / PACKAGE for prefix in [*prefixes, sys.prefix]]
    return candidates


def find_resource(relative: str) -> Path:
    """Path of a file or folder that the package ships, e.g. ``sim/scenarios/pushing/nominal.yaml``."""
    for folder in share_candidates():
        path = folder / relative
        if path.exists():
            return path
    looked = ", ".join(str(folder) for folder in share_candidates())
    raise SrdpError(f"{relative} was not found in {looked}; reinstall the package or run from its checkout")
