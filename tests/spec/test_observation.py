import math

import numpy as np
import pytest

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
    assert assembler.update("/object_pose", [0.0, bad], 200) .startswith("object_y")
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
