"""A recording that is played again says what it said, when it said it."""

import numpy as np
import pytest
from bags import Bag, demonstrations, record

from srdp_controller.errors import SrdpError
from srdp_controller.simulation.scenario import Scenario, SensorFault
from srdp_controller.tasks.task import TaskError, find_task

pytest.importorskip("sensor_msgs", reason="messages are published: their classes must be here")
ARM = find_task("tests.robots.arm:Arm")


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return record(tmp_path_factory.mktemp("bag") / "arm.mcap", ARM, 2)


def played(path, scenario=None, seed=0):
    """The first episode that the seed draws: its messages, each with when it was said, and its outcome."""
    world = find_task(f"replay:{path}").make_world(scenario or Scenario(name="plain"))
    world.reset(np.random.default_rng(seed))
    said = [(one, world.time_s) for one in world.measurements()]
    while not world.outcome.finished:
        world.send([1.0] * 8)
        world.tick()
        said += [(one, world.time_s) for one in world.measurements()]
    return world, said


def test_every_message_comes_again_within_a_tick_of_its_time(bag):
    world, said = played(bag)
    assert set(world.topics) == {"/joint_states", "/tool_pose", "/object_pose"}  # nobody's commands
    recorded = [one for one in demonstrations(ARM, 2) if one[0] == "/joint_states"]
    joints = [(one, time_s) for one, time_s in said if one.topic == "/joint_states"]
    values = [message["position"] for _, _, message, _ in recorded]
    first = values.index(list(joints[0][0].values))
    assert [list(one.values) for one, _ in joints] == values[first : first + len(joints)]
    assert all(0.0 <= time_s - one.measured_s <= world.tick_s + 1e-6 for one, time_s in joints)
    assert not world.outcome.judged and world.outcome.duration_s == pytest.approx(len(joints) * 0.01, abs=0.02)


def test_both_episodes_are_drawn(bag):
    lengths = {len(played(bag, seed=seed)[1]) for seed in range(8)}
    assert len(lengths) == 2


def test_pauses_tell_episodes_apart_where_nothing_announces_them(tmp_path):
    record(tmp_path / "arm.mcap", ARM, 2, without=("/episode",))
    assert len({len(played(tmp_path, seed=seed)[1]) for seed in range(8)}) == 2


def test_a_scenarios_faults_spoil_it(bag):
    fault = SensorFault(stream="joint_states", kind="nan", start_s=0.2, duration_s=0.1)
    _, said = played(bag, Scenario(name="faulty", faults=(fault,)))
    spoiled = [time_s for one, time_s in said if np.isnan(one.values).any()]
    assert spoiled and min(spoiled) > 0.19 and max(spoiled) < 0.31


def test_it_has_no_spec_and_says_so(bag):
    with pytest.raises(TaskError, match="name a bundle"):
        find_task(f"replay:{bag}").spec()


def test_a_recording_without_sensors_is_refused(tmp_path):
    bag = Bag(tmp_path / "bare.mcap")
    for topic, kind, message, time_ns in demonstrations(ARM, 1):
        if "commands" in topic:
            bag.write(topic, kind, message, time_ns)
    bag.close()
    with pytest.raises(TaskError, match="no topic with numbers"):
        played(tmp_path / "bare.mcap")
    with pytest.raises(SrdpError, match="no such file"):
        played(tmp_path / "nowhere.mcap")
