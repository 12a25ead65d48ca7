"""The commands of a scripted run, cycle by cycle, as the controller of commit 2e4b20f gave them for
the slow box's bundle."""

import json
import math
from pathlib import Path

import pytest
from virtual_rig import Virtual

BEFORE = json.loads((Path(__file__).parent / "golden_commands.json").read_text())
RUNS = {"student_k4": ("student_k4", False, math.inf), "student_k1": ("student_k1", False, 0.3)}
RUNS["teacher_ahead"] = ("teacher", True, math.inf)


def messages(cycle):
    a = cycle / 50.0
    joints = [0.11316 + 0.03 * math.sin(a), 0.94705, 0.36785 + 0.02 * a, -1.34959, -0.37755]
    joints += [0.91374 + 0.01 * math.cos(a), -0.99858]
    sent = {"/joint_states": joints, "/object_pose": [-0.15 + 0.05 * a, 0.03 * math.cos(a)], "/goal_pose": [0.15, 0.0]}
    if 60 <= cycle < 100:
        del sent["/object_pose"]  # runs out, then holds
    if 130 <= cycle < 135:
        sent["/joint_states"] = [math.nan] * 7
    if 160 <= cycle < 180:
        sent["/object_pose"] = [5.0, 0.0]  # outside its limits
    return sent


@pytest.mark.parametrize("name", RUNS)
def test_every_command_is_as_before(bundle, name):
    engine, ahead, threshold = RUNS[name]
    rig = Virtual(bundle, engine=engine, ahead=ahead, threshold=threshold, seed=3)
    for cycle, (mode, x, y, age_ns) in enumerate(BEFORE[name]):
        rig.messages = messages(cycle)
        assert rig.step().value == mode, f"cycle {cycle}"
        command, measured = rig.published[-1]
        assert command == pytest.approx([x, y], abs=2e-6), f"cycle {cycle}"  # graphs answer within float32 elsewhere
        assert (rig.now - measured if measured > 0 else None) == age_ns, f"cycle {cycle}"
