import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.simulation.scenario import Actuation, Scenario, Sensor
from srdp_controller.tasks.gymnasium_task import GymnasiumTask
from srdp_controller.tasks.task import TaskError, find_task


class Reach(gymnasium.Env):
    """A point on a line that is told its goal, as goal environments are: a Dict of Boxes, ``is_success``."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, says_success=True):
        self.render_mode, self.says_success = render_mode, says_success
        self.observation_space = Dict(
            {"achieved_goal": Box(-np.inf, np.inf, (1,)), "desired_goal": Box(-1.0, 1.0, (1,))}
        )
        self.action_space = Box(0.5, 1.5, (1,))

    def _observation(self):
        return {"achieved_goal": np.array([self.x], np.float32), "desired_goal": np.array([1.0], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1.0, -0.9))
        return self._observation(), {}

    def step(self, action):
        self.x += 0.1 * float(action[0])
        info = {"is_success": self.x >= 1.0} if self.says_success else {}
        return self._observation(), -0.1, False, False, info

    def render(self):
        return np.full((8, 8, 3), round(100 * (self.x + 1.0)), np.uint8)


for name, arguments in (("Reach", {}), ("SilentReach", {"says_success": False})):
    gymnasium.register(f"srdp_tests/{name}-v0", entry_point=Reach, max_episode_steps=30, kwargs=arguments)


class Switch(Reach):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.action_space = Discrete(2)


gymnasium.register("srdp_tests/Switch-v0", entry_point=Switch)


def run(task, scenario, seed=0, command=None):
    spec = task.spec()
    observed = ObservedWorld(task.make_world(scenario), spec)
    observed.reset(np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    low, high = spec.action_limits()
    rows = [observed.observation]
    while not observed.world.outcome.finished:
        observed.send(rng.uniform(low, high) if command is None else command)
        observed.tick()
        rows.append(observed.observation)
    return observed.world, np.array(rows)


def test_the_spec_is_what_the_spaces_say():
    spec = find_task("gymnasium:Pendulum-v1").spec()
    assert (spec.obs_dim, spec.act_dim, spec.horizon) == (3, 1, 8)
    assert spec.control_rate_hz == pytest.approx(20.0)  # its dt, not its frames per second
    assert [component.source.topic for component in spec.observation] == ["/observation"] * 3
    assert (spec.observation[0].lower, spec.observation[0].upper) == (-1.5, 1.5)  # room for noise
    assert (spec.observation[2].scale, spec.action[0].scale) == (8.0, 2.0)
    assert spec.action_groups[0].on_hold == "zero"


def test_a_dict_of_boxes_is_a_topic_each_and_what_has_no_limit_gets_a_far_one():
    spec = GymnasiumTask("srdp_tests/Reach-v0").spec()
    assert [component.source.topic for component in spec.observation] == ["/achieved_goal", "/desired_goal"]
    assert (spec.observation[0].lower, spec.observation[0].upper, spec.observation[0].scale) == (-1e6, 1e6, 1.0)
    assert spec.control_rate_hz == 10.0
    assert spec.action_groups[0].on_hold == (0.5,)  # zero is no command that this robot takes


@pytest.mark.parametrize(
    ("env_id", "message"), [("NoSuchThing-v0", "NoSuchThing"), ("srdp_tests/Switch-v0", "expected a Box")]
)
def test_an_environment_that_cannot_be_a_task_is_refused_by_name(env_id, message):
    with pytest.raises(TaskError, match=message) as caught:
        find_task(f"gymnasium:{env_id}")
    assert f"gymnasium:{env_id}" in str(caught.value)


def test_a_nominal_world_is_the_environment_itself():
    task = GymnasiumTask("Pendulum-v1")
    world, rows = run(task, task.scenario("nominal"))
    env = gymnasium.make("Pendulum-v1")
    raw, _ = env.reset(seed=world.outcome.details["seed"])
    expected, total = [raw], 0.0
    for action in world.outcome.details["actions"]:
        raw, reward, *_ = env.step(np.array(action, np.float32))
        expected.append(raw)
        total += reward
    assert np.allclose(rows, expected, atol=1e-6)
    assert world.outcome.metrics["return"] == pytest.approx(total)
    assert world.outcome.duration_s == pytest.approx(10.0) and not world.outcome.judged


def test_delay_and_noise_come_from_the_scenario_and_repeat_for_a_seed():
    task = GymnasiumTask("Pendulum-v1")
    rough = Scenario(
        name="rough",
        actuation=Actuation(delay_s=0.1, jitter_s=0.02, loss=0.1),
        sensors={"/observation": Sensor(rate_hz=20.0, latency_s=0.1, noise=0.05, drop=0.1)},
    )
    first, rows = run(task, rough, seed=3)
    _, again = run(task, rough, seed=3)
    _, other = run(task, rough, seed=4)
    assert np.array_equal(rows, again) and not np.array_equal(rows[:50], other[:50])
    # the first commands find the robot at rest: it was told nothing until the delay was over
    assert np.count_nonzero(np.array(first.outcome.details["actions"])[:2]) == 0
    norms = np.hypot(rows[:, 0], rows[:, 1])
    assert 0.01 < np.std(norms) < 0.1


def test_success_is_what_the_environment_says_and_ends_the_episode():
    task = GymnasiumTask("srdp_tests/Reach-v0")
    world, _ = run(task, task.scenario("nominal"), command=[1.5])
    assert world.outcome.success and world.outcome.judged and world.outcome.duration_s < 1.6
    world, _ = run(task, task.scenario("nominal"), command=[0.5])
    assert not world.outcome.success and world.outcome.duration_s == pytest.approx(3.0)


def test_an_environment_that_says_nothing_is_judged_by_its_return_or_not_at_all():
    def outcome(success_return):
        task = GymnasiumTask("srdp_tests/SilentReach-v0", success_return=success_return)
        return run(task, task.scenario("nominal"))[0].outcome

    assert outcome(-5.0).success and not outcome(-1.0).success
    assert outcome(-1.0).judged and not outcome(None).judged
    assert outcome(-1.0).duration_s == pytest.approx(3.0)  # a return of 0 at the start is no success


def test_pictures_are_those_of_the_recorded_episode():
    task = GymnasiumTask("srdp_tests/Reach-v0")
    scenario = task.scenario("nominal")
    world = task.make_world(scenario)
    world.reset(np.random.default_rng(0))
    snapshots, places = [], []
    for _ in range(5):
        world.send([1.0])
        world.tick()
        snapshots.append(world.snapshot())
        places.append(round(100 * (world.truth["env"].unwrapped.x + 1.0)))
    pictures = task.render(scenario, world.outcome.details, snapshots[::2])
    assert [int(picture[0, 0, 0]) for picture in pictures] == places[::2]
