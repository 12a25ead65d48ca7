"""The controller's cycle in virtual time: what an episode depends on, what late policies cost, who drives when."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="needs the simulation: make setup")

from srdp_controller.control.build import build_cycle, default_values
from srdp_controller.control.deployment import Deployment, DeploymentRequest
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.providers import EngineOptions, load_engine
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.policies import Policy, bundled, without_latent
from srdp_controller.evaluation.rollout import Driver, rollout
from srdp_controller.evaluation.virtual_planner import VirtualPlanner
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.pushing.task import PushingTask
from srdp_controller.tasks.task import Task, find_task

TASK = PushingTask()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A scenario that ends after a second."""
    path = tmp_path_factory.mktemp("scenario") / "short.yaml"
    path.write_text("name: short\ntime_limit_s: 1.0\n")
    return str(path)


class Scripted:
    """Answers every evaluation with chunks of its number, and keeps what it was shown."""

    def __init__(self, spec, apart=0.0):
        self.spec, self.apart, self.batches, self.noise = spec, apart, [], set()

    def policy(self):
        return Policy("scripted", (1, self.spec.horizon, self.spec.act_dim), self.evaluate)

    def evaluate(self, observation, noise):
        self.batches.append(len(observation))
        self.noise.update(float(value) for value in noise[:, 0, 0, 0])
        chunk = np.zeros((len(observation), self.spec.horizon, self.spec.act_dim), np.float32)
        chunk[:, :, 0] = 0.1
        latent = np.zeros((len(observation), 1), np.float32)
        return chunk, latent, latent + self.apart


def test_an_episode_depends_on_its_seed_alone(bundle):
    driver = Driver(bundled(bundle, "student_k2"))

    def driven(seeds, robots):
        episodes = rollout(TASK, "nominal", driver, seeds, spec=bundle.spec, robots=robots)
        return {episode.seed: (episode.outcome.duration_s, episode.commands) for episode in episodes}

    one, many = driven([1, 2, 3], robots=1), driven([3, 2, 1], robots=3)
    for seed, (duration, commands) in one.items():
        assert duration == many[seed][0]
        np.testing.assert_array_equal(commands, many[seed][1])


@pytest.mark.parametrize("candidates", [1, 4])
def test_the_rollout_commands_what_a_loop_written_by_hand_does(bundle, short, candidates):
    """The same cycle with the node's own engine, called once a period: the commands are the same to the last bit."""
    seed, rate = 3, 100.0
    values = {"sampling.candidates": candidates} | ({} if candidates == 1 else {"noise.hold_time": 0.0})
    driver = Driver(bundled(bundle, "student_k2"))
    (episode,) = rollout(TASK, short, driver, [seed], spec=bundle.spec, values=values)
    observed = ObservedWorld(TASK.make_world(TASK.scenario(short)), bundle.spec)
    world = observed.world
    observed.reset(np.random.default_rng([seed, 0]))
    engine = load_engine(bundle, "student_k2", "cpu", EngineOptions(candidates=candidates))
    teacher = load_engine(bundle, "teacher", "cpu")
    sent, in_force, waiting = [], [], False
    cycle = build_cycle(
        {**default_values(), **values, "update_rate": rate, "seed": seed},
        observed.assembler,
        Deployment(DeploymentRequest("student_k2"), engine, math.inf, 0.0, teacher, False),
        lambda request: pytest.fail("nothing is exchanged"),
        VirtualPlanner(teacher, lambda: 0, lambda: 0),
        VirtualPlanner(engine, lambda: 0, lambda: 0),
        Telemetry(1, bundle.spec),
        lambda now_ns: 0,
        lambda command, following, measured_ns: sent.append(list(command)),
    )
    cycle.begin_episode(0)
    number = math.ceil(world.time_s * rate - 1e-6)
    cycles, due_s = 0, 0.0
    while not world.outcome.finished:
        if number / rate < world.time_s + world.tick_s - 1e-9:
            due_s = number / rate
            cycle(round(due_s * 1e9))
            number, cycles, waiting = number + 1, cycles + 1, True
        if waiting and due_s <= world.time_s + 1e-9:  # a command between two ticks takes effect with the second
            world.send(sent[-1])
            waiting = False
        in_force += sent[-2:-1] if waiting else sent[-1:]
        observed.tick()
    assert cycles == episode.cycles > 90
    np.testing.assert_array_equal(episode.commands, np.array(in_force, np.float32))


