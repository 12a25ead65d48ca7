import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from srdp_controller.errors import SpecError
from srdp_controller.observation import NEVER_NS, ObservationAssembler
from srdp_controller.spec import ActionPrefixSource, CommandHistorySource, PolicySpec

JOINTS = [0.0, 0.6, 0.0, -1.7, 0.0, 0.85, 0.0]


@pytest.fixture
def assembler(spec):
    return ObservationAssembler(spec)


def fill(assembler, now=100):
    assert assembler.update("/joint_states", JOINTS, now) is None
    assert assembler.update("/object_pose", [-0.1, 0.02], now) is None
    assert assembler.update("/goal_pose", [0.15, 0.01], now) is None


def test_values_land_at_their_index(assembler):
    fill(assembler)
    assert assembler.vector[2:6] == pytest.approx([-0.1, 0.02, 0.15, 0.01])


def test_missing_names_the_required_topics_only(assembler):
    assert assembler.missing() == ["/joint_states", "/object_pose", "/goal_pose"]
    assert assembler.oldest_ns() == NEVER_NS


def test_an_optional_topic_has_its_default_until_it_speaks(assembler):
    fill(assembler)
    assert assembler.missing() == []
    assert assembler.vector[6:] == pytest.approx([0.0, 0.0])
    assembler.update("/post_pose", [0.01, -0.01], 5)
    assert assembler.vector[6:] == pytest.approx([0.01, -0.01])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 5.0])
def test_a_bad_value_changes_nothing_and_is_named(assembler, bad):
    fill(assembler)
    before = assembler.vector.copy()
    assert assembler.update("/object_pose", [0.0, bad], 200).startswith("object_y")
    assert np.array_equal(assembler.vector, before)
    assert assembler.plans["/object_pose"].measured_ns == 100


def test_a_nan_joint_is_refused(assembler):
    assert assembler.update("/joint_states", [math.nan, *JOINTS[1:]], 1) is not None


def test_an_older_message_is_ignored(assembler):
    fill(assembler, now=100)
    assembler.update("/object_pose", [0.05, 0.05], 50)
    assert assembler.vector[2] == pytest.approx(-0.1)


def test_oldest_is_the_oldest_required_topic(assembler):
    fill(assembler, now=100)
    assembler.update("/joint_states", JOINTS, 300)
    assert assembler.oldest_ns() == 100


def test_command_history_is_written_by_age(spec):
    data = spec.model_dump()
    data["observation"][7]["source"] = CommandHistorySource(component=1, age_s=0.05).model_dump()
    assembler = ObservationAssembler(PolicySpec.model_validate(data))
    assembler.set_history({50_000_000: [0.1, -0.2]})
    assert assembler.vector[7] == pytest.approx(-0.2)


def test_a_spec_with_an_unknown_chain_is_refused(spec):
    data = spec.model_dump()
    data["kinematics"] = {}
    with pytest.raises(ValueError, match="no kinematic chain"):
        PolicySpec.model_validate(data)


def test_a_prefix_without_its_length_is_refused(spec):
    data = spec.model_dump()
    data["observation"][7]["source"] = ActionPrefixSource(component=1, step=0).model_dump()
    with pytest.raises(ValueError, match="action_prefix_length"):
        PolicySpec.model_validate(data)


def test_past_and_committed_commands_take_their_places(spec):
    extended = spec.extended(commands=2, prefix=3)
    assert extended.obs_dim == 8 + 2 * 2 + 3 * 2 + 1
    assembler = ObservationAssembler(extended)
    one, two = assembler.history_ages_ns[0], assembler.history_ages_ns[2]
    assert (one, two) == (50_000_000, 100_000_000)
    assembler.set_history({one: (0.1, 0.2), two: (0.3, 0.4)})
    assembler.set_prefix([(0.05, 0.06)])
    np.testing.assert_allclose(assembler.vector[8:], [0.1, 0.2, 0.3, 0.4, 0.05, 0.06, 0, 0, 0, 0, 1])
    assembler.set_prefix([])
    np.testing.assert_allclose(assembler.vector[12:], 0.0)


def test_more_committed_actions_than_the_policy_knows_are_refused(spec):
    assembler = ObservationAssembler(spec.extended(commands=0, prefix=1))
    with pytest.raises(SpecError, match="trained with 1"):
        assembler.set_prefix([(0.0, 0.0), (0.0, 0.0)])


