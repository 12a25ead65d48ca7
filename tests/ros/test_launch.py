"""The launch files under the real ``launch``; skipped where ROS 2's launch is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="ROS 2's launch is not installed (it comes with a ROS 2 installation)")
pytest.importorskip("launch_testing", reason="ROS 2's launch_testing is not installed")

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
pytestmark = pytest.mark.ros


def launch(name, run_dir, *arguments, patience=120):
    """Run a launch file in a process of its own; its status is that of the launch service."""
    code = (
        "import sys\n"
        "from launch import LaunchDescription, LaunchService\n"
        "from launch.actions import IncludeLaunchDescription\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource\n"
        "service = LaunchService()\n"
        "given = [argument.split(':=', 1) for argument in sys.argv[2:]]\n"
        "source = PythonLaunchDescriptionSource(sys.argv[1])\n"
        "service.include_launch_description(\n"
        "    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given)]))\n"
        "sys.exit(service.run())\n"
    )
    command = [sys.executable, "-c", code, str(LAUNCH / name), f"run_dir:={run_dir}", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_pushing_ends_by_itself_and_its_status_says_sound(tmp_path):
    ended = launch("pushing.launch.py", tmp_path, "duration:=7.0", "engine:=student_k2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sound"] and summary["engine"] == "student_k2" and summary["commands"] == summary["cycles"]


def test_a_start_that_fails_gives_a_status_other_than_zero(tmp_path):
    ended = launch("pushing.launch.py", tmp_path, "duration:=5.0", "engine:=student_k3")
    assert ended.returncode != 0
    assert "the bundle has: teacher" in ended.stdout + ended.stderr


def test_a_teacher_plans_ahead_and_a_file_brings_more_parameters(tmp_path):
    file = tmp_path / "more.yaml"
    file.write_text("/srdp_controller:\n  ros__parameters:\n    observation.max_age: 0.2\n")
    arguments = ["duration:=4.0", "engine:=teacher", "update_rate:=1000.0", "planning:=auto", f"params_file:={file}"]
    ended = launch("pushing.launch.py", tmp_path / "run", *arguments)
    assert "(planning ahead)" in ended.stdout + ended.stderr
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_latency_runs_faster_by_default(tmp_path):
    ended = launch("latency.launch.py", tmp_path, "duration:=4.0", "engine:=student_k1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["update_rate_hz"] == 500.0