@pytest.mark.parametrize("candidates", [1, 16])
def test_of_several_candidates_one_that_goes_on_is_driven(bundle, short, candidates):
    """A policy that tosses a coin in each cycle keeps to what it began, where there is one of that kind to choose."""

    def left_or_right(observation, noise):
        chunk = np.zeros((len(observation), bundle.spec.horizon, bundle.spec.act_dim), np.float32)
        chunk[:, :, 1] = np.sign(noise[:, 0, :1, 0]) * 0.1
        return chunk

    shape = (1, bundle.spec.horizon, bundle.spec.act_dim)
    driver = Driver(Policy("left or right", shape, without_latent(left_or_right)))
    values = {"sampling.candidates": candidates, "noise.hold_time": 0.0, "safety.max_jerk": 0.0}
    (episode,) = rollout(TASK, short, driver, [5], spec=bundle.spec, values=values)
    begun = np.abs(episode.commands[:, 1]) > 0.05
    sides = np.sign(episode.commands[begun, 1])
    assert len(set(sides)) == (2 if candidates == 1 else 1)


def test_nominal_episodes_succeed_and_raise_no_alarm_at_their_beginnings(bundle):
    threshold = bundle.calibration().threshold("student_k4", 0.01)
    driver = Driver(bundled(bundle, "student_k4"), teacher=bundled(bundle, "teacher"), threshold=threshold)
    episodes = rollout(TASK, "nominal", driver, range(8), spec=bundle.spec)
    assert [episode.seed for episode in episodes] == list(range(8))
    assert sum(episode.outcome.success for episode in episodes) >= 7
    assert sum(episode.abstentions for episode in episodes) == 0
    assert all(episode.modes["STUDENT"] == episode.cycles for episode in episodes)


def test_robots_share_one_evaluation_a_round(spec, short):
    scripted = Scripted(spec)
    episodes = rollout(TASK, short, Driver(scripted.policy()), range(5), spec=spec, robots=5)
    assert max(scripted.batches) == 5
    assert sum(scripted.batches) == sum(episode.cycles for episode in episodes)
    assert np.mean(scripted.batches) > 4.5


def test_a_late_policy_misses_the_cycles_that_it_outlasts(spec, short):
    policy = Scripted(spec).policy()
    (instant,) = rollout(TASK, short, Driver(policy), [0], spec=spec)
    (late,) = rollout(TASK, short, Driver(policy, latencies_s=[0.025]), [0], spec=spec)
    assert instant.missed_cycles == 0
    assert late.missed_cycles == pytest.approx(2 * late.cycles, abs=2)
    assert late.cycles + late.missed_cycles == pytest.approx(instant.cycles, abs=3)
    assert np.median(late.ages_s) == pytest.approx(np.median(instant.ages_s) + 0.025 + 0.01, abs=0.006)


def test_a_policy_that_plans_ahead_misses_none_and_holds_until_its_first_plan(spec, short):
    driver = Driver(Scripted(spec).policy(), latencies_s=[0.08])
    (episode,) = rollout(TASK, short, driver, [0], spec=spec, values={"planning.mode": "ahead"})
    assert episode.missed_cycles == 0
    assert episode.modes["HOLD"] == 8  # at 100 Hz
    assert episode.modes["STUDENT"] == episode.cycles - 8
    assert 0.08 < np.median(episode.ages_s[60:]) < 0.25


class Halving:
    """A correction head: takes back half of what was planned."""

    def __init__(self, spec):
        self.observation, self.origin = (np.zeros((1, spec.obs_dim), np.float32) for _ in range(2))
        self.base_action, self.correction = (np.zeros((1, spec.act_dim), np.float32) for _ in range(2))
        self.index = np.zeros((1, 1), np.float32)

    def run(self):
        self.correction[:] = -0.5 * self.base_action


def test_each_robot_has_a_head_that_corrects_its_late_chunks(spec, short):
    driver = Driver(Scripted(spec).policy(), latencies_s=[0.08], corrector=lambda: Halving(spec))
    episodes = rollout(TASK, short, driver, [0, 1], spec=spec, values={"planning.mode": "corrected"})
    for episode in episodes:
        assert episode.missed_cycles == 0 and episode.modes["HOLD"] == 8
        np.testing.assert_allclose(episode.commands[-1], [0.05, 0.0], atol=1e-3)
    with pytest.raises(SrdpError, match="no correction head for scripted"):
        rollout(TASK, short, replace(driver, corrector=None), [0], spec=spec, values={"planning.mode": "corrected"})


