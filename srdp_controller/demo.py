"""``srdp demo``: the launch file's two nodes as two processes over real DDS, with live progress."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Literal

from srdp_controller.control.build import default_values
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.processes import default_engine, join_private_domain, node_command, robot_and_controller
from srdp_controller.report.run import summarise_run
from srdp_controller.resources import find_resource
from srdp_controller.tasks.task import find_task

# far above the node's: a teacher of 200 to 400 ms is to be seen losing its object, not stopping
PATIENCE = {"observation.max_age": 1.0, "fallback.hold_time": 5.0}


def demo(
    *,
    task: str = "",
    model: str = "",
    engine: str = "",
    scenario: str = "nominal",
    duration: float = 30.0,
    update_rate: float = 100.0,
    provider: str = "cpu",
    planning: Literal["every_cycle", "ahead", "auto", "corrected"] = "auto",
    swap: bool = False,
    run_folder: Path = Path("runs/latest"),
    seed: int = 0,
    gui: bool = False,
) -> dict[str, Any]:
    """Run the simulated robot and the controller over DDS; the summary of the run.

    Args:
        task: whose robot is simulated: a name, module:Class, gymnasium:ENV_ID, metaworld:NAME or
            replay:BAG; default: the bundle's
        model: bundle folder; default: the shipped models/pushing
        engine: a policy of the bundle; default: its middle student
        scenario: of the task, by name or path
        duration: seconds of control
        update_rate: of the controller [Hz]
        provider: cpu, cuda, tensorrt or tensorrt_rtx
        planning: run the engine in every cycle, or ahead of the loop; auto: where it outlasts the period; corrected:
            ahead, with the bundle's correction head
        swap: swap the engine at half time
        run_folder: where records and pictures go; what is there is deleted
        seed: of the episodes and the policy's noise
        gui: open the simulator's window, where it has one

    Raises:
        SrdpError: a node could not start; its own message was printed above.
    """
    from srdp_controller.ros.monitor import Monitor

    path = Path(model).resolve() if model else find_resource("models/pushing")
    bundle = load_bundle(path)
    engine = engine or default_engine(bundle)
    task = task or bundle.content.task
    known, actions = find_task(task), bundle.spec.act_dim
    commanded = actions if known.passive else known.spec().act_dim
    if actions != commanded:
        raise SrdpError(f"task {task} takes {commanded} commands, {path} has {actions}; name its bundle with --model")
    others = [name for name in bundle.content.policies if name not in (engine, "teacher")]
    if swap and not others:
        raise SrdpError(f"--swap: {path} has no student beside {engine}")
    shutil.rmtree(run_folder, ignore_errors=True)
    run_folder.mkdir(parents=True)
    common = {"run_dir": str(run_folder.resolve()), "seed": seed, "model_dir": str(path)}
    robot = {
        **common,
        "task": task,
        "scenario": scenario,
        "duration": float(duration),
        "gui": gui,
    }
    control = {**common, "engine": engine, "provider": provider, "update_rate": float(update_rate), "record": True}
    # a bundle of few trajectories has no threshold for the node's alpha: then that for its smallest
    control["abstain.alpha"] = bundle.calibration().smallest_alpha(default_values()["abstain.alpha"])
    control |= {"planning.mode": planning, **(PATIENCE if engine == "teacher" else {})}
    controller = node_command("controller_node", control)
    environment = join_private_domain()
    print(
        f"simulated robot ({scenario}) and controller ({engine}, {update_rate:.0f} Hz) for {duration:.0f} s", flush=True
    )
    with robot_and_controller(robot, controller, environment) as pair, Monitor() as monitor:
        give_up = time.monotonic() + duration + 60.0
        swapped = not swap
        while pair.robot.poll() is None:
            if pair.controller.poll() is not None:
                raise SrdpError(f"the controller ended with status {pair.controller.returncode}; {pair.said()}")
            if time.monotonic() > give_up:
                raise SrdpError("the robot did not see a command in time; is another process using this ROS domain?")
            monitor.wait(0.5)
            monitor.show(duration)
            if not swapped and monitor.elapsed_s > duration / 2:
                swapped = True
                print(f"\nswapping to {others[0]}", flush=True)
                monitor.swap(others[0])
        print(flush=True)
        if pair.robot.returncode != 0:
            raise SrdpError(f"the simulated robot ended with status {pair.robot.returncode}; {pair.said()}")
    return summarise_run(run_folder)
