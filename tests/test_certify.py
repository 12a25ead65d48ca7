import numpy as np
import pytest

from srdp_controller.certify.conformal import conformal_threshold, trajectory_scores, wilson_interval
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
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
