"""Four robots that the package has never heard of, from a spec to a closed loop; nothing of the package is changed."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from rig import HOLD_TIME_S, MAX_AGE_S, RATE_HZ, play, read

from srdp_controller.commands import Track
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.closed_loop import closed_loop
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.pipeline import Pipeline
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.spec import TRAJECTORY
from srdp_controller.tasks.task import find_task

pytestmark = [pytest.mark.ros, pytest.mark.timeout(500)]
HERE = Path(__file__).parent
ROBOTS = ("pendulum", "arm", "reacher", "press")
STANDS = {"arm": "joint_4", "reacher": "elbow", "press": "slide"}  # a rod without torque swings on
HOLD, STOP = 2.0, 3.0


@dataclass
class Robot:
    name: str
    task: str
    bundle: Path


def build(name, folder):
    Pipeline(load_recipe(HERE / f"{name}.yaml"), folder / f"{name}_run", folder / name).run()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A bundle of each robot from its recipe alone, two at a time."""
    folder = tmp_path_factory.mktemp("bundles")
    list(run_parallel([partial(build, name, folder) for name in ROBOTS], 2))
    return folder


@pytest.fixture(scope="module", params=ROBOTS)
def robot(request, bundles):
    name = request.param
    return Robot(name, load_recipe(HERE / f"{name}.yaml").task, bundles / name)


@pytest.fixture(scope="module")
def played(robot, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"{robot.name}_played")
    scenario = folder / "short.yaml"
    scenario.write_text(yaml.safe_dump({"name": "short", "time_limit_s": 4.0}))
    return play(robot.task, load_bundle(robot.bundle).spec, robot.bundle, folder, str(scenario))


def held(played):
    """Rows of the recording without sensors: those of HOLD, which first runs its chunk out, and those of STOP."""
    modes = [row["mode"] for row in played.rows]
    stop = modes.index(STOP)
    begin = next(i for i in range(stop, 0, -1) if modes[i - 1] != HOLD)
    end = next((i for i in range(stop, len(modes)) if modes[i] != STOP), len(modes))
    return played.rows[begin:stop], played.rows[stop:end]


def test_the_bundle_is_for_this_robot(robot):
    bundle = load_bundle(robot.bundle)
    assert bundle.spec == find_task(robot.task).spec()
    assert {"teacher", "student_k1", "student_k2"} <= set(bundle.content.policies)


def test_the_loop_is_closed_and_episodes_follow_each_other(robot, played):
    assert played.robot["episodes"] >= 2
    assert 8 * RATE_HZ < played.controller["commands"] <= played.controller["cycles"]
    assert played.controller["limit_violations"] == played.robot["bad_commands"] == 0
    assert played.controller["modes"]["STUDENT"] > 0.5 * played.controller["commands"]
    assert "Traceback" not in played.log


def test_the_policy_does_what_doing_nothing_does_not(robot, played):
    task = find_task(robot.task)
    world = task.make_world(task.scenario(played.folder / "short.yaml"))
    still = []
    for episode in range(16):
        world.reset(np.random.default_rng([1, episode]))
        while not world.outcome.finished:
            world.send([0.0] * task.spec().act_dim)
            world.tick()
        still.append(world.outcome)
    short = str(played.folder / "short.yaml")
    driven = closed_loop(robot.bundle, policy="student_k2", scenario=short, episodes=16, processes=1)
    if robot.name == "pendulum":  # it has a return, and nothing says what success is
        returns = [outcome.metrics["return"] for outcome in still]
        assert driven["metrics"]["return"] > 0.6 * np.mean(returns)
    else:
        assert not any(outcome.success for outcome in still)
        assert driven["success_rate"] >= 0.6
        assert played.robot["successes"] > 0  # in real time, of the few episodes that a test has time for


def test_without_sensors_it_holds_as_its_groups_say(robot, played):
    rows, _ = held(played)
    observed = {component.name: component.source for component in played.spec.observation}
    zero = [f"command_{a.name}" for g in played.spec.action_groups if g.on_hold == "zero" for a in g.components]
    braked = next(i for i, row in enumerate(rows) if all(abs(row[name]) < 1e-6 for name in zero))
    for group in played.spec.action_groups:
        for place, action in enumerate(group.components):
            values = [row[f"command_{action.name}"] for row in rows]
            assert max(values[-5:]) == min(values[-5:])
            if group.on_hold == "last":  # since the joints began to brake, which takes them a cycle at least
                assert set(values[braked - 1 :]) == {values[-1]}
            elif group.on_hold == "measured":
                source = observed[action.measured_by]
                true = [message for when, message in played.rig.true[source.topic] if when < played.stopped_s][-1]
                assert values[-1] == pytest.approx(read(true, source.field), abs=0.02)
            else:
                assert values[-1] == pytest.approx(group.hold_values()[place], abs=1e-4)


