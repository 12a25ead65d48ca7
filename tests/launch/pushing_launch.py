"""For `launch_test tests/launch/pushing_launch.py`: the nodes come up, drive, and end cleanly."""

import os
import unittest

import launch_testing
import launch_testing.actions
import pytest
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

PUSHING = os.path.join(os.path.dirname(__file__), "..", "..", "launch", "pushing.launch.py")


@pytest.mark.launch_test
def generate_test_description():
    pushing = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PUSHING), launch_arguments=[("duration", "6.0"), ("run_dir", "runs/launch_test")]
    )
    return LaunchDescription([pushing, launch_testing.actions.ReadyToTest()])


class TestPushing(unittest.TestCase):
    def test_the_student_drives(self, proc_output):
        proc_output.assertWaitFor("mode STUDENT", timeout=30)


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_every_process_ended_well(self, proc_info):
        # active tests are over once the student drives: the run itself was cut short by the shutdown
        launch_testing.asserts.assertExitCodes(proc_info)
