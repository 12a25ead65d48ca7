import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from srdp_controller.errors import ScenarioError
from srdp_controller.evaluation.episodes_loop import run_episodes
from srdp_controller.offline.collect import dataset_scenario
from srdp_controller.offline.recipe import CollectRecipe
from srdp_controller.simulation.actuation import DelayedActuator
from srdp_controller.simulation.faults import FaultInjector
from srdp_controller.simulation.scenario import Actuation, Sensor, SensorFault, draw_layout, load_scenario
from srdp_controller.simulation.sensors import Measurement, SensorStream
from srdp_controller.tasks.pushing.env import ObservedWorld, PushingEnv
from srdp_controller.tasks.pushing.expert import PushingExpert
from srdp_controller.tasks.pushing.world import PushingWorld

SCENARIOS = ["nominal", "delayed", "noisy", "heavy", "lossy", "shifted", "symmetric"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_shipped_scenario_loads_under_its_name(name):
    assert load_scenario(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nactuation: {delay: 1}", "actuation.delay"),
        ("name: x\nactuation: {delay_s: -1}", "actuation.delay_s"),
        ("name: [", "not valid YAML"),
        ("{}", "name"),
    ],
)
def test_a_wrong_scenario_names_file_and_field(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario(path)
    assert "wrong.yaml" in str(caught.value)


def test_an_unknown_scenario_lists_those_there_are():
    with pytest.raises(ScenarioError, match="nominal"):
        load_scenario("windy")


def test_the_environment_passes_gymnasiums_checker():
    env = PushingEnv("nominal")
    check_env(env, skip_render_check=True)
    env.close()


def test_an_episode_repeats_for_its_seed():
    def observations(seed):
        env = PushingEnv("lossy")
        first, _ = env.reset(seed=seed)
        rows = [first] + [env.step(np.array([0.1, 0.05], np.float32))[0] for _ in range(20)]
        env.close()
        return np.array(rows)

    assert np.array_equal(observations(7), observations(7))
    assert not np.array_equal(observations(7), observations(8))


def test_commands_take_effect_after_the_delay():
    actuator = DelayedActuator(Actuation(delay_s=0.1, jitter_s=0.0, acceleration_limit=1e9), np.random.default_rng(0))
    actuator.send((0.2, 0.0), now=0.0)
    assert actuator.step(0.09, 0.01) == (0.0, 0.0)
    assert actuator.step(0.10, 0.01) == (0.2, 0.0)


def test_the_arm_stops_when_commands_stay_away():
    actuator = DelayedActuator(Actuation(jitter_s=0.0, hold_s=0.3), np.random.default_rng(0))
    actuator.send((0.2, 0.0), now=0.0)
    speeds = [actuator.step(t, 0.01)[0] for t in np.arange(0.0, 1.0, 0.01)]
    assert max(speeds) == pytest.approx(0.2) and speeds[-1] == 0.0


def test_a_command_overtaken_by_a_later_one_is_dropped():
    class Jitter:
        values = iter([2.0, 0.0])

        def standard_normal(self):
            return next(self.values)

    actuator = DelayedActuator(Actuation(delay_s=0.1, jitter_s=0.1, acceleration_limit=1e9), Jitter())
    actuator.send((0.1, 0.0), now=0.0)  # due at 0.3
    actuator.send((0.2, 0.0), now=0.1)  # due at 0.2
    actuator.step(0.25, 0.01)
    assert actuator.step(0.35, 0.01) == (0.2, 0.0)


def test_lost_commands_are_lost_at_the_given_rate():
    actuator = DelayedActuator(Actuation(loss=0.3, jitter_s=0.0), np.random.default_rng(0))
    for i in range(2000):
        actuator.send((0.1, 0.0), now=i * 0.01)
    assert 1320 < len(actuator._queue) < 1480


def test_a_sensor_has_rate_latency_and_drops():
    sensor = SensorStream(Sensor(rate_hz=60.0, latency_s=0.03, drop=0.5), 1, np.random.default_rng(1))
    got = []
    for step in range(2400):
        now = step / 240
        if sensor.due(now):
            sensor.sample(np.array([now]), now)
        measurement = sensor.published(now)
        if measurement is not None:
            got.append(now - measurement.measured_s)
    assert 230 < len(got) < 370  # half of 600
    assert all(0.03 - 1e-9 <= latency < 0.03 + 1.5 / 240 for latency in got)


def test_quantisation_rounds_to_the_step():
    sensor = SensorStream(Sensor(rate_hz=10.0, quantisation=0.01), 1, np.random.default_rng(0))
    sensor.sample(np.array([0.1234]), 0.0)
    assert sensor.published(0.0).values[0] == pytest.approx(0.12)


def test_the_dataset_leaves_out_what_shifted_draws():
    recipe = CollectRecipe()
    collected, shifted = dataset_scenario(recipe).layout, load_scenario(recipe.hole_scenario).layout
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        layout = draw_layout(collected, rng)
        inside += any(
            region.start.x[0] <= layout.box[0] <= region.start.x[1]
            and region.start.y[0] <= layout.box[1] <= region.start.y[1]
            and region.goal.x[0] <= layout.goal[0] <= region.goal.x[1]
            and region.goal.y[0] <= layout.goal[1] <= region.goal.y[1]
            for region in shifted.regions
        )
    assert inside == 0


def drive(world, seed):
    world.reset(np.random.default_rng(seed))
    expert = PushingExpert(np.random.default_rng(seed))
    step = 0
    while not world.outcome.finished:
        if step % 12 == 0:
            command = expert.act(world.arm.tip_position(), world.box_position(), world.layout.goal, world.layout.post)
            world.send((float(command[0]), float(command[1])))
        world.step()
        step += 1
    return world.outcome


def test_the_expert_succeeds_and_goes_both_ways():
    world = PushingWorld(load_scenario("nominal"))
    outcomes = [drive(world, seed) for seed in range(12)]
    world.close()
    assert sum(outcome.success for outcome in outcomes) >= 11
    assert {outcome.way for outcome in outcomes} >= {"left", "right"}


def test_weak_drives_push_less():
    def progress(scale):
        scenario = load_scenario("heavy")
        arm = scenario.arm.model_copy(update={"torque_scale": scale})
        world = PushingWorld(scenario.model_copy(update={"arm": arm}))
        world.reset(np.random.default_rng(0))
        for _ in range(240):
            world.send((0.2, 0.0))
            world.step()
        travelled = world.arm.tip_position()[0] - world.layout.tip[0]
        world.close()
        return travelled

    assert progress(1.0) > progress(0.02) + 0.02


def expert_like(observation, noise):
    """Goes straight for the box: enough to see when commands arrive."""
    direction = observation[:, 2:4] - observation[:, 0:2]
    return np.repeat(np.clip(direction, -0.2, 0.2)[:, None], 8, axis=1)


def test_late_actions_reach_the_arm_late():
    def first_motion(latency):
        scenario = load_scenario("nominal").model_copy(update={"time_limit_s": 1.0})
        (result,) = run_episodes(
            expert_like,
            scenario,
            [3],
            update_rate_hz=20.0,
            noise_shape=(1, 8, 2),
            noise_hold_s=0.2,
            latency=lambda rng: latency,
        )
        path = np.array(result.outcome.tip_path)
        return int(np.argmax(np.linalg.norm(path - path[0], axis=1) > 2e-3))

    assert first_motion(0.3) >= first_motion(0.0) + 4  # samples of 50 ms


def test_noise_is_drawn_as_often_as_it_is_held():
    def draws(hold):
        seen = set()

        def policy(observation, noise):
            seen.add(float(noise[0, 0, 0, 0]))
            return np.zeros((len(observation), 8, 2))

        scenario = load_scenario("nominal").model_copy(update={"time_limit_s": 1.0})
        run_episodes(policy, scenario, [0], update_rate_hz=40.0, noise_shape=(1, 8, 2), noise_hold_s=hold)
        return len(seen)

    assert draws(0.0) >= 36
    assert 4 <= draws(0.2) <= 6


def test_each_fault_of_a_stream_does_what_it_says_and_only_in_its_time():
    def published(kind, now, values=(1.0, 2.0, 3.0)):
        fault = SensorFault(stream="object_pose", kind=kind, start_s=1.0, duration_s=0.5)
        injector = FaultInjector((fault,), "object_pose")
        injector.apply(Measurement(np.zeros(3), now - 0.1, now - 0.07), now - 0.1)
        return injector.apply(Measurement(np.array(values), now, now + 0.03), now)

    for kind in ("silent", "nan", "truncated", "stale", "duplicated"):
        for outside in (0.9, 1.5):
            (healthy,) = published(kind, outside)
            assert healthy.values.tolist() == [1.0, 2.0, 3.0] and healthy.measured_s == outside
    assert published("silent", 1.2) == []
    assert np.isnan(published("nan", 1.2)[0].values).all()
    assert np.isinf(published("infinite", 1.2)[0].values).all()
    assert (published("out_of_range", 1.2)[0].values > 50.0).all()
    assert len(published("truncated", 1.2)[0].values) == 2
    assert published("stale", 1.2)[0].measured_s == pytest.approx(0.7)
    assert published("future", 1.2)[0].measured_s == pytest.approx(1.7)
    assert [m.measured_s for m in published("duplicated", 1.2)] == [1.2, 1.2]
    assert [m.measured_s for m in published("reordered", 1.2)] == [1.2, pytest.approx(1.1)]
    assert published("frozen", 1.15)[0].values.tolist() == [0.0, 0.0, 0.0]


def test_faults_of_a_scenario_reach_the_observation(bundle):
    observed = ObservedWorld(load_scenario("faulty"), spec=bundle.spec)
    observed.reset(np.random.default_rng(0))
    tips = []
    while observed.world.time_s < 1.75:  # the object's NaN, then silent joints
        observed.send((0.05, 0.0))
        observed.step()
        assert np.isfinite(observed.observation).all()
        tips.append((observed.world.time_s, observed.observation[:2].tolist()))
    observed.world.close()
    assert len({tuple(tip) for time_s, tip in tips if time_s < 1.1}) > 100
    assert len({tuple(tip) for time_s, tip in tips if time_s > 1.25}) == 1
