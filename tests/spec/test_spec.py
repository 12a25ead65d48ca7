"""What a spec of schema 2 refuses, and that it says everything at once."""

import json

import pytest

from srdp_controller.messages import package_installed
from srdp_controller.spec import PolicySpec, from_schema_1


@pytest.fixture
def content():
    """A spec of joint positions and a gripper, for a test to spoil."""
    joints = ("a", "b")
    observation = [
        {
            "name": f"joint_{name}",
            "unit": "rad",
            "lower": -3.0,
            "upper": 3.0,
            "source": {
                "kind": "topic",
                "topic": "/joint_states",
                "type": "sensor_msgs/msg/JointState",
                "field": f"position[{name}]",
            },
        }
        for name in joints
    ]
    arm = {
        "name": "arm",
        "kind": "joint_position",
        "on_hold": "last",
        "components": [
            {
                "name": f"command_{name}",
                "unit": "rad",
                "field": f"positions[{name}]",
                "lower": -2.0,
                "upper": 2.0,
                "measured_by": f"joint_{name}",
            }
            for name in joints
        ],
        "output": {"topic": "~/arm", "type": "trajectory_msgs/msg/JointTrajectory"},
    }
    gripper = {
        "name": "gripper",
        "kind": "gripper",
        "on_hold": 0.02,
        "components": [{"name": "width", "unit": "m", "field": "data[0]", "lower": 0.0, "upper": 0.1}],
        "output": {"topic": "~/gripper", "type": "std_msgs/msg/Float64MultiArray"},
    }
    return {
        "task": "reach",
        "observation": observation,
        "action_groups": [arm, gripper],
        "horizon": 8,
        "control_rate_hz": 10.0,
    }


def refused(content, *texts):
    with pytest.raises(ValueError) as caught:
        PolicySpec.model_validate(content)
    for text in texts:
        assert text in str(caught.value)


def test_left_out_indices_are_numbered_across_groups(content):
    spec = PolicySpec.model_validate(content)
    assert [action.index for action in spec.action] == [0, 1, 2]
    assert [where for _, where in spec.group_slices()] == [slice(0, 2), slice(2, 3)]
    assert PolicySpec.model_validate(json.loads(spec.model_dump_json())) == spec


def test_two_groups_on_one_topic_are_refused(content):
    content["action_groups"][1]["output"]["topic"] = "~/arm"
    refused(content, "action group gripper: output ~/arm is group arm's already")


def test_limits_that_exclude_the_command_on_hold_are_refused(content):
    content["action_groups"][1]["on_hold"] = 0.2
    refused(content, "action width", "exclude 0.2", "could not be stopped")


def test_a_velocity_that_would_keep_moving_on_hold_is_refused(content):
    arm = content["action_groups"][0]
    arm["kind"], arm["on_hold"] = "joint_velocity", "last"
    arm["output"]["type"] = "std_msgs/msg/Float64MultiArray"
    for place, component in enumerate(arm["components"]):
        component.update(unit="rad/s", field=f"data[{place}]")
    refused(content, "would keep a joint_velocity moving; expected zero")


def test_two_components_of_one_field_are_refused(content):
    content["observation"][1]["source"]["field"] = "position[a]"
    content["action_groups"][0]["components"][1]["field"] = "positions[a]"
    refused(
        content,
        "observation joint_b: reads the same as observation joint_a",
        "action group arm: field positions[a] is commanded twice",
    )


def test_a_twist_that_goes_out_as_an_array_says_by_its_units_what_turns(content):
    group = content["action_groups"][0]
    group["kind"], group["on_hold"], group["output"]["type"] = "twist", "zero", "std_msgs/msg/Float64MultiArray"
    limits = {"lower": -1.0, "upper": 1.0}
    group["components"] = [
        {"name": name, "unit": unit, "field": f"data[{place}]", **limits}
        for place, (name, unit) in enumerate((("forward", "m/s"), ("turn", "rad/s")))
    ]
    assert [action.unit for action in PolicySpec.model_validate(content).action][:2] == ["m/s", "rad/s"]
    group["components"][1]["unit"] = "deg/s"
    refused(content, "action turn: unit 'deg/s'; a twist is in m/s or rad/s")


@pytest.mark.skipif(not package_installed("sensor_msgs/msg/JointState"), reason="no ROS message packages here")
def test_a_wrong_path_is_refused_with_a_suggestion(content):
    content["observation"][0]["source"]["field"] = "positions[a]"
    refused(content, "observation joint_a: field 'positions[a]'", "did you mean position?")


def test_a_unit_that_the_source_cannot_have_is_refused(content):
    content["observation"][0]["unit"] = "deg"
    content["action_groups"][0]["components"][1]["unit"] = "deg"
    refused(content, "observation joint_a: unit 'deg'; its source is in rad or m", "action command_b: unit 'deg'")


def test_every_contradiction_is_told_at_once(content):
    content["observation"][0]["lower"] = 9.0
    content["action_groups"][0]["components"][0]["measured_by"] = "elbow"
    content["action_groups"][1]["components"][0]["max_jerk"] = 1.0
    content["workspace"] = {"frame": "base", "lower": [0.0], "upper": [1.0], "position_observations": ["nothing"]}
    refused(
        content,
        "observation joint_a: lower must be below upper",
        "no observation named 'elbow'",
        "max_jerk is no limit of a gripper",
        "no observation named 'nothing'",
    )


def test_a_topic_of_two_ages_is_refused(content):
    content["observation"][0]["source"]["max_age"] = 0.1
    refused(content, "topic /joint_states has max_age None here and 0.1 before")


def test_a_spec_of_schema_1_becomes_the_present_one(spec):
    group = spec.action_groups[0].model_copy(update={"max_speed": None})  # schema 1 knew no limit of groups
    present = spec.model_copy(update={"action_groups": (group,)})
    old = present.model_dump(mode="json", exclude={"action_groups"}, exclude_none=True)
    for component in old["observation"]:
        component["source"].pop("frame", None)
    old["action"] = group.model_dump(mode="json", exclude_none=True)["components"]
    assert PolicySpec.model_validate(from_schema_1(old)) == present
