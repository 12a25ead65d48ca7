"""Bags of the seven-joint arm, and what is wrong with others."""

import numpy as np
import pytest
from bags import START_NS, Bag, content, demonstrations, record

from srdp_controller.errors import DatasetError
from srdp_controller.offline.data.bag import import_bags
from srdp_controller.offline.data.imported import imported_record, imported_trajectories
from srdp_controller.offline.recipe import BagRecipe, Recipe
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import find_task

TASK = find_task("tests.robots.arm:Arm")
SPEC = TASK.spec()
EPISODES = 4


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return record(tmp_path_factory.mktemp("bag") / "arm.mcap", TASK, EPISODES)


def read(path, **settings):
    return import_bags(path, settings.pop("spec", SPEC), BagRecipe(**settings), lambda *_: None)


def test_an_episode_is_what_the_controller_would_have_seen_and_what_was_commanded(bag):
    found = read(bag)
    assert len(found.trajectories) == EPISODES and not found.left_out and not found.refused
    world = TASK.make_world(TASK.scenario("nominal"), 0)
    observed = ObservedWorld(world, SPEC)
    for number, trajectory in enumerate(found.trajectories):
        rng = np.random.default_rng([0, number])
        expert = TASK.require_expert(rng)
        observed.reset(rng)
        for seen, action in zip(trajectory.observation, trajectory.action, strict=True):
            assert seen.tobytes() == observed.observation[SPEC.sensor_indices()].tobytes()
            command = expert.act(world.truth)
            assert action == pytest.approx(command, abs=1e-6)
            observed.step(command)


@pytest.mark.parametrize("how", ["gaps", "topic"])
def test_episodes_are_told_apart_by_their_topic_or_by_pauses(bag, how):
    assert len(read(bag, episodes=how).trajectories) == EPISODES


def test_a_bag_may_be_one_episode_of_several(tmp_path):
    for number in range(3):
        record(tmp_path / f"{number}.mcap", TASK, 1, seed=number, without=("/episode",))
    alone = [read(tmp_path / f"{number}.mcap").trajectories[0].digest() for number in range(3)]
    # all begin at the same time: nothing of one is in the next
    assert [one.digest() for one in read(tmp_path).trajectories] == alone and len(set(alone)) == 3


def test_a_button_tells_episodes_apart(tmp_path):
    bag = Bag(tmp_path / "button.mcap")
    for topic, kind, message, time_ns in demonstrations(TASK, 2):
        if topic == "/episode":
            topic, kind, message = "/button", "std_msgs/msg/Bool", {"data": message["frame_id"] == "begin"}
        bag.write(topic, kind, message, time_ns)
    bag.close()
    marker = {"topic": "/button", "type": "std_msgs/msg/Bool", "field": "data"}
    assert len(read(tmp_path, marker=marker).trajectories) == 2


@pytest.mark.parametrize("ends", [True, False])
def test_services_that_were_called_tell_episodes_apart(tmp_path, ends):
    """What introspection of a service records: its request and its answer, twice each, within a call."""
    bag = Bag(tmp_path / "called.mcap")
    for topic, kind, message, time_ns in demonstrations(TASK, 3):
        if topic != "/episode":
            bag.write(topic, kind, message, time_ns)
            continue
        service = "/start" if message["frame_id"] == "begin" else "/stop"
        for event in range(4):
            bag.write(f"{service}/_service_event", "std_msgs/msg/Bool", {"data": True}, time_ns + event * 1_000_000)
    bag.close()
    found = read(tmp_path, begin="/start/_service_event", end="/stop/_service_event" if ends else "")
    assert len(found.trajectories) == 3
    announced = read(record(tmp_path / "announced" / "arm.mcap", TASK, 3))
    for called, other in zip(found.trajectories, announced.trajectories, strict=True):
        np.testing.assert_array_equal(called.action[: len(other.action)], other.action)
    with pytest.raises(DatasetError, match=r"no topic /begun \(data.bag: it tells episodes apart\)"):
        read(tmp_path / "called.mcap", begin="/begun")


def test_of_motion_actions_are_what_was_measured_next(bag):
    commanded, moved = read(bag).trajectories[0], read(bag, actions="motion").trajectories[0]
    joints = commanded.action[:, :7] - moved.action[: len(commanded.action), :7]
    assert np.abs(joints).max() < 0.02  # rad/s; the arm follows its velocities
    assert moved.action[:-1, 7] == pytest.approx(moved.observation[1:, 7])


def test_motion_that_nothing_measures_is_said_by_name(bag):
    groups = [group.model_dump() for group in SPEC.action_groups]
    groups[1]["kind"] = "generic"
    groups[1]["components"][0]["measured_by"] = None
    spec = PolicySpec.model_validate({**SPEC.model_dump(), "action_groups": groups})
    with pytest.raises(DatasetError, match="action gripper; set its measured_by"):
        read(bag, spec=spec, actions="motion")


def changed(path, change):
    """A bag whose messages a function changes: (topic, type, message, time) or None, for each."""
    bag = Bag(path)
    for one in demonstrations(TASK, 1):
        found = change(*one)
        if found is not None:
            bag.write(*found)
    bag.close()
    return path


def test_a_message_that_the_controller_would_refuse_is_counted_and_the_one_before_stays(tmp_path):
    def far(topic, kind, message, time_ns):
        if topic == "/joint_states" and START_NS + 500_000_000 < time_ns < START_NS + 580_000_000:
            message["position"][2] = 99.0
        return topic, kind, message, time_ns

    found = read(changed(tmp_path / "far.mcap", far))
    count, why = found.refused["/joint_states"]
    assert count >= 1 and why.startswith("joint_3 is 99")
    assert found.trajectories[0].observation[:, 2].max() < 3.0


