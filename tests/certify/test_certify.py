import numpy as np
import pytest

from srdp_controller.certify.conformal import conformal_threshold, trajectory_scores
from srdp_controller.certify.intervals import (
    auroc_interval,
    entropy_interval,
    mean_interval,
    rank_correlation_interval,
    shares_apart,
    success_interval,
)
from srdp_controller.certify.sample_distances import (
    directions,
    mode_coverage,
    sliced_wasserstein,
    squared_mmd,
    tv_lower_bound,
)
from srdp_controller.errors import SrdpError


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_fresh_trajectories_alarm_at_most_at_the_promised_rate(alpha):
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(400):
        threshold = conformal_threshold(rng.exponential(size=100), alpha)
        alarms.append(np.mean(rng.exponential(size=100) > threshold))
    # the expected rate is between alpha - 1 / (n + 1) and alpha; three standard errors of slack
    assert alpha - 0.01 - 0.006 < np.mean(alarms) < alpha + 0.006


def test_too_few_trajectories_say_how_many_are_needed():
    with pytest.raises(SrdpError, match="at least 99"):
        conformal_threshold(np.ones(50), 0.01)


def test_a_trajectorys_score_is_its_largest():
    assert trajectory_scores([np.array([1.0, 3.0]), np.array([2.0])]).tolist() == [3.0, 2.0]


def test_wilson_intervals_are_those_of_the_textbook():
    assert success_interval(0, 10) == pytest.approx([0.0, 0.2775], abs=1e-4)
    assert success_interval(10, 10) == pytest.approx([0.7225, 1.0], abs=1e-4)
    assert success_interval(81, 263) == pytest.approx([0.2553, 0.3662], abs=1e-4)


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection():
    rng = np.random.default_rng(0)
    projections = directions(500, 3, rng)
    x = rng.standard_normal((200, 3))
    shift = np.array([2.0, 0.0, 0.0])
    assert sliced_wasserstein(x, x + shift, projections) == pytest.approx(np.abs(shift @ projections).mean())
    assert sliced_wasserstein(x, x[::-1], projections) == pytest.approx(0.0, abs=1e-12)


def test_mmd_is_zero_on_average_for_equal_distributions_and_grows_with_a_shift():
    rng = np.random.default_rng(0)
    equal = [squared_mmd(rng.standard_normal((40, 2)), rng.standard_normal((40, 2))) for _ in range(200)]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / np.sqrt(200)
    assert squared_mmd(rng.standard_normal((40, 2)), rng.standard_normal((40, 2)) + 1.0) > 5 * np.std(equal)


def mixture(rng, n, share):
    side = np.where(rng.random(n) < share, 1.0, -1.0)
    return np.stack([side + 0.15 * rng.standard_normal(n), 0.3 * rng.standard_normal(n)], axis=1)


def test_one_gaussian_has_no_two_modes_and_a_mixture_has():
    rng = np.random.default_rng(0)
    assert mode_coverage(rng.standard_normal((500, 2)), rng.standard_normal((500, 2))) is None
    assert mode_coverage(mixture(rng, 500, 0.5), mixture(rng, 500, 0.5)) > 0.85


def test_coverage_is_the_share_of_the_mode_that_suffers_most():
    rng = np.random.default_rng(0)
    teacher = mixture(rng, 4000, 0.5)
    assert mode_coverage(teacher, mixture(rng, 4000, 0.1)) == pytest.approx(0.2, abs=0.03)
    assert mode_coverage(teacher, mixture(rng, 4000, 0.0)) == 0.0


def test_the_classifier_bound_stays_below_the_true_total_variation():
    rng = np.random.default_rng(0)
    states = rng.standard_normal((40, 2))

    def pair(shift):
        return rng.standard_normal((40, 100, 1)), rng.standard_normal((40, 100, 1)) + shift

    same, same_low, _ = tv_lower_bound(*pair(0.0), states, rng)
    assert same < 0.06 and same_low == 0.0
    estimate, low, _ = tv_lower_bound(*pair(1.0), states, rng)
    true = 0.3829  # TV of two unit Gaussians one apart: 2 Phi(1/2) - 1
    assert low <= true and estimate == pytest.approx(true, abs=0.05)


def test_areas_and_rank_correlations_are_those_of_what_was_drawn():
    rng = np.random.default_rng(3)
    area, (low, high) = auroc_interval(rng.standard_normal(300), 1.0 + rng.standard_normal(400), rng)
    assert low < 0.760 < high  # of two unit Gaussians one apart
    assert low < area < high < low + 0.1
    assert auroc_interval(np.arange(3.0), np.arange(3.0), rng)[0] == 0.5
    x = rng.standard_normal(400)
    low, high = rank_correlation_interval(x, x + rng.standard_normal(400), rng)
    assert low < 0.690 < high < low + 0.15  # of a correlation of 1 / sqrt(2)


def test_shares_are_as_far_apart_as_their_total_variation_and_their_floor_tells_few_from_other():
    rng = np.random.default_rng(0)
    reference = {"left": 5000, "right": 5000}
    apart, (low, high), floor = shares_apart({"left": 900, "right": 100}, reference, rng)
    assert apart == pytest.approx(0.4)
    assert floor < 0.05 < low < apart < high
    few, (low, _), floor = shares_apart({"left": 3, "right": 1}, reference, rng)
    assert few == pytest.approx(0.25) and low < floor
    assert shares_apart({"over": 10}, reference, rng)[0] == 1.0 == shares_apart({}, reference, rng)[0]


def test_entropy_intervals_cover_the_entropy_and_know_one_way_from_many():
    rng, shares = np.random.default_rng(3), np.array([0.5, 0.25, 0.15, 0.1])
    entropy = -(shares * np.log(shares)).sum()
    covered = 0
    for _ in range(100):
        value, (low, high) = entropy_interval(rng.multinomial(200, shares), rng)
        covered += low <= entropy <= high
        assert low <= value <= high
    assert covered >= 85  # the bootstrap does not undo the estimate's bias
    assert entropy_interval([200], rng) == (0.0, [0.0, 0.0]) == entropy_interval([], rng)
    assert entropy_interval([50] * 8, rng)[0] == pytest.approx(np.log(8))


def test_bootstrap_intervals_cover_the_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = mean_interval(rng.exponential(size=60), rng)
        hits += low <= 1.0 <= high
    assert 175 <= hits <= 200
