"""Simulated robot and controller: `ros2 launch srdp_controller pushing.launch.py`.

With `duration` set the launch ends by itself, and its exit status tells whether the run was sound.
"""

import os
import sys
import time

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action
from launch.events.process import ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "task": ("pushing", "task whose robot is simulated: its name, module:Class, gymnasium:ENV_ID or metaworld:NAME"),
    "engine": ("student_k4", "policy of the bundle: teacher, student_k1, student_k2, student_k4, student_k8"),
    "provider": ("cpu", "cpu, cuda, tensorrt or tensorrt_rtx"),
    "scenario": ("nominal", "scenario of the task by name, or a path to a scenario YAML"),
    "update_rate": ("100.0", "rate of the control loop [Hz]"),
    "planning": (
        "every_cycle",
        "planning.mode: every_cycle, ahead, corrected, or auto (ahead where the engine outlasts the period)",
    ),
    "params_file": ("", "YAML file with more parameters of the nodes"),
    "duration": ("0.0", "seconds of control, then end; 0: until interrupted"),
    "record": ("false", "write every cycle's telemetry into the run folder"),
    "gui": ("false", "open the PyBullet window"),
    "model_dir": ("", "bundle folder; empty: the shipped models/pushing"),
    "seed": ("0", "seed of the episodes and of the sampler's noise"),
    "run_dir": ("", "folder for the run's results; empty: runs/TIME below the working directory"),
}
TYPES = {"update_rate": float, "duration": float, "record": bool, "gui": bool, "seed": int}


def setup(context):
    """Both nodes, and what happens when one of them ends."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    run_dir = os.path.abspath(values["run_dir"] or os.path.join("runs", time.strftime("%Y%m%d-%H%M%S")))

    def parameters(*names):
        chosen = {name: ParameterValue(LaunchConfiguration(name), value_type=TYPES.get(name, str)) for name in names}
        return [{**chosen, "run_dir": run_dir}]

    more = [values["params_file"]] if values["params_file"] else []
    planning = {"planning.mode": ParameterValue(LaunchConfiguration("planning"), value_type=str)}
    robot = Node(
        package="srdp_controller",
        executable="sim_node",
        output="screen",
        parameters=[*parameters("task", "model_dir", "scenario", "gui", "duration", "seed"), *more],
    )
    controller = Node(
        package="srdp_controller",
        executable="controller_node",
        output="screen",
        parameters=[
            *parameters("engine", "provider", "update_rate", "model_dir", "record", "seed"),
            planning,
            *more,
        ],
    )
    summary = ExecuteProcess(
        cmd=[sys.executable, "-m", "srdp_controller.cli", "summary", run_dir], output="screen", name="summary"
    )
    status = {}

    def fail(reason):
        # launch returns a status other than zero only when an action raises
        def action(_):
            raise RuntimeError(reason)

        return [OpaqueFunction(function=action)]

    def robot_ended(event, _):
        status["robot"] = event.returncode
        return [EmitEvent(event=ShutdownProcess(process_matcher=matches_action(controller)))]

    def controller_ended(event, context):
        if context.is_shutdown:
            return []
        if event.returncode != 0:
            return fail(f"the controller ended with status {event.returncode}")
        if "robot" not in status:
            return [Shutdown(reason="the controller ended")]
        if status["robot"] != 0:
            return fail(f"the simulated robot ended with status {status['robot']}")
        return [summary]

    def summary_ended(event, _):
        if event.returncode != 0:
            return fail("the run was not sound, see above")
        return [Shutdown(reason="the run is over and sound")]

    return [
        robot,
        controller,
        RegisterEventHandler(OnProcessExit(target_action=robot, on_exit=robot_ended)),
        RegisterEventHandler(OnProcessExit(target_action=controller, on_exit=controller_ended)),
        RegisterEventHandler(OnProcessExit(target_action=summary, on_exit=summary_ended)),
    ]


def generate_launch_description():
    """The launch file's entry point."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=setup)])