def test_hold_becomes_stop_in_time_and_the_robot_stands(robot, played):
    assert MAX_AGE_S + HOLD_TIME_S - 0.1 < played.stopped_s - played.cut_s < MAX_AGE_S + HOLD_TIME_S + 0.5
    rows, stopped = held(played)
    commands = [name for name in played.columns if name.startswith("command_")]
    assert len(stopped) > RATE_HZ
    for row in stopped:
        assert [row[name] for name in commands] == pytest.approx([rows[-1][name] for name in commands], abs=1e-5)
    if robot.name in STANDS:
        name = STANDS[robot.name]
        # A next episode puts it elsewhere: at the time limit, or earlier where the held pose counts as success.
        begun = [when for when, what in played.rig.episodes if what == "begin" and when > played.cut_s]
        until = min([played.stopped_s + 0.2, *(when - 0.05 for when in begun)])
        places = [read(m, f"position[{name}]") for t, m in played.rig.true["/joint_states"] if -0.3 < t - until < 0]
        assert len(places) > 10
        assert max(places) - min(places) < 1e-3


def test_reset_brings_it_back(robot, played):
    back = [mode for when, mode in played.rig.modes if played.reset_s < when < played.ended_s]
    assert "STUDENT" in back and "STOP" not in back


def test_an_engine_is_swapped_while_the_robot_moves(robot, played):
    assert played.controller["swaps"] == 1
    assert played.controller["engine"] == "student_k1"
    assert max(np.diff([row["time_s"] for row in played.rows])) < 0.2
    for heard in played.rig.commands.values():
        around = [when for when, _ in heard if played.swapped_s - 1.0 < when < played.swapped_s + 2.0]
        assert len(around) > 2.0 * RATE_HZ


def test_the_recording_keeps_every_command(robot, played):
    """In the order in which they came over DDS; a lost message of the test's own subscription is forgiven."""
    for group in played.spec.action_groups:
        heard = [[read(message, a.field) for a in group.components] for _, message in played.rig.commands[group.name]]
        kept = iter([[row[f"command_{a.name}"] for a in group.components] for row in played.rows])
        first, last = played.rig.commands[group.name][0][0], played.rig.commands[group.name][-1][0]
        assert len(heard) > 0.95 * RATE_HZ * (last - first)
        for command in heard:
            assert any(np.allclose(command, row, rtol=1e-5, atol=1e-6) for row in kept), command


def test_the_recording_keeps_every_observation(robot, played):
    """What stands in a row is what a message brought, for every cycle that had an observation."""
    rows = [row for row in played.rows if math.isfinite(row["age_ms"])]
    assert len(rows) > 8 * RATE_HZ
    for component in played.spec.observation:
        if component.source.kind == "topic":
            messages = played.rig.told[component.source.topic]
            told = np.sort([read(message, component.source.field) for message in messages])
            kept = np.array([row[component.name] for row in rows])
            above = np.searchsorted(told, kept).clip(1, len(told) - 1)
            apart = np.minimum(abs(told[above] - kept), abs(told[above - 1] - kept))
            assert apart.max() < 1e-5 * max(1.0, abs(kept).max()), component.name
            assert len(set(kept)) > 0.2 * len(set(told)), component.name


