"""Closed-loop latency test: pushing at 500 Hz for a minute, every cycle recorded.

`ros2 launch srdp_controller latency.launch.py engine:=student_k1 provider:=tensorrt` on an embedded GPU.
All arguments of pushing.launch.py are taken; only the defaults differ.
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

DEFAULTS = {"update_rate": "500.0", "duration": "60.0", "record": "true"}


def generate_launch_description():
    """The launch file's entry point."""
    pushing = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pushing.launch.py")
    declared = [DeclareLaunchArgument(name, default_value=value) for name, value in DEFAULTS.items()]
    passed = {name: LaunchConfiguration(name) for name in DEFAULTS}
    return LaunchDescription(
        [
            *declared,
            IncludeLaunchDescription(PythonLaunchDescriptionSource(pushing), launch_arguments=passed.items()),
        ]
    )
