"""What every result file says of its origin: command, commit, machine, versions, seed, time."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "onnx",
    "pybullet",
    "gymnasium",
    "minari",
    "diffusers",
    "ros-rclpy",
    "srdp_controller",
)


def _answer_of(*words: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _commit() -> str:
    folder = str(Path(__file__).resolve().parent)
    return _answer_of("git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12") or "unknown"


def _value_in(path: Path, name: str) -> str:
    """The first value of ``name`` in a file of ``name : value`` lines; nothing where there is none."""
    try:
        lines = [line.partition(":") for line in path.read_text().splitlines()]
    except OSError:
        return ""
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")


def _cpu() -> str:
    return _value_in(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown"


def _gpu() -> str | None:
    """Model of the first GPU that NVIDIA's driver reports; None where there is no driver or no GPU."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if model := _value_in(path, "Model"):
            return model
    return _answer_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0] or None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where installed."""
    return {"python": platform.python_version(), **installed(PACKAGES)}


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of packages by name, of those that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe_run(command: str, seed: int | None) -> dict[str, Any]:
    """The common fields of every JSON file that a command writes."""
    return {
        "command": command,
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "kernel": platform.release(),
            "gpu": _gpu(),
        },
        "versions": versions(),
        "seed": seed,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
