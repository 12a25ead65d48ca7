from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="install the extra metaworld")

from srdp_controller.evaluation.closed_loop import closed_loop
from srdp_controller.offline.check import check
from srdp_controller.offline.pipeline import Pipeline
from srdp_controller.offline.recipe import load_recipe
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.simulation.scenario import Actuation, Scenario, Sensor
from srdp_controller.tasks.task import TaskError, find_task

RECIPES = sorted((Path(__file__).parents[2] / "export" / "metaworld").glob("*.yaml"))


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def recipe(request):
    return load_recipe(request.param)


@pytest.fixture(scope="module")
def task(recipe):
    return find_task(recipe.task)


@pytest.fixture(scope="module")
def world(task):
    return task.make_world(task.scenario("nominal"))


@pytest.fixture(scope="module")
def peg():
    return find_task("metaworld:peg-insert-side")


def test_the_expert_of_the_wheel_does_each_of_the_five(task, world):
    expert, outcomes = task.expert(np.random.default_rng(0)), []
    expert.reset()
    for seed in range(3):
        world.reset(np.random.default_rng(seed))
        while not world.outcome.finished:
            world.send(expert.act(world.truth))
            world.tick()
        outcomes.append(world.outcome)
    assert sum(outcome.success for outcome in outcomes) >= 2
    assert all(outcome.duration_s < 6.25 for outcome in outcomes if outcome.success)


def test_episodes_differ_repeat_for_a_seed_and_show_the_goal(task, world):
    observed = ObservedWorld(world, task.spec())
    starts = []
    for seed in (0, 1, 0):
        observed.reset(np.random.default_rng(seed))
        starts.append(observed.observation)
        goal = world.truth["env"].unwrapped._target_pos.copy()
        assert starts[-1][-3:] == pytest.approx(goal, abs=1e-6)
        for _ in range(20):  # what an episode leaves behind must not reach the next
            observed.step([1.0, 0.5, -1.0, 1.0])
        assert observed.observation[-3:] == pytest.approx(goal, abs=1e-6)
    assert np.array_equal(starts[0], starts[2])
    assert np.abs(starts[0] - starts[1]).max() > 0.005  # the goal, or the object, or both


def test_each_recipe_can_be_carried_out(recipe, tmp_path):
    assert check(Pipeline(recipe, tmp_path)) == []


def test_the_second_half_is_the_step_before_and_padding_is_left_out(peg):
    spec = peg.spec()
    assert (spec.task, spec.obs_dim, spec.act_dim, spec.horizon) == ("metaworld:peg-insert-side", 25, 4, 16)
    assert spec.control_rate_hz == 80.0
    observed = ObservedWorld(peg.make_world(peg.scenario("nominal")), spec)
    observed.reset(np.random.default_rng(0))
    names = [component.name for component in spec.observation]
    now = [index for index, name in enumerate(names) if f"previous_{name}" in names]
    before = [names.index(f"previous_{names[index]}") for index in now]
    for _ in range(5):
        last = observed.observation
        observed.step([1.0, 0.0, 0.0, 0.0])
        assert np.array_equal(observed.observation[before], last[now])
    assert observed.observation[0] > last[0]
    assert not any("object_2" in name for name in names)
    assert find_task("metaworld:hammer").spec().obs_dim == 39  # hammer and nail


def test_both_spellings_are_one_task_and_what_is_none_is_refused_with_what_there_is(peg):
    assert find_task("metaworld:peg-insert-side-v3").name == peg.name == "metaworld:peg-insert-side"
    with pytest.raises(TaskError, match=r"metaworld:peg: MetaWorld has no such task; there are: .*peg-insert-side"):
        find_task("metaworld:peg")


def test_an_environment_without_the_wheel_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "metaworld", None)
    with pytest.raises(TaskError, match=r"pip install 'srdp_controller\[metaworld\]'"):
        find_task("metaworld:peg-insert-side")


@pytest.mark.parametrize(("delay_s", "steps"), [(0.0, 0), (0.005, 1), (0.0125, 1), (0.02, 2), (0.1, 8)])
def test_a_delay_in_milliseconds_is_rounded_up_to_steps(peg, delay_s, steps):
    world = peg.make_world(Scenario(name="late", actuation=Actuation(delay_s=delay_s)))
    world.reset(np.random.default_rng(0))
    for _ in range(10):
        world.send([1.0, 0.0, 0.0, -1.0])
        world.tick()
    actions = np.array(world.outcome.details["actions"])
    assert np.flatnonzero(actions[:, 0])[0] == steps


def test_a_slow_sensor_speaks_with_the_next_step_and_stamps_when_it_measured(peg):
    sensor = Sensor(rate_hz=80.0, latency_s=0.02)
    world = peg.make_world(Scenario(name="slow", sensors={"/observation": sensor}))
    world.reset(np.random.default_rng(0))
    heard = []
    for _ in range(4):
        world.tick()
        heard.append([round(one.measured_s * 1e3, 3) for one in world.measurements()])
    assert heard == [[], [0.0], [12.5], [25.0]]


def test_on_hold_the_hand_stops_and_the_gripper_keeps_what_it_has(peg):
    assert [group.on_hold for group in peg.spec().action_groups] == ["zero", "last"]
    world = peg.make_world(peg.scenario("nominal"))
    world.reset(np.random.default_rng(0))
    world.send([1.0, -1.0, 0.5, 0.6])
    for _ in range(40):  # nothing more comes: after 0.3 s the robot helps itself
        world.tick()
    assert world.outcome.details["actions"][-1] == pytest.approx([0.0, 0.0, 0.0, 0.6])


def test_without_a_way_to_draw_the_message_says_what_to_set(peg, monkeypatch):
    def nothing(*arguments):
        raise RuntimeError("no display")

    world = peg.make_world(peg.scenario("nominal"))
    monkeypatch.setattr(type(world.env.unwrapped), "render", nothing)
    with pytest.raises(TaskError, match=r"MuJoCo cannot draw here .*no display.*MUJOCO_GL=egl"):
        peg.render(world.scenario, world.outcome.details, [[0.0]])


def test_a_human_is_shown_every_step(peg, monkeypatch):
    env, shown = peg._make("human"), []
    monkeypatch.setattr(type(env.unwrapped), "render", lambda self: shown.append(self.curr_path_length))
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(4, np.float32))
    assert shown[-3:] == [1, 2, 3]


@pytest.mark.timeout(400)  # half a minute of one core
def test_from_demonstrations_to_a_closed_loop(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))  # collect sets it; it shall not outlive the test
    quick = [
        *("collect.episodes=9", "collect.processes=1", "split.calibration_share=0.45", "calibrate.alphas=[0.2]"),
        *("teacher.network={trunk: [64], latent: 16, head: [128, 128]}", "teacher.steps=100"),
        *("teacher.diffusion_steps=10", "teacher.ema_decay=0.99", "distill.students=[1]", "distill.queries=2000"),
        *("distill.steps=100", "distill.batch=128", "distill.processes=1"),
    ]
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "sweep"), quick)
    collected = Pipeline(recipe, tmp_path / "run", tmp_path / "bundle").run().record()["collect"]["facts"]
    assert 8 <= collected["kept"] == collected["successes"] <= 9
    scenario = tmp_path / "late.yaml"
    scenario.write_text("{name: late, actuation: {delay_s: 0.02}, time_limit_s: 1.0}")
    driven = closed_loop(
        tmp_path / "bundle", policy="student_k1", scenario=str(scenario), episodes=2, processes=1, results=tmp_path
    )
    assert driven["task"] == "metaworld:sweep" and driven["modes"]["STUDENT"] > 100
