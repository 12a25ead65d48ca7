"""The controller alone, for a robot of one's own: `ros2 launch srdp_controller controller.launch.py bundle:=FOLDER`.

The bundle names the topics. Topics of the robot's own are given with `remap`, as `old:=new` with blanks between
them: `remap:="/joint_states:=/left/joint_states /episode:=/left/episode"`.
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "bundle": ("", "bundle folder; empty: the shipped models/pushing"),
    "engine": ("student_k4", "policy of the bundle: teacher, student_k1, student_k2, student_k4, student_k8"),
    "provider": ("cpu", "cpu, cuda, tensorrt or tensorrt_rtx"),
    "update_rate": ("100.0", "rate of the control loop [Hz]"),
    "alpha": ("0.01", "abstain.alpha: one that the bundle was calibrated for (srdp inspect)"),
    "planning": ("every_cycle", "planning.mode: every_cycle, ahead, corrected or auto"),
    "command_type": ("spec", "command.type: spec, or float64_multi_array for ros2_control's forward controllers"),
    "autostart": ("true", "configure and activate at once; false: wait for a lifecycle manager"),
    "record": ("false", "write every cycle's telemetry into the run folder"),
    "run_dir": ("", "folder for the run's results; empty: none are written"),
    "params_file": ("", "YAML file with more parameters of the node"),
    "remap": ("", "old:=new pairs of topics, with blanks between them"),
}
PARAMETERS = {
    "engine": ("engine", str),
    "provider": ("provider", str),
    "update_rate": ("update_rate", float),
    "alpha": ("abstain.alpha", float),
    "planning": ("planning.mode", str),
    "command_type": ("command.type", str),
    "autostart": ("autostart", bool),
    "record": ("record", bool),
    "run_dir": ("run_dir", str),
}


def setup(context):
    """The node; when it ends, so does the launch."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    parameters = {
        parameter: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, (parameter, kind) in PARAMETERS.items()
    }
    parameters["model_dir"] = os.path.abspath(values["bundle"]) if values["bundle"] else ""
    more = [values["params_file"]] if values["params_file"] else []
    return [
        Node(
            package="srdp_controller",
            executable="controller_node",
            output="screen",
            parameters=[parameters, *more],
            remappings=[tuple(pair.split(":=", 1)) for pair in values["remap"].split()],
            on_exit=[Shutdown(reason="the controller ended")],
        )
    ]


def generate_launch_description():
    """The launch file's entry point."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=setup)])
