"""``srdp demo``: the launch file's two nodes as two processes over real DDS, with live progress."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from srdp_controller.errors import SrdpError
from srdp_controller.processes import end_process, node_command, private_environment
from srdp_controller.report.run import summarise_run


def run_demo(
    *,
    engine: str,
    scenario: str,
    duration: float,
    update_rate: float,
    provider: str,
    swap: bool,
    run_folder: Path,
    model: str,
    gui: bool,
    seed: int,
    planning: str = "every_cycle",
) -> dict[str, Any]:
    """Run robot and controller for ``duration`` seconds of control; summary as in the JSON contract.

    Raises:
        SrdpError: a node could not start; its own message was printed above.
    """
    from srdp_controller.ros.monitor import Monitor

    shutil.rmtree(run_folder, ignore_errors=True)
    run_folder.mkdir(parents=True)
    environment = private_environment()
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        os.environ[name] = environment[name]
    folder = str(run_folder.resolve())
    simulation = {"scenario": scenario, "duration": float(duration), "run_dir": folder, "gui": gui, "seed": seed}
    control = {
        "engine": engine,
        "provider": provider,
        "update_rate": float(update_rate),
        "run_dir": folder,
        "seed": seed,
        "record": True,
        "planning.mode": planning,
    }
    if model:
        control["model_dir"] = str(Path(model).resolve())
    print(
        f"simulated robot ({scenario}) and controller ({engine}, {update_rate:.0f} Hz) for {duration:.0f} s", flush=True
    )
    with contextlib.ExitStack() as stack:
        robot = subprocess.Popen(node_command("robot_node", simulation), env=environment)
        stack.callback(end_process, robot)
        controller = subprocess.Popen(node_command("controller_node", control), env=environment)
        stack.callback(end_process, controller)
        monitor = stack.enter_context(Monitor())
        give_up = time.monotonic() + duration + 60.0
        swapped = not swap
        while robot.poll() is None:
            if controller.poll() is not None:
                raise SrdpError(f"the controller ended with status {controller.returncode}; its message is above")
            if time.monotonic() > give_up:
                raise SrdpError("the robot did not see a command in time; is another process using this ROS domain?")
            monitor.wait(0.5)
            monitor.show(duration)
            if not swapped and monitor.elapsed_s > duration / 2:
                swapped = True
                target = "student_k1" if engine != "student_k1" else "student_k4"
                print(f"\nswapping to {target}", flush=True)
                monitor.swap(target)
        print(flush=True)
        if robot.returncode != 0:
            raise SrdpError(f"the simulated robot ended with status {robot.returncode}; its message is above")
        status = end_process(controller)
    if status != 0:
        raise SrdpError(f"the controller ended with status {status}; its message is above")
    summary = summarise_run(run_folder)
    return {"seed": seed, **summary}