def test_a_guided_policy_is_shown_the_rest_of_its_own_last_chunk(spec, short):
    shown = []

    def evaluate(observation, noise, previous, weights):
        shown.append((previous.copy(), weights.copy()))
        chunk = np.full_like(previous, 0.01 * len(shown))
        latent = np.zeros((len(observation), 1), np.float32)
        return chunk, latent, latent

    policy = Policy("guided", (1, spec.horizon, spec.act_dim), evaluate, guided=True)
    rollout(TASK, short, Driver(policy, latencies_s=[0.1]), [0], spec=spec, values={"planning.mode": "ahead"})
    assert not shown[0][1].any()
    for number, (previous, weights) in enumerate(shown[1:], 1):
        np.testing.assert_allclose(previous, 0.01 * number, atol=1e-6)
        assert weights[0, :2].tolist() == [1.0, 1.0] and 0.0 < weights[0, 2] < 1.0  # 100 ms are two steps


def test_latencies_are_drawn_by_the_episodes_seed(spec, short):
    driver = Driver(Scripted(spec).policy(), latencies_s=[0.001, 0.015, 0.035])
    first, again, other = (rollout(TASK, short, driver, [seed], spec=spec)[0] for seed in (4, 4, 5))
    assert first.missed_cycles == again.missed_cycles > 0
    assert first.cycles + first.missed_cycles == pytest.approx(other.cycles + other.missed_cycles, abs=4)


def test_abstention_hands_over_to_the_teacher(spec, short):
    teacher = Policy("teacher", (1, 8, 2), without_latent(lambda o, n: np.full((len(o), 8, 2), 0.05, np.float32)))
    driver = Driver(Scripted(spec, apart=1.0).policy(), teacher=teacher, teacher_latencies_s=[0.02], threshold=0.5)
    (episode,) = rollout(TASK, short, driver, [0], spec=spec)
    assert episode.abstentions == 1
    assert episode.modes["HOLD"] == 2 and episode.modes["TEACHER"] == episode.cycles - 2
    np.testing.assert_allclose(episode.commands[-1], [0.05, 0.05], atol=1e-3)
    (trusting,) = rollout(TASK, short, driver, [0], spec=spec, values={"abstain.enabled": False})
    assert trusting.abstentions == 0 and trusting.modes["TEACHER"] == 0


def test_noise_is_drawn_as_often_as_it_is_held(spec, short):
    def draws(hold_s):
        scripted = Scripted(spec)
        values = {"update_rate": 40.0, "noise.hold_time": hold_s}
        rollout(TASK, short, Driver(scripted.policy()), [0], spec=spec, values=values)
        return len(scripted.noise)

    assert draws(0.0) >= 36
    assert 4 <= draws(0.2) <= 6


def test_a_robot_of_another_task_is_driven_by_the_same_code():
    task = find_task("gymnasium:Pendulum-v1")
    spec = task.spec()
    push = without_latent(lambda o, n: np.full((len(o), spec.horizon, spec.act_dim), 1.5, np.float32))
    driver = Driver(Policy("push", (1, spec.horizon, spec.act_dim), push))
    values = {"update_rate": 1.0 / spec.step_s}
    (episode,) = rollout(task, "nominal", driver, [0], spec=spec, values=values)
    assert episode.outcome.finished and episode.cycles > 100
    assert episode.commands.shape[1] == spec.act_dim
    assert np.median(episode.commands) == pytest.approx(1.5, abs=0.1)


class Worldless(Task):
    """Enough to train and to deploy."""

    name = "worldless"

    def spec(self) -> PolicySpec:
        return TASK.spec()


def test_what_is_missing_or_misspelt_is_said_by_name(spec):
    driver = Driver(Scripted(spec).policy())
    with pytest.raises(SrdpError, match="'worldless' has no world"):
        rollout(Worldless(), "nominal", driver, [0], spec=spec)
    with pytest.raises(SrdpError, match="no scenario 'sunny'"):
        rollout(TASK, "sunny", driver, [0], spec=spec)
    with pytest.raises(SrdpError, match=r"'update_rat' is unknown"):
        rollout(TASK, "nominal", driver, [0], spec=spec, values={"update_rat": 50.0})