def test_past_observations_are_those_of_their_age(spec):
    assembler = ObservationAssembler(spec.extended(observations=2))
    assert assembler.spec.obs_dim == 24
    for cycle in range(40):  # 100 Hz
        now_ns = cycle * 10_000_000
        assembler.update("/object_pose", (0.001 * cycle, 0.0), now_ns)
        assembler.remember(now_ns)
    np.testing.assert_allclose(assembler.vector[[2, 10, 18]], [0.039, 0.034, 0.029], atol=1e-6)


def test_before_anything_is_remembered_the_past_is_like_the_present(spec):
    assembler = ObservationAssembler(spec.extended(observations=1))
    assembler.update("/object_pose", (0.05, 0.0), 0)
    assembler.remember(0)
    assert assembler.vector[10] == assembler.vector[2]


def test_the_memory_of_past_observations_does_not_grow(spec):
    assembler = ObservationAssembler(spec.extended(observations=3))
    for cycle in range(5000):
        assembler.remember(cycle * 1_000_000)
    assert len(assembler._memory) < 60


def test_a_history_of_what_no_sensor_fills_is_refused(spec):
    data = spec.extended(observations=1).model_dump()
    data["observation"][9]["source"]["component"] = 8
    with pytest.raises(ValueError, match="filled by no sensor"):
        PolicySpec.model_validate(data)


# --- rotations, relative poses, ages ------------------------------------------------------------

POSE = "geometry_msgs/msg/PoseStamped"
FORMS = {"canonical": 4, "six_dimensional": 6, "yaw": 1}
RELATIVE = {"x": "m", "y": "m", "z": "m", "yaw": "rad", **{f"r{place}": "1" for place in range(6)}}
QUATERNION = [f"pose.orientation.{axis}" for axis in "xyzw"]
FULL_POSE = [f"pose.position.{axis}" for axis in "xyz"] + QUATERNION


def spec_of(spec, *components):
    data = spec.model_dump()
    data["workspace"] = None
    data["observation"] = [
        {"name": name, "unit": unit, "lower": -5.0, "upper": 5.0, "source": source} for name, unit, source in components
    ]
    return PolicySpec.model_validate(data)


def rotations(spec):
    source = {"kind": "rotation", "topic": "/tool", "type": POSE, "field": "pose.orientation"}
    return spec_of(
        spec,
        *(
            (f"{form}_{place}", "rad" if form == "yaw" else "1", {**source, "form": form, "component": place})
            for form, many in FORMS.items()
            for place in range(many)
        ),
    )


def relative(spec, **more):
    to = {"topic": "/goal", "type": POSE, "field": "pose"}
    source = {"kind": "relative_pose", "topic": "/tool", "type": POSE, "field": "pose", "to": to, **more}
    return spec_of(spec, *((name, unit, {**source, "coordinate": name}) for name, unit in RELATIVE.items()))


components = st.floats(-1.0, 1.0) | st.just(0.0)
quaternions = st.tuples(components, components, components, components)


def unit(quaternion):
    norm = math.hypot(*quaternion)
    assume(norm > 1e-3)
    return [value / norm for value in quaternion]


def matrix(x, y, z, w):
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@given(quaternions)
def test_a_quaternion_and_its_negative_are_the_same_observation(spec, quaternion):
    quaternion = unit(quaternion)
    spec = rotations(spec)
    one, other = ObservationAssembler(spec), ObservationAssembler(spec)
    assert one.plans["/tool"].fields == QUATERNION
    assert one.update("/tool", quaternion, 1) is None
    assert other.update("/tool", [-value for value in quaternion], 1) is None
    assert np.array_equal(one.vector, other.vector)
    assert one.vector[3] >= 0.0
    turn = matrix(*quaternion)
    np.testing.assert_allclose(one.vector[4:10], turn[:, :2].T.ravel(), atol=1e-6)
    assert math.cos(one.vector[10]) * math.hypot(turn[0, 0], turn[1, 0]) == pytest.approx(turn[0, 0], abs=1e-6)


@pytest.mark.parametrize("quaternion", [(0.0,) * 4, (0.0, 0.0, 0.0, 1.02), (math.nan, 0, 0, 1), (math.inf, 0, 0, 1)])
def test_a_quaternion_that_is_no_rotation_is_refused(spec, quaternion):
    assembler = ObservationAssembler(rotations(spec))
    assert "its quaternion has norm" in assembler.update("/tool", quaternion, 1)
    assert assembler.missing() == ["/tool"]


