"""docs/own_robot.md, command by command: from a bag of the seven-joint arm to a node that drives it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bags import record

pytest.importorskip("rclpy", reason="ROS 2 is not here: source it, or install srdp_controller[ros]")

from srdp_controller.tasks.task import find_task

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
ARM = "tests.robots.arm:Arm"
# as tests/robots/arm.yaml has them: a test has less time than a user
SMALLER = [
    "teacher.network.trunk=[64]",
    "teacher.network.latent=16",
    "teacher.network.head=[128,128]",
    "teacher.diffusion_steps=10",
    "teacher.steps=1500",
    "teacher.batch=128",
    "teacher.learning_rate=0.004",
    "teacher.ema_decay=0.99",
    "distill.chain_steps=10",
    "distill.network.trunk=[64]",
    "distill.network.latent=16",
    "distill.network.head=[128,128]",
    "distill.queries=4000",
    "distill.steps=600",
    "distill.batch=128",
    "distill.learning_rate=0.002",
    "distill.ema_decay=0.99",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a bag of 60 demonstrations and the bundle that was made from it."""
    folder = tmp_path_factory.mktemp("own")
    record(folder / "demonstrations" / "demonstrations_0.mcap", find_task(ARM), 60)
    assert "60 episodes" in srdp(folder, "init", "arm", "--bag", "demonstrations")
    assert "nothing is wrong" in srdp(folder, "check", "arm/recipe.yaml")
    less = [word for setting in SMALLER for word in ("--set", setting)]
    srdp(folder, "pipeline", "arm/recipe.yaml", *less)
    srdp(folder, "verify", "models/arm")
    return folder


def srdp(folder, *arguments):
    """What a command printed; run as a user does, in a folder of his own."""
    command = [sys.executable, "-m", "srdp_controller.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # where tests.robots is
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in said, said
    return said


def test_the_student_from_the_bag_does_in_closed_loop_what_was_demonstrated(place):
    srdp(place, "eval", "closed-loop", "models/arm", "--task", ARM, "--policy", "student_k2", "--update-rate", "50",
         "--episodes", "40", "--processes", "1", "--json", "closed.json")  # fmt: skip
    assert json.loads((place / "closed.json").read_text())["success_rate"] >= 0.6


def test_the_node_drives_the_robot(place):
    srdp(place, "demo", "--model", "models/arm", "--task", ARM, "--engine", "student_k2", "--duration", "8",
         "--update-rate", "50", "--run-folder", "driven")  # fmt: skip
    summary = json.loads((place / "driven" / "summary.json").read_text())
    assert summary["successes"] >= 1


def test_a_recording_that_is_played_again_rehearses_the_node(place):
    srdp(place, "demo", "--model", "models/arm", "--task", "replay:demonstrations", "--engine", "student_k1",
         "--duration", "5", "--update-rate", "50", "--run-folder", "rehearsed")  # fmt: skip
    robot = json.loads((place / "rehearsed" / "simulation.json").read_text())
    assert robot["bad_commands"] == 0 and robot["commands"] > 100
    controller = json.loads((place / "rehearsed" / "controller.json").read_text())
    assert controller["modes"]["STUDENT"] > 100
