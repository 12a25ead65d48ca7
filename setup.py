"""Metadata lies in setup.cfg; this file lists the data that ROS 2 looks for under ``share`` and ``lib``."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

PACKAGE = "srdp_controller"
SHARED = ("launch", "config", "models", "sim", "export")


def shared_files() -> list[tuple[str, list[str]]]:
    """Every file of the shared folders, with its place under ``share/srdp_controller``."""
    places: dict[str, list[str]] = {}
    for folder in SHARED:
        for path in sorted(Path(folder).rglob("*")):
            hidden = any(part.startswith(".") or part.endswith(".tmp") or part == "__pycache__" for part in path.parts)
            if path.is_file() and not hidden:
                places.setdefault(f"share/{PACKAGE}/{path.parent}", []).append(str(path))
    return list(places.items())


setup(
    # not in setup.cfg: colcon cannot read the object that setuptools makes of it there
    python_requires=">=3.10",
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        # `ros2 run` and launch look here; plain pip puts console scripts into bin/ only
        (f"lib/{PACKAGE}", ["scripts/controller_node", "scripts/sim_node"]),
        *shared_files(),
    ],
)
