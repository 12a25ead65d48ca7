"""What a loop leaves for its guardian, and how that goes on from it."""

import threading
import time

import numpy as np
import pytest
from arm import arm_spec
from reacher import reacher_spec

from srdp_controller.control.guard import CLOSED, DRIVING, TAKEN, GuardSlot, bring_to_rest, watch
from srdp_controller.control.limits.common import SafetyLimits
from srdp_controller.control.safety_filter import SafetyFilter
from srdp_controller.tasks.pushing.spec import pushing_spec

PERIOD_S = 0.005
SPECS = {"twist": pushing_spec, "joint_velocity": arm_spec, "joint_position": reacher_spec}
LIMITS = SafetyLimits(max_acceleration=2.0, max_jerk=40.0)


def driven(spec, cycles=60):
    """A filter that has followed wishes, a slot with what it let through, and what was observed."""
    safety, slot = SafetyFilter(spec, LIMITS, PERIOD_S), GuardSlot()
    slot.reset(50_000_000)
    slot.open(spec.act_dim, spec.obs_dim)
    centre, _ = spec.observation_normalisation()
    vector = centre.astype(np.float32)
    low, high = spec.action_limits()
    wish = low + 0.9 * (high - low)
    for _ in range(cycles):
        safety.apply(wish, vector)
        assert slot.leave(safety.command, vector)
    return safety, slot, vector


@pytest.mark.parametrize("kind", SPECS)
def test_the_guardian_goes_on_as_the_loops_own_filter_would_have(kind):
    spec = SPECS[kind]()
    own, slot, _ = driven(spec)
    before, heard = list(own.command), []
    bring_to_rest(slot, SafetyFilter(spec, LIMITS, PERIOD_S), heard.append, 5.0)
    expected = []
    while not (len(expected) >= 3 and own.at_rest):
        expected.append(own.apply(None, None))
    assert len(heard) == len(expected)
    np.testing.assert_allclose(heard, expected, atol=1e-6)
    assert np.abs(np.array(heard[0]) - before).max() > 0.0 or kind == "joint_position"  # it brakes at once


def test_a_loop_that_comes_back_publishes_nothing():
    spec = pushing_spec()
    _, slot, vector = driven(spec)
    bring_to_rest(slot, SafetyFilter(spec, LIMITS, PERIOD_S), lambda _: None, 5.0)
    assert not slot.leave([0.1, 0.1], vector)


def heartbeat(slot, vector, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        slot.leave([0.1, 0.1], vector)
        time.sleep(PERIOD_S)


def test_a_heartbeat_that_stays_away_is_named_and_one_that_goes_on_is_not():
    _, slot, vector = driven(pushing_spec())
    slot.words[DRIVING] = 1
    beating = threading.Thread(target=heartbeat, args=(slot, vector, 0.4))
    beating.start()
    started = time.monotonic()
    cause = watch(slot, PERIOD_S, lambda: True)
    assert "has not returned for" in cause
    assert time.monotonic() - started >= 0.4
    beating.join()


def test_whoever_stands_is_not_watched_and_a_closed_session_ends_the_watch():
    _, slot, _ = driven(pushing_spec())
    slot.words[DRIVING] = 0  # brought to rest, and stopped
    closing = threading.Timer(0.3, lambda: slot.words.__setitem__(CLOSED, 1))
    closing.start()
    assert watch(slot, PERIOD_S, lambda: True) == ""
    assert not slot.words[TAKEN]


@pytest.mark.parametrize(("driving", "cause"), [(1, "the controller's process is gone"), (0, "")])
def test_a_process_that_is_gone_is_a_failure_only_while_it_drives(driving, cause):
    _, slot, _ = driven(pushing_spec())
    slot.words[DRIVING] = driving
    assert watch(slot, PERIOD_S, lambda: False) == cause


def test_a_spec_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        GuardSlot().open(10, 100_000)
