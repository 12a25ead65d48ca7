"""Nodes of this package as processes: command lines, a private ROS domain, robot and controller together."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.errors import SrdpError


def node_command(module: str, parameters: dict[str, Any], words: Sequence[str] = ()) -> list[str]:
    """Command line of a node of this package with ROS parameters (empty ones are left out), and words before them."""
    place = module if "." in module else f"ros.{module}"
    command = [sys.executable, "-m", f"srdp_controller.{place}", *words, "--ros-args"]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command += ["-p", f"{name}:={text}"] if text else []
    return command


def private_environment() -> dict[str, str]:
    """Environment of a private, localhost-only ROS domain (unless the user chose a domain)."""
    environment = dict(os.environ)
    environment.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("RCUTILS_COLORIZED_OUTPUT", "0")
    return environment


def join_private_domain() -> dict[str, str]:
    """A private domain that this process joins too; its environment."""
    environment = private_environment()
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        os.environ[name] = environment[name]
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


@dataclass(frozen=True)
class Pair:
    """The simulated robot and a controller, as two processes.

    Attributes:
        robot: the robot's process.
        controller: the controller's process.
        log: file of what both say; None: they say it on this terminal.
    """

    robot: subprocess.Popen[bytes]
    controller: subprocess.Popen[bytes]
    log: Path | None

    def said(self) -> str:
        """The end of what both said."""
        return "its message is above" if self.log is None else self.log.read_text()[-500:]


@contextlib.contextmanager
def robot_and_controller(
    robot: dict[str, Any],
    controller: list[str],
    environment: dict[str, str],
    log: Path | None = None,
) -> Iterator[Pair]:
    """Start the robot node with ``robot``'s parameters and the ``controller``'s command line; end both afterwards.

    Raises:
        SrdpError: the controller ended with a status other than 0.
    """
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        processes = []
        for command in (node_command("robot_node", robot), controller):
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output and subprocess.STDOUT)
            stack.callback(end_process, process)
            processes.append(process)
        pair = Pair(processes[0], processes[1], log)
        yield pair
        status = end_process(pair.controller)
        if status != 0:
            raise SrdpError(f"the controller ended with status {status}: {pair.said()}")


def default_engine(bundle: LoadedBundle) -> str:
    """The policy that is driven where none is named: the middle student by steps, or the only policy there is."""
    students = sorted(
        (name for name in bundle.content.policies if name != "teacher"),
        key=lambda name: bundle.content.policies[name].steps,
    )
    return students[len(students) // 2] if students else next(iter(bundle.content.policies))
