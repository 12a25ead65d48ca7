"""Which of several sampled chunks goes on with the plan in force."""

import numpy as np
import pytest

from srdp_controller.control.coherence import DECAY, Coherence, Sampling
from srdp_controller.control.planner import Plan
from srdp_controller.engines.providers import EngineOptions, load_engine

STEP = 50
RAMP = np.array([0.0, 1.0, 2.0, 3.0], np.float32)


def chunks(*rows):
    return np.array(rows, np.float32)[:, :, None]


@pytest.fixture
def coherence():
    return Coherence(np.ones(1), horizon=4, step_ns=STEP)


def plan(begun=0):
    return Plan(RAMP[:, None].copy(), begun, begun)


def test_the_candidate_nearest_to_the_plan_is_chosen_at_the_candidates_own_times(coherence):
    candidates = chunks(RAMP, RAMP + 1.0, RAMP + 0.5)
    assert coherence.choose(candidates, plan(), 0) == 0
    assert coherence.choose(candidates, plan(), STEP) == 1  # a step later the plan goes on with its second action
    assert coherence.choose(candidates, plan(), STEP // 2) == 2  # and between the two in between


def test_what_the_plan_does_not_reach_counts_nothing(coherence):
    candidates = chunks([3.1, 0.0, 0.0, 0.0], [3.0, 99.0, 99.0, 99.0])
    assert coherence.choose(candidates, plan(), 3 * STEP) == 1


def test_an_early_step_counts_more_than_a_late_one(coherence):
    assert coherence.choose(chunks(RAMP + np.eye(4)[0], RAMP + np.eye(4)[3]), plan(), 0) == 1


def test_components_are_compared_in_their_scales():
    coherence = Coherence(np.array([1.0, 0.01]), horizon=1, step_ns=STEP)
    candidates = np.array([[[0.0, 0.02]], [[0.5, 0.0]]], np.float32)
    assert coherence.choose(candidates, Plan(np.zeros((1, 2), np.float32), 0, 0), 0) == 1


@pytest.mark.parametrize("in_force", [None, plan(-4 * STEP), plan(STEP)], ids=["none", "over", "not begun"])
def test_without_anything_left_of_a_plan_the_first_is_taken(coherence, in_force):
    assert coherence.choose(chunks(RAMP + 9.0, RAMP), in_force, 0) == 0


def test_a_chunk_of_one_action_is_compared_too():
    coherence = Coherence(np.ones(1), horizon=1, step_ns=STEP)
    one = Plan(np.ones((1, 1), np.float32), 0, 0)
    assert coherence.choose(chunks([5.0], [1.0]), one, STEP // 2) == 1
    assert coherence.choose(chunks([5.0], [1.0]), one, STEP) == 0


def test_other_numbers_of_candidates_may_follow_each_other(coherence):
    for number in (2, 5, 1, 3):
        candidates = chunks(*(RAMP + 1.0 + row for row in reversed(range(number))))
        assert coherence.choose(candidates, plan(), 0) == number - 1


def test_a_candidate_that_is_not_finite_is_chosen_so_that_it_is_seen(coherence):
    assert coherence.choose(chunks(RAMP, [np.nan] * 4), plan(), 0) == 1


def test_of_chunks_as_near_to_the_plan_the_one_among_its_like_is_chosen(coherence):
    outlier, likely = RAMP - 0.5, RAMP + 0.51
    candidates = chunks(outlier, *(likely + 0.01 * row for row in range(7)))
    assert coherence.choose(candidates, plan(), 0) != 0
    assert coherence.choose(chunks(outlier, likely), plan(), 0) == 0  # of two, neither has more of its like


def test_the_neighbours_of_one_mode_do_not_draw_the_choice_from_the_other(coherence):
    few, many = RAMP + 0.3, RAMP + 9.0
    candidates = chunks(*(few + 0.01 * row for row in range(3)), *(many + 0.01 * row for row in range(9)))
    assert coherence.choose(candidates, plan(), 0) in range(3)


def test_what_is_added_is_the_mean_squared_distance_from_the_nearest_quarter():
    rng, scale = np.random.default_rng(0), np.array([0.5, 2.0])
    candidates = rng.standard_normal((12, 4, 2)).astype(np.float32)
    in_force = Plan(rng.standard_normal((4, 2)).astype(np.float32), 0, 0)
    weights = DECAY ** np.arange(4)[:, None] / np.square(scale)
    away = (np.square(candidates - in_force.chunk) * weights).sum(axis=(1, 2))
    pairs = (np.square(candidates[:, None] - candidates[None]) * weights).sum(axis=(2, 3))
    expected = away + np.sort(pairs, axis=1)[:, 1:4].mean(axis=1)
    coherence = Coherence(scale, horizon=4, step_ns=STEP)
    assert coherence.choose(candidates, in_force, 0) == expected.argmin()
    np.testing.assert_allclose(coherence._distances, expected, rtol=1e-4)


def test_what_is_measured_of_several_chunks_is_their_noise_the_run_and_the_choice(bundle):
    engine = load_engine(bundle, "student_k1", "cpu", EngineOptions(candidates=8))
    sampling = Sampling(engine, bundle.spec)
    sampling.run()
    before, chunks = engine.noise.copy(), engine.action.copy()
    sampling.run()
    assert (engine.noise != before).mean() > 0.99 and (engine.action != chunks).any()
    assert sampling._coherence._distances.any()
