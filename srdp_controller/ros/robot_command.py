"""``srdp robot``: a simulated robot, or one that says what a recording says, behind the topics of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import node_command
from srdp_controller.ros import robot_node


def robot(
    bundle: tyro.conf.Positional[Path],
    *,
    replay: Path | None = None,
    task: str = "",
    scenario: str = "nominal",
    duration: float = 0.0,
    seed: int = 0,
    gui: bool = False,
    run_folder: Path | None = None,
) -> dict[str, Any]:
    """Run a robot until it is interrupted, in this shell's ROS domain; a controller beside it drives it.

    Args:
        bundle: folder, whose topics the commands come on
        replay: an MCAP bag (or a folder of them) that is played again in real time, whatever is commanded; without it
            the task's world is simulated
        task: whose robot is simulated (default: the bundle's)
        scenario: of the task, by name or path; a replay heeds its faults only
        duration: seconds from the first command on; 0: until it is interrupted
        seed: of the episodes
        gui: open the simulator's window, where it has one
        run_folder: for the episodes' outcomes

    Raises:
        SrdpError: the robot ended by an error; what it said was printed.
    """
    if replay is not None and task:
        raise SrdpError("--replay is a robot of its own; leave --task out")
    loaded = load_bundle(bundle)
    parameters = {
        "model_dir": str(bundle.resolve()),
        "task": f"replay:{replay}" if replay is not None else task or loaded.content.task,
        "scenario": scenario,
        "duration": float(duration),
        "seed": seed,
        "gui": gui,
        "run_dir": str(run_folder.resolve()) if run_folder is not None else "",
    }
    command = node_command("robot_node", parameters)
    status = robot_node.main(command[command.index("--ros-args") :])
    if status:
        raise SrdpError(f"the robot ended with status {status}")
    return {"seed": seed, **parameters}
