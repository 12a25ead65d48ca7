import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdp_controller.control.safety_filter import KeepOut, SafetyFilter, SafetyLimits

PERIOD = 0.01
LIMITS = SafetyLimits((-0.25, -0.25), (0.25, 0.25), 0.22, 3.0, (-0.26, -0.17), (0.26, 0.17))
number = st.one_of(st.floats(), st.floats(-1, 1))


@given(st.lists(st.tuples(number, number), max_size=40))
def test_no_sequence_of_wishes_breaks_a_limit(wishes):
    safety = SafetyFilter(LIMITS, PERIOD)
    previous = [0.0, 0.0]
    for wish in wishes:
        command = safety.apply(wish, (0.0, 0.0))
        assert all(math.isfinite(value) for value in command)
        assert math.hypot(*command) <= LIMITS.max_speed + 1e-6
        assert math.dist(command, previous) <= LIMITS.max_acceleration * PERIOD + 1e-6
        previous = command
    assert safety.violations == 0


@given(st.floats(-math.pi, math.pi), st.floats(-0.2, 0.2), st.floats(-0.12, 0.12))
def test_a_tool_that_follows_its_command_stays_in_the_workspace(angle, x, y):
    safety = SafetyFilter(LIMITS, PERIOD)
    for _ in range(400):
        command = safety.apply((math.cos(angle), math.sin(angle)), (x, y))
        x, y = x + command[0] * PERIOD, y + command[1] * PERIOD
        assert -0.26 <= x <= 0.26 and -0.17 <= y <= 0.17


def test_an_allowed_wish_passes_unchanged():
    safety = SafetyFilter(LIMITS, PERIOD)
    assert safety.apply((0.01, -0.02), (0.0, 0.0)) == pytest.approx([0.01, -0.02])
    assert safety.interventions == 0


def test_without_a_position_only_slowing_down_is_allowed():
    safety = SafetyFilter(LIMITS, PERIOD)
    for _ in range(20):
        safety.apply((0.2, 0.0), (0.0, 0.0))
    fast = safety.command[0]
    assert safety.apply((0.2, 0.2), None)[1] == 0.0
    assert safety.apply((-0.2, 0.0), None)[0] < fast
    for _ in range(50):
        safety.apply((-0.2, 0.0), None)
    assert safety.command == pytest.approx([0.0, 0.0])


def test_an_intervention_is_counted():
    safety = SafetyFilter(LIMITS, PERIOD)
    safety.apply((10.0, 0.0), (0.0, 0.0))
    assert safety.interventions == 1


@pytest.mark.parametrize("elapsed", [0.0, -1.0])
def test_no_time_allows_no_change(elapsed):
    safety = SafetyFilter(LIMITS, PERIOD)
    assert safety.apply((0.2, 0.0), (0.0, 0.0), elapsed) == [0.0, 0.0]


SMOOTH = SafetyLimits((-0.25, -0.25), (0.25, 0.25), 0.22, 3.0, (-0.26, -0.17), (0.26, 0.17), max_jerk=100.0)
ZONES = (KeepOut(0.0, 0.0, 0.05), KeepOut(0.1, 0.05, 0.04))
GUARDED = SafetyLimits((-0.25, -0.25), (0.25, 0.25), 0.22, 3.0, (-0.26, -0.17), (0.26, 0.17), keep_out=ZONES)
BOTH = SafetyLimits(
    (-0.25, -0.25), (0.25, 0.25), 0.22, 3.0, (-0.26, -0.17), (0.26, 0.17), max_jerk=100.0, keep_out=ZONES
)


@pytest.mark.parametrize("limits", [GUARDED, BOTH])
@given(
    st.floats(-0.25, 0.25),
    st.floats(-0.16, 0.16),
    st.lists(st.floats(-math.pi, math.pi), min_size=1, max_size=12),
)
def test_a_tool_that_follows_its_command_never_enters_a_zone_nor_leaves_the_workspace(limits, x, y, headings):
    if any(math.hypot(x - zone.x, y - zone.y) < zone.radius for zone in ZONES):
        return
    safety = SafetyFilter(limits, PERIOD)
    for angle in headings:
        for _ in range(60):
            command = safety.apply((math.cos(angle), math.sin(angle)), (x, y))
            x, y = x + command[0] * PERIOD, y + command[1] * PERIOD
            assert all(math.hypot(x - zone.x, y - zone.y) >= zone.radius - 1e-4 for zone in ZONES)
            assert -0.26 <= x <= 0.26 and -0.17 <= y <= 0.17
    assert safety.violations == 0


def test_a_tool_slides_round_a_zone_instead_of_stopping():
    safety = SafetyFilter(GUARDED, PERIOD)
    x, y = -0.15, 0.01
    for _ in range(400):
        command = safety.apply((0.2, 0.0), (x, y))
        x, y = x + command[0] * PERIOD, y + command[1] * PERIOD
    assert x > 0.0  # past the middle of the first zone
    assert safety.interventions > 0


def test_inside_a_zone_the_way_out_is_open():
    safety = SafetyFilter(GUARDED, PERIOD)
    for _ in range(20):
        command = safety.apply((-0.1, 0.0), (-0.02, 0.0))
    assert command[0] == pytest.approx(-0.1)
    for _ in range(20):
        command = safety.apply((0.1, 0.0), (-0.02, 0.0))
    assert command[0] <= 1e-9


@given(st.lists(st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)), max_size=60))
def test_the_acceleration_changes_no_faster_than_the_jerk_limit(wishes):
    safety = SafetyFilter(SMOOTH, PERIOD)
    previous, acceleration = [0.0, 0.0], [0.0, 0.0]
    for wish in wishes:
        exceptions = safety.jerk_exceptions
        command = safety.apply(wish, (0.0, 0.0))
        now = [(a - b) / PERIOD for a, b in zip(command, previous, strict=True)]
        if safety.jerk_exceptions == exceptions:
            # 1e-3: a command within 1e-6 m/s of its target is put on it
            assert math.dist(now, acceleration) <= SMOOTH.max_jerk * PERIOD + 1e-3
        previous, acceleration = command, now
    assert safety.violations == 0


def test_a_step_is_reached_smoothly_and_without_ringing():
    safety = SafetyFilter(SMOOTH, PERIOD)
    speeds = [safety.apply((0.15, 0.0), (0.0, 0.0))[0] for _ in range(200)]
    assert max(speeds) < 0.16 and speeds[-1] == pytest.approx(0.15, abs=2e-3)
    assert speeds[0] <= SMOOTH.max_jerk * PERIOD**2 + 1e-9


def test_a_smooth_stop_ends_at_zero():
    safety = SafetyFilter(SMOOTH, PERIOD)
    for _ in range(50):
        safety.apply((0.15, 0.1), (0.0, 0.0))
    for _ in range(60):
        command = safety.apply((0.0, 0.0), (0.0, 0.0))
    assert command == [0.0, 0.0]


def test_a_wish_that_no_limit_concerns_is_no_intervention():
    safety = SafetyFilter(SMOOTH, PERIOD)
    for _ in range(100):
        safety.apply((0.05, 0.0), (0.0, 0.0))
    before = safety.interventions
    for _ in range(50):
        safety.apply((0.05, 0.0), (0.0, 0.0))
    assert safety.interventions == before