@given(quaternions, quaternions, st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6))
def test_a_relative_pose_is_what_the_matrices_say(spec, first, second, positions):
    first, second = unit(first), unit(second)
    tool, goal = np.array(positions[:3]), np.array(positions[3:])
    assembler = ObservationAssembler(relative(spec))
    assert assembler.plans["/tool"].fields == assembler.plans["/goal"].fields == FULL_POSE
    assert assembler.update("/tool", [*tool, *first], 1) is None
    assert assembler.missing() == ["/goal"]
    assert not assembler.vector.any()
    assert assembler.update("/goal", [*goal, *second], 2) is None
    assert assembler.oldest_ns() == 1
    turn = matrix(*second).T @ matrix(*first)
    np.testing.assert_allclose(assembler.vector[:3], matrix(*second).T @ (tool - goal), atol=1e-5)
    np.testing.assert_allclose(assembler.vector[4:], turn[:, :2].T.ravel(), atol=1e-5)


def test_a_relative_pose_follows_both_of_its_topics(spec):
    assembler = ObservationAssembler(relative(spec))
    still = [0.0, 0.0, 0.0, 1.0]
    for topic, x, expected in (("/tool", 0.5, 0.0), ("/goal", 0.1, 0.4), ("/tool", 1.0, 0.9), ("/goal", 0.2, 0.8)):
        assert assembler.update(topic, [x, 0.0, 0.0, *still], 1) is None
        assert assembler.vector[0] == pytest.approx(expected)
    assembler.reset()
    assembler.update("/tool", [2.0, 0.0, 0.0, *still], 1)
    assert assembler.vector[0] == pytest.approx(0.8)  # the goal of before the reset counts no longer


def test_a_joint_may_be_observed_directly_and_through_its_chain(spec):
    data = spec.model_dump()
    for joint, place in (("lbr_iiwa_joint_4", 7), ("lbr_iiwa_joint_2", 6)):
        source = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": f"position[{joint}]"}
        data["observation"][place].update(source={"kind": "topic", **source}, unit="rad", lower=-3.0, upper=3.0)
    data["observation"] = [{**one, "index": place} for place, one in enumerate(data["observation"][::-1])]
    assembler, plain = ObservationAssembler(PolicySpec.model_validate(data)), ObservationAssembler(spec)
    joints = dict(zip(plain.plans["/joint_states"].fields, JOINTS, strict=True))
    fields = assembler.plans["/joint_states"].fields
    assert sorted(fields) == sorted(joints)
    assert assembler.update("/joint_states", [joints[path] for path in fields], 1) is None
    plain.update("/joint_states", JOINTS, 1)
    assert assembler.vector[:2] == pytest.approx([JOINTS[3], JOINTS[1]])
    assert assembler.vector[-2:] == pytest.approx(plain.vector[1::-1])


def test_each_source_has_its_own_age(spec):
    data = spec.model_dump()
    for component in data["observation"][2:4]:
        component["source"]["max_age"] = 1e-6
    assembler = ObservationAssembler(PolicySpec.model_validate(data))
    assert "no valid message yet" in assembler.stale(0, 10**9)
    fill(assembler, now=100)
    assert assembler.stale(1_100, 10**6) == ""
    assert assembler.stale(1_101, 10**6).startswith("/object_pose")
    assembler.update("/object_pose", [-0.1, 0.02], 2_000_000)
    assert assembler.stale(2_000_000, 10**6).startswith("/joint_states")


def test_a_new_episode_knows_nothing_that_was_measured_before_it(assembler):
    fill(assembler, now=100)
    assembler.update("/post_pose", [0.01, -0.01], 100)
    assembler.update("/goal_pose", [0.15, 0.01], 200)
    assembler.discard_before(150)
    assert assembler.missing() == ["/joint_states", "/object_pose"]
    assert assembler.update("/object_pose", [0.05, 0.05], 149) is None
    assert assembler.missing() == ["/joint_states", "/object_pose"]
    assembler.update("/object_pose", [0.05, 0.05], 150)
    assembler.update("/post_pose", [0.02, 0.0], 120)
    assert assembler.missing() == ["/joint_states"]
    assert assembler.vector[6:] == pytest.approx([0.02, 0.0])  # a fixture that was latched before still counts


def test_a_topic_whose_components_all_have_defaults_hears_latched_and_ordinary_publishers(assembler):
    assert assembler.plans["/post_pose"].optional
    assert assembler.plans["/post_pose"].qos.durability == "either"
    assert assembler.plans["/goal_pose"].qos.durability == "volatile"
    assert assembler.plans["/goal_pose"].frame == "table"
