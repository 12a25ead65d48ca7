"""Nodes of this package as processes: command lines, a private ROS domain, an orderly end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def node_command(module: str, parameters: dict[str, Any], words: Sequence[str] = ()) -> list[str]:
    """Command line of a node of this package with ROS parameters, and words before them."""
    place = module if "." in module else f"ros.{module}"
    command = [sys.executable, "-m", f"srdp_controller.{place}", *words, "--ros-args"]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command += ["-p", f"{name}:={text}"]
    return command


def private_environment() -> dict[str, str]:
    """Environment of a private, localhost-only ROS domain (unless the user chose a domain)."""
    environment = dict(os.environ)
    environment.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("RCUTILS_COLORIZED_OUTPUT", "0")
    return environment


def end_process(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> int:
    """Interrupt a process, wait for it, kill it when it does not end; its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