def test_where_every_message_is_refused_the_first_reason_is_said(bag):
    content = SPEC.model_dump(mode="json", exclude_none=True)
    content["observation"][0]["source"]["field"] = "position[joint1]"
    with pytest.raises(DatasetError, match=r"/joint_states refused: .*joint1"):
        read(bag, spec=PolicySpec.model_validate(content))


def test_an_episode_ends_where_a_sensor_falls_silent(tmp_path):
    silent = changed(
        tmp_path / "silent.mcap",
        lambda topic, kind, message, time_ns: (
            None if topic == "/tool_pose" and time_ns > START_NS + 300_000_000 else (topic, kind, message, time_ns)
        ),
    )
    steps = len(read(silent, gap=0.2).trajectories[0].action)
    assert steps == pytest.approx(0.5 * SPEC.control_rate_hz, abs=1)


def test_commands_outside_the_limits_are_cut_and_counted(tmp_path):
    def fast(topic, kind, message, time_ns):
        if topic == "/arm_controller/commands":
            message["data"][0] = 5.0
        return topic, kind, message, time_ns

    found = read(changed(tmp_path / "fast.mcap", fast))
    assert found.limited == {"joint_1_velocity": 1.0}
    assert found.trajectories[0].action[:, 0].max() == pytest.approx(0.8)


def test_trajectories_are_followed_by_their_joints_names(tmp_path):
    task = find_task("tests.robots.reacher:Reacher")
    spec = task.spec()
    world = task.make_world(task.scenario("nominal"), 0)
    assert {group.output.type for group in spec.action_groups} == {"trajectory_msgs/msg/JointTrajectory"}
    bag = Bag(tmp_path / "reacher.mcap")
    joints = [component.field[len("positions[") : -1] for component in spec.action]
    kind = "trajectory_msgs/msg/JointTrajectory"
    for tick in range(100):
        now_ns = START_NS + tick * 10_000_000
        for topic, layout in world.topics.items():
            message = content(layout.type, layout.frame, list(layout.fields), [0.1] * len(layout.fields), now_ns)
            bag.write(topic, layout.type, message, now_ns)
        if tick == 0:  # a second's way of one joint, in another order than the spec's
            point = {"positions": [0.3, *[0.1] * (len(joints) - 1)], "velocities": [], "accelerations": []}
            point |= {"effort": [], "time_from_start": {"sec": 1, "nanosec": 0}}
            header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}
            message = {"header": header, "joint_names": joints[::-1], "points": [point]}
            bag.write(spec.action_groups[0].output.topic, kind, message, now_ns)
    bag.close()
    action = read(tmp_path, spec=spec).trajectories[0].action
    assert action[:, :-1] == pytest.approx(0.1)
    middle = spec.step_s * (np.arange(len(action)) + 0.5)
    assert action[:, -1] == pytest.approx(0.1 + 0.2 * middle, abs=1e-5)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (("/object_pose",), r"no topic /object_pose; the bag has /arm_controller/commands, "),
        (("/gripper/commands",), r"no topic /gripper/commands \(commands of gripper; data.bag.commands names"),
    ],
)
def test_a_topic_that_is_missing_is_named(tmp_path, without, message):
    with pytest.raises(DatasetError, match=message):
        read(record(tmp_path / "less.mcap", TASK, 1, without=without))


def test_a_topic_of_another_type_is_named(tmp_path):
    other = changed(
        tmp_path / "other.mcap",
        lambda topic, kind, message, time_ns: (
            (topic, "std_msgs/msg/Bool", {"data": True}, time_ns)
            if topic == "/tool_pose"
            else (topic, kind, message, time_ns)
        ),
    )
    with pytest.raises(DatasetError, match="topic /tool_pose is std_msgs/msg/Bool, the spec expects geometry_msgs"):
        read(other)


def test_what_is_no_bag_says_what_to_do(tmp_path, bag):
    with pytest.raises(DatasetError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "bag_0.db3").write_bytes(b"SQLite format 3\0")
    with pytest.raises(DatasetError, match="ros2 bag convert"):
        read(tmp_path)
    whole = bag.read_bytes()
    for name, data in (("short", whole[: len(whole) // 2]), ("text", b"hello")):
        (tmp_path / f"{name}.mcap").write_bytes(data)
        with pytest.raises(DatasetError, match=f"{name}.mcap: no .*mcap recover"):
            read(tmp_path / f"{name}.mcap")
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 3 + 2000] = bytes(2000)
    (tmp_path / "damaged.mcap").write_bytes(damaged)
    with pytest.raises(DatasetError, match="damaged"):
        read(tmp_path / "damaged.mcap")


def test_an_imported_bag_is_kept_and_read_anew_only_when_it_or_the_spec_changed(bag, tmp_path):
    recipe = Recipe(task="arm", data={"source": "bag", "dataset": str(bag)})
    said = []

    def imported(spec=SPEC):
        said.clear()
        return imported_trajectories(tmp_path, recipe, spec, lambda *what: said.append(what))

    first = imported()
    assert said and imported_record(tmp_path)["episodes"] == EPISODES
    again = imported()
    assert not said and [one.digest() for one in again] == [one.digest() for one in first]
    narrower = SPEC.model_copy(update={"control_rate_hz": 10.0})
    assert len(imported(narrower)[0].action) < len(first[0].action) and said