def test_the_mcap_holds_what_the_table_holds(robot, played):
    from mcap_ros2.reader import read_ros2_messages

    found = list(read_ros2_messages(str(played.folder / "recording.mcap"), topics=["/srdp_controller/cycle"]))
    assert len(found) == len(played.rows)
    fields = {name: name.lower() for name in played.columns}
    for message, row in zip(found[::50], played.rows[::50], strict=True):
        for name, field in fields.items():
            assert getattr(message.ros_msg, field) == pytest.approx(row[name], rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_chunk_goes_out_as_a_trajectory(robot, played):
    """The command first, then one point a step of the chunk; on hold a single point: stay."""
    group = played.spec.action_groups[0]
    if group.output.type != TRAJECTORY:
        pytest.skip("its commands go out one by one")
    lengths, longest = set(), ([], [])
    for _, message in played.rig.commands[group.name]:
        times = [point.time_from_start.sec + 1e-9 * point.time_from_start.nanosec for point in message.points]
        assert message.joint_names == ["shoulder", "elbow", "wrist"]
        assert all(len(point.positions) == 3 for point in message.points)
        assert times[0] > 0.0
        assert np.diff(times) == pytest.approx(played.spec.step_s, abs=1e-6)
        lengths.add(len(times))
        if len(times) > len(longest[0]):
            longest = times, [list(point.positions) for point in message.points]
    assert max(lengths) >= played.spec.horizon - 1
    assert 1 in lengths
    # as joint_trajectory_controller has it, of one that comes late: past points dropped, later ones met, the last held
    (times, points), track = longest, Track()
    track.follow(0.1, times, points)
    for due, point in zip(times, points, strict=True):
        if due > 0.1:
            assert track.at(due) == pytest.approx(point)
    assert track.at(times[-1] + 1.0) == pytest.approx(points[-1])
    between = track.at(times[-1] - 0.02)
    track.follow(times[-1] - 0.02, [times[-1] + 0.5], [[0.0, 0.0, 0.0]])  # another: from where it is
    assert track.at(times[-1] - 0.02) == pytest.approx(between)


def test_every_component_keeps_its_limits(robot, played):
    """Range, rate of change, and the range of the joint that a velocity moves."""
    fresh = [row["age_ms"] < 1e3 * MAX_AGE_S for row in played.rows]
    rows = played.rows[fresh.index(True) :]  # before, a command that starts from the measured state has not been sent
    steps = np.diff([row["time_s"] for row in rows])
    for group in played.spec.action_groups:
        for action in group.components:
            commands = np.array([row[f"command_{action.name}"] for row in rows])
            assert action.lower - 1e-5 <= commands.min() and commands.max() <= action.upper + 1e-5
            by_kind = {"joint_velocity": action.max_acceleration, "joint_position": action.max_velocity}
            fastest = by_kind.get(group.kind, action.max_rate)
            if fastest is not None:
                rates = abs(np.diff(commands)) / steps
                if group.kind == "joint_position":  # after a new episode or a reset it goes on from what is measured
                    parts = [
                        (row[f"command_{a.name}"], row[a.measured_by]) for row in rows[1:] for a in group.components
                    ]
                    apart = np.reshape([abs(command - measured) for command, measured in parts], (len(steps), -1))
                    anew = (apart.max(axis=1) < 1.05 * fastest * steps) & (rates >= 1.05 * fastest)
                    assert anew.sum() <= len(played.rig.episodes) + 1
                    rates = rates[~anew]
                assert rates.max() < 1.05 * fastest
            if action.position_lower is not None:
                measured = np.array([row[action.measured_by] for row in rows if math.isfinite(row["age_ms"])])
                assert action.position_lower < measured.min() and measured.max() < action.position_upper


def test_the_sign_of_a_quaternion_changes_nothing():
    """The same episode seen by a camera that flips signs at random, and by one that never does."""
    task = find_task("tests.robots.arm:Arm")

    def seen(flips):
        observed = ObservedWorld(task.make_world(task.scenario("nominal")), task.spec())
        observed.world.flips = flips
        observed.reset(np.random.default_rng(7))
        for _ in range(50):
            observed.send([0.1] * 7 + [0.05])
            observed.tick()
            yield observed.observation

    world = task.make_world(task.scenario("nominal"))
    for _ in range(50):
        world.tick()
    signs = [values[6] > 0 for topic, values, _ in world.measurements() if topic == "/object_pose"]
    assert 10 < sum(signs) < 40
    assert np.array(list(seen(True))) == pytest.approx(np.array(list(seen(False))), abs=1e-6)


def test_everything_that_is_wrong_with_a_recipe_is_said_before_anything_is_trained(tmp_path):
    spec = find_task("tests.robots.press:Press").spec().model_dump(mode="json")
    spec["observation"][2]["source"]["field"] = "wrench.forse.z"
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    recipe = yaml.safe_load((HERE / "press.yaml").read_text())
    recipe["data"] = {"spec": str(tmp_path / "spec.yaml")}
    recipe["calibrate"]["alphas"] = [0.001]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SrdpError) as error:
        Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run").run()
    text = str(error.value)
    assert "forse" in text and "alpha" in text
    assert not list((tmp_path / "run").glob("*.pt"))
