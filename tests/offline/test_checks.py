"""Every check finds what was broken, by name, and nothing in demonstrations that are whole."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from bags import Bag, demonstrations, record

from srdp_controller import cli
from srdp_controller.offline.data.bag import import_bags
from srdp_controller.offline.data.checks import CHECKS
from srdp_controller.offline.recipe import BagRecipe
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import find_task

TASK = find_task("tests.robots.arm:Arm")
SPEC = TASK.spec()
JOINTS = list(range(7))


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return record(tmp_path_factory.mktemp("bag") / "arm.mcap", TASK, 8)


@pytest.fixture(scope="module")
def whole(bag):
    return import_bags(bag, SPEC, BagRecipe(), lambda *_: None).trajectories


def changed(trajectories, observe=lambda values: None, act=lambda values: None):
    """Copies of trajectories, changed in place."""
    found = []
    for one in trajectories:
        one = replace(one, observation=one.observation.copy(), action=one.action.copy())
        observe(one.observation)
        act(one.action)
        found.append(one)
    return found


def found(trajectories, spec=SPEC):
    return {name: texts for name, check in CHECKS.items() if (texts := list(check(trajectories, spec)))}


def test_nothing_is_wrong_with_demonstrations_that_are_whole(whole):
    assert not found(whole)


def test_a_sensor_that_never_changes_is_named(whole):
    def stuck(values):
        values[:, 3] = 1.25

    assert found(changed(whole, stuck))["constant columns"] == [
        "observation joint_4 is 1.25 in all of the data; leave it out, or look at its sensor"
    ]


def test_an_observation_that_is_another_one_is_named(whole):
    def twice(values):
        values[:, 5] = values[:, 2]

    assert found(changed(whole, twice))["duplicated columns"][0].startswith(
        "observation joint_6 is always equal to observation joint_3;"
    )


def test_limits_that_exclude_the_data_are_named_with_their_share(whole):
    def far(values):
        values[:, 8] *= 10.0

    def fast(values):
        values[:, 0] *= 3.0

    texts = found(changed(whole, far, fast))["limits"]
    assert texts[0].startswith("observation object_x: ") and "the controller would hold" in texts[0]
    assert texts[1].startswith("action joint_1_velocity: ") and "the safety filter would cut" in texts[1]


def test_commands_of_joints_in_another_order_are_named(whole):
    def swapped(values):
        values[:, [1, 4]] = values[:, [4, 1]]

    texts = found(changed(whole, act=swapped))["joint order"]
    assert [text.partition(" (")[0] for text in texts] == [
        "action joint_2_velocity moves joint_5",
        "action joint_5_velocity moves joint_2",
    ]


def test_a_command_of_the_other_sign_is_named(whole):
    def turned(values):
        values[:, 2] *= -1.0

    assert found(changed(whole, act=turned))["joint order"] == [
        "action joint_3_velocity moves joint_3 the other way (correlation -1.00); is its sign right?"
    ]


def test_a_quaternion_that_changes_its_sign_is_named(whole):
    content = SPEC.model_dump()
    pose = {"topic": "/pose", "type": "geometry_msgs/msg/PoseStamped"}
    content["observation"] = list(content["observation"])
    for place, axis in enumerate("xyzw"):  # in the place of four joints
        source = {**pose, "kind": "topic", "field": f"pose.orientation.{axis}"}
        content["observation"][place] |= {"source": source, "unit": "1", "name": f"q{axis}"}
    gripper = content["action_groups"][1]
    gripper["components"] = [{**gripper["components"][0], "index": 0}]
    content["action_groups"] = [gripper]
    spec = PolicySpec.model_validate(content)

    def flipping(values):
        values[:, :4] = [0.1, 0.2, 0.3, 0.9]
        values[::7, :4] *= -1.0

    flipped = [replace(one, action=one.action[:, 7:]) for one in changed(whole, flipping)]
    text = found(flipped, spec)["quaternion signs"][0]
    assert text.startswith("/pose pose.orientation switches between q and -q in ") and "six_dimensional" in text


def test_an_angle_that_wraps_is_named(whole):
    def wrapped(values):
        values[:, 6] = np.mod(20.0 * values[:, 6], 2 * np.pi)

    assert found(changed(whole, wrapped))["jumps"][0].startswith(
        "observation joint_7 jumps by more than half its range"
    )


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def recipe(bag, tmp_path, monkeypatch):
    """Writes a recipe for a bag and checks it: (exit status, what was printed)."""
    monkeypatch.chdir(tmp_path)

    def write(path=bag, spec=SPEC, **sections):
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
        data = {"source": "bag", "dataset": str(path), "spec": "spec.yaml"}
        content = {"task": "arm", "data": data, "split": {"calibration_share": 0.3}, "calibrate": {"alphas": [0.5]}}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, **sections}))

    return write


def check(capsys, *arguments):
    status = cli.main(["check", "recipe.yaml", *arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out + said.err


def test_a_recipe_that_is_whole_says_how_long_it_will_take(recipe, capsys):
    recipe(distill={"students": [1]})
    status, said = check(capsys)
    assert status == 0
    assert "nothing is wrong; expected on a core of this machine: teacher " in said and " MB" in said


def test_all_that_is_wrong_is_said_at_once(recipe, capsys):
    content = SPEC.model_dump()
    content["observation"][0]["upper"] = 0.0
    recipe(spec=PolicySpec.model_validate(content), calibrate={"alphas": [0.01]}, distill={"students": [200]})
    status, said = check(capsys)
    assert status == 2
    for text in ("0.01 needs 99", "students: 200 must", "/joint_states: the controller would refuse", "joint_1 is"):
        assert text in said


def test_what_is_odd_about_a_bag_is_noted(recipe, tmp_path, capsys):
    bag = Bag(tmp_path / "odd.mcap")
    late = 0
    for topic, kind, message, time_ns in demonstrations(TASK, 8):
        if topic == "/tool_pose":
            late += 1
            if late % 50 == 0:
                message["header"]["stamp"]["nanosec"] = 0
                message["header"]["stamp"]["sec"] -= 5
        if topic == "/object_pose" and late % 10:
            continue
        bag.write(topic, kind, message, time_ns)
    bag.close()
    recipe(tmp_path / "odd.mcap", distill={"students": [1]})
    status, said = check(capsys)
    assert status == 0
    assert "odd.mcap: /tool_pose has " in said and "stamps that are older than the one before" in said
    assert "odd.mcap: /object_pose comes at 10 Hz, the spec's control_rate_hz is 20" in said
