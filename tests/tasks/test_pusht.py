"""PushT: gym-pusht's own physics behind our sensors, and the planner that demonstrates it."""

import numpy as np
import pytest

pytest.importorskip("gym_pusht", reason="needs the extra pusht")

from srdp_controller.simulation.environment import WorldEnv
from srdp_controller.tasks.pusht.simulation import PIXEL_M, PushTSimulation, placed
from srdp_controller.tasks.pusht.task import PushTTask
from srdp_controller.tasks.task import find_task

TASK = PushTTask()


@pytest.fixture
def world():
    world = TASK.make_world(TASK.scenario("nominal"))
    yield world
    world.close()


def test_it_is_installed_under_its_name():
    assert isinstance(find_task("pusht"), PushTTask)


def test_ten_ticks_are_a_step_of_gym_pushts_own():
    ours, theirs = PushTSimulation(), PushTSimulation().env
    theirs.reset(seed=4)
    ours.env.reset(seed=4)
    target = np.array([0.256, 0.3])
    for _ in range(40):
        observed, _, _, _, info = theirs.step(target / PIXEL_M)
        for _ in range(10):
            ours.tick(target)
    np.testing.assert_allclose(ours.agent / PIXEL_M, observed[:2], rtol=1e-9)
    np.testing.assert_allclose(ours.block[:2] / PIXEL_M, observed[2:4], rtol=1e-9)
    assert ours.coverage() == pytest.approx(info["coverage"])


def test_a_block_in_its_place_covers_all_of_it_and_ends_the_episode(world):
    simulation = world._simulation
    simulation.place(np.array([0.05, 0.05]), simulation.goal)
    world.send([0.05, 0.05])
    for _ in range(10):
        world.tick()
    assert world.outcome.success and world.outcome.finished
    assert world.outcome.metrics["coverage"] == pytest.approx(1.0)


def test_until_a_command_arrives_nothing_moves(world):
    world.reset(np.random.default_rng(2))
    before = world.snapshot()
    for _ in range(20):
        world.tick()
    np.testing.assert_allclose(world.snapshot(), before, atol=1e-9)


def test_the_outline_is_the_blocks_and_runs_counter_clockwise():
    simulation = PushTSimulation()
    corners = placed(simulation.outline, simulation.block)
    assert len(corners) == 8
    x, y = corners.T
    area = 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx(sum(abs(bar.area) for bar in simulation.env.block.shapes) * PIXEL_M**2, rel=1e-6)


def test_the_planner_brings_the_block_into_its_place(world):
    expert = TASK.expert(np.random.default_rng([0, 2]))
    env = WorldEnv(world, TASK.spec())
    env.reset(seed=2)
    done = False
    while not done:
        _, _, terminated, truncated, _ = env.step(expert.act(world.truth).astype(np.float32))
        done = terminated or truncated
    assert world.outcome.success and world.outcome.metrics["coverage"] > 0.95
    assert expert.plans <= 12


def test_futures_are_drawn_in_the_colour_that_is_asked_for():
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    chunks = np.full((3, 16, 2), 0.2, np.float32)
    TASK.draw_futures(axes, np.array([0.1, 0.1, 0.25, 0.25, 1.0, 0.0]), chunks, "C3")
    assert [line.get_color() for line in axes.lines] == ["C3"] * 3 + ["black"]
