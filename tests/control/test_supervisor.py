import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdp_controller.control.abstention import Abstention
from srdp_controller.control.supervisor import TRANSITIONS, Event, Mode, Supervisor, SupervisorTiming

HOLD_NS, DWELL_NS, STEP = 1000, 100, 10


@pytest.fixture
def supervisor():
    return Supervisor(SupervisorTiming(HOLD_NS))


# every mode and every event, written out: one row a mode, one column an event
EVENTS = (
    "FAULT RESET HOLD_EXPIRED OBSERVATION_STALE ENGINE_FAILED PLAN_LATE "
    "ABSTAIN_TEACHER_LATE ABSTAIN_TEACHER_READY TRUSTED"
)
EXPECTED = {
    "STUDENT": "STOP STUDENT STUDENT HOLD HOLD HOLD HOLD TEACHER STUDENT",
    "TEACHER": "STOP TEACHER TEACHER HOLD HOLD HOLD HOLD TEACHER STUDENT",
    "HOLD": "STOP HOLD STOP HOLD HOLD HOLD HOLD TEACHER STUDENT",
    "STOP": "STOP HOLD STOP STOP STOP STOP STOP STOP STOP",
}


def test_every_mode_answers_every_event_as_written_out_here():
    events = EVENTS.split()
    assert {event.name for event in Event} == set(events)
    answers = {mode.name: " ".join(TRANSITIONS[mode][Event[name]].name for name in events) for mode in Mode}
    assert answers == EXPECTED


def test_only_reset_leaves_stop():
    assert {event for event in Event if TRANSITIONS[Mode.STOP][event] is not Mode.STOP} == {Event.RESET}


@pytest.mark.parametrize("mode", [Mode.STUDENT, Mode.TEACHER, Mode.HOLD])
def test_every_moving_mode_returns_to_student_when_trusted(mode):
    assert TRANSITIONS[mode][Event.TRUSTED] is Mode.STUDENT


def test_hold_becomes_stop_after_its_time(supervisor):
    now = 0
    while supervisor.step(Event.OBSERVATION_STALE, "stale", now) is Mode.HOLD:
        now += STEP
        assert now <= HOLD_NS + 3 * STEP
    assert supervisor.mode is Mode.STOP and now > HOLD_NS


def test_waiting_for_the_first_observation_never_stops(supervisor):
    for now in range(0, 5 * HOLD_NS, STEP):
        assert supervisor.step(Event.OBSERVATION_STALE, "no message", now, seen_observation=False) is Mode.HOLD


def test_reset_leads_from_stop_through_hold_to_student(supervisor):
    supervisor.fault("broken")
    assert supervisor.step(Event.TRUSTED, "", 0) is Mode.STOP
    assert supervisor.step(Event.TRUSTED, "", 1) is Mode.STOP
    supervisor.request_reset()
    assert supervisor.step(Event.TRUSTED, "", 2) is Mode.HOLD
    assert supervisor.step(Event.TRUSTED, "", 3) is Mode.STUDENT


@given(st.lists(st.sampled_from(list(Event)), max_size=60))
def test_no_sequence_leaves_stop_without_reset(events):
    supervisor = Supervisor(SupervisorTiming(HOLD_NS))
    supervisor.fault("broken")
    supervisor.step(Event.TRUSTED, "", 0)
    for now, event in enumerate(events):
        before = supervisor.mode
        after = supervisor.step(event, "x", now)
        if before is Mode.STOP and event is not Event.RESET:
            assert after is Mode.STOP


def test_abstention_fires_above_and_clears_after_the_dwell_below_the_hysteresis():
    abstention = Abstention(0.1, DWELL_NS)
    assert not abstention.update(0.9, 1.0, 0)
    assert abstention.update(1.1, 1.0, 10)
    assert abstention.update(0.95, 1.0, 20 + DWELL_NS)  # below the threshold, inside the hysteresis
    assert abstention.update(0.5, 1.0, 300)
    assert abstention.update(0.5, 1.0, 300 + DWELL_NS - 1)
    assert not abstention.update(0.5, 1.0, 300 + DWELL_NS)
    assert abstention.count == 1


def test_a_score_that_is_not_a_number_abstains():
    assert Abstention(0.1, DWELL_NS).update(math.nan, 1.0, 0)
