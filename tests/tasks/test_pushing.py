import math

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from srdp_controller.errors import ScenarioError
from srdp_controller.simulation.environment import WorldEnv
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.simulation.world import Measured
from srdp_controller.tasks.pushing.scenario import SENSORS, PushingScenario
from srdp_controller.tasks.pushing.task import PushingTask

SCENARIOS = ["nominal", "delayed", "noisy", "heavy", "lossy", "shifted", "symmetric", "faulty"]
TASK = PushingTask()


@pytest.fixture
def make_world():
    worlds = []

    def make(scenario="nominal", **changes):
        worlds.append(TASK.make_world(TASK.scenario(scenario).model_copy(update=changes)))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_shipped_scenario_loads_under_its_name(name):
    assert TASK.scenario(name).name == name


def test_scenario_files_name_sensors_by_topic_or_as_before_and_keep_the_other_ones(tmp_path):
    camera = {"rate_hz": 10.0, "latency_s": 0.1}
    for content in ({"object_pose": camera}, {"sensors": {"/object_pose": camera}}):
        scenario = PushingScenario.model_validate({"name": "x", **content})
        assert scenario.sensors["/object_pose"].rate_hz == 10.0
        assert scenario.sensors["/joint_states"] == SENSORS["/joint_states"]


def test_a_layout_that_excludes_everything_is_refused():
    nominal = TASK.scenario("nominal")
    with pytest.raises(ScenarioError, match="covers every region"):
        nominal.without(nominal).draw_layout(np.random.default_rng(0))


def test_the_environment_passes_gymnasiums_checker(make_world):
    check_env(WorldEnv(make_world(), TASK.spec()), skip_render_check=True)


def test_an_episode_repeats_for_its_seed_whatever_came_before(make_world):
    env = WorldEnv(make_world("lossy"), TASK.spec())

    def observations(seed):
        first, _ = env.reset(seed=seed)
        return np.array([first] + [env.step(np.array([0.1, 0.05], np.float32))[0] for _ in range(20)])

    first = observations(7)
    assert not np.array_equal(first, observations(8))
    assert np.array_equal(first, observations(7))


def drive(world, seed):
    world.reset(np.random.default_rng(seed))
    expert = TASK.expert(np.random.default_rng(seed))
    step = 0
    while not world.outcome.finished:
        if step % 6 == 0:
            world.send(expert.act(world.truth))
        world.tick()
        step += 1
    return world.outcome


def test_the_expert_succeeds_and_goes_both_ways(make_world):
    world = make_world()
    outcomes = [drive(world, seed) for seed in range(12)]
    assert sum(outcome.success for outcome in outcomes) >= 11
    assert {outcome.details["way"] for outcome in outcomes} >= {"left", "right"}
    assert all(outcome.duration_s < 5.0 and outcome.details["object_path"] for outcome in outcomes)


def test_the_box_may_touch_the_post_and_the_disc_must_not(make_world):
    for scenario in ("nominal", "box"):
        world = make_world(scenario)
        world.reset(np.random.default_rng(0))
        world.place(world.layout.model_copy(update={"object": (-0.08, 0.0), "post": (0.0, 0.0), "tip": (-0.15, 0.0)}))
        while not world.outcome.finished and not world.outcome.metrics["post_contacts"]:
            world.send((0.2, 0.0))
            world.tick()
        assert world.outcome.failed == world.outcome.finished == (scenario == "nominal")


def test_ways_are_counted_only_where_the_expert_tosses_a_coin(make_world):
    symmetric = make_world("symmetric", time_limit_s=0.1)
    assert drive(symmetric, 0).metrics == {"post_contacts": 0, "ways": "stuck"}
    one_sided = make_world("nominal", time_limit_s=0.1)
    one_sided.reset(np.random.default_rng(0))
    one_sided.place(one_sided.layout.model_copy(update={"object": (-0.15, 0.05), "post": (0.0, 0.0)}))
    while not one_sided.outcome.finished:
        one_sided.tick()
    assert one_sided.outcome.metrics == {"post_contacts": 0}


def test_the_tool_keeps_the_drives_speed_and_acceleration(make_world):
    world = make_world()
    world.reset(np.random.default_rng(0))
    speeds = []
    for _ in range(120):
        world.send([5.0, 0.0])
        world.tick()
        speeds.append(math.hypot(*world._velocity))
    assert max(speeds) == pytest.approx(0.45)
    assert max(np.diff(speeds)) <= 6.0 / 240 + 1e-9


def test_weak_drives_push_less(make_world):
    def progress(scale):
        arm = TASK.scenario("heavy").arm.model_copy(update={"torque_scale": scale})
        world = make_world("heavy", arm=arm)
        world.reset(np.random.default_rng(0))
        for _ in range(240):
            world.send((0.2, 0.0))
            world.tick()
        return world.truth.tip[0] - world.layout.tip[0]

    assert progress(1.0) > progress(0.02) + 0.02


def test_poses_are_published_as_unit_quaternions(make_world):
    world = make_world()
    world.reset(np.random.default_rng(0))
    for _ in range(24):
        world.tick()
    latest: dict[str, Measured] = {message.topic: message for message in world.measurements()}
    x, y, z, w = latest["/object_pose"].values
    assert z * z + w * w == pytest.approx(1.0)
    assert 2 * math.atan2(z, w) == pytest.approx(world.layout.object_yaw, abs=0.01)
    assert (x, y) == pytest.approx(world.layout.object, abs=0.01)
    assert list(latest["/goal_pose"].values) == [*world.layout.goal, 0.0, 1.0]


def test_faults_of_a_scenario_reach_the_observation(make_world):
    observed = ObservedWorld(make_world("faulty"), TASK.spec())
    observed.reset(np.random.default_rng(0))
    tips = []
    while observed.world.time_s < 1.75:  # the object's NaN, then silent joints
        observed.send((0.05, 0.0))
        observed.tick()
        assert np.isfinite(observed.observation).all()
        tips.append((observed.world.time_s, observed.observation[:2].tolist()))
    assert len({tuple(tip) for time_s, tip in tips if time_s < 1.1}) > 100
    assert len({tuple(tip) for time_s, tip in tips if time_s > 1.25}) == 1


def test_a_recorded_episode_can_be_rendered_and_drawn(make_world):
    world = make_world(time_limit_s=0.5)
    snapshots = []
    world.reset(np.random.default_rng(0))
    while not world.outcome.finished:
        world.send([0.2, 0.0])
        world.tick()
        snapshots.append(world.snapshot())
    details = world.outcome.details
    first, last = TASK.render(world.scenario, details, [snapshots[0], snapshots[-1]])
    assert first.shape == (240, 320, 3) and np.abs(first.astype(int) - last).max() > 50  # the arm has moved
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    TASK.draw(axes, [{"success": False, "duration_s": 0.5, "metrics": {}, "details": details}])
    assert len(axes.lines[0].get_xdata()) == len(details["object_path"]) == 10
