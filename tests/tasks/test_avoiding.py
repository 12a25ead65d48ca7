"""The avoiding task: every gap is good, every post ends an episode."""

import itertools

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="needs the simulation: make setup")

from srdp_controller.tasks.avoiding.expert import FINISH_X_M, POSTS, ROWS
from srdp_controller.tasks.avoiding.task import AvoidingTask
from srdp_controller.tasks.task import find_task, summarise

TASK = AvoidingTask()
TICKS = 12  # of 1/240 s, in a step of 20 Hz


@pytest.fixture(scope="module")
def world():
    world = TASK.make_world(TASK.scenario("nominal"))
    yield world
    world.close()


def drive(world, seed, act):
    world.reset(np.random.default_rng([seed, 1]))
    while not world.outcome.finished:
        world.send([float(value) for value in act(world.truth)])
        for _ in range(TICKS):
            world.tick()
    return world.outcome


def test_the_task_is_found_by_name():
    assert isinstance(find_task("avoiding"), AvoidingTask)


def test_every_post_is_opposite_a_gap_of_the_row_before():
    for before, row in itertools.pairwise(ROWS):
        assert len(row) == len(before) + 1
        between = [(one[1] + other[1]) / 2 for one, other in itertools.pairwise(row)]
        np.testing.assert_allclose(between, [post[1] for post in before], atol=1e-12)
    assert all(x < FINISH_X_M for x, _ in POSTS)


def test_the_expert_goes_through_by_more_than_one_way(world):
    outcomes = []
    for seed in range(10):
        expert = TASK.expert(np.random.default_rng(seed))
        outcomes.append(drive(world, seed, expert.act))
    assert all(outcome.success for outcome in outcomes)
    ways = summarise(outcomes)["ways"]
    assert len(ways) >= 4 and "failed" not in ways
    assert all(len(way.split("-")) == len(ROWS) for way in ways)


def test_straight_ahead_is_a_post_and_ends_the_episode(world):
    outcome = drive(world, 3, lambda truth: (0.15, -3.0 * truth.tip[1]))
    assert outcome.failed and not outcome.success
    assert outcome.metrics["ways"] == "failed"
    assert outcome.duration_s < 2.0


def test_paths_can_be_drawn(world):
    from matplotlib.figure import Figure

    outcome = drive(world, 0, TASK.expert(np.random.default_rng(0)).act)
    axes = Figure().subplots()
    TASK.draw(axes, [{"success": outcome.success, "details": outcome.details}])
    assert axes.get_title() == "paths: 1 of 1 succeeded"
