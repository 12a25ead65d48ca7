import pytest

from srdp_controller.control import loop as loop_module
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop, wait_for_slack

PERIOD = 1_000_000


class FakeClock:
    """A clock that only waiting and working move."""

    def __init__(self):
        self.now = 0

    def monotonic_ns(self):
        return self.now

    def wait(self, deadline):
        self.now = max(self.now, deadline)


@pytest.fixture
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(loop_module, "time", fake)
    return fake


def run(clock, durations, manage=True):
    state, started = LoopState(), []
    work = iter(durations)

    def cycle(now):
        started.append(now)
        clock.now += next(work)

    run_loop(LoopTiming(PERIOD, clock.wait, manage), state, cycle, lambda: len(started) < len(durations))
    return state, started


def test_cycles_start_on_absolute_deadlines(clock):
    _, started = run(clock, [100, 900_000, 5, 5])
    assert started == [PERIOD, 2 * PERIOD, 3 * PERIOD, 4 * PERIOD]


def test_an_overrun_skips_what_it_missed_and_keeps_the_phase(clock):
    state, started = run(clock, [5, 2_500_000, 5])
    assert started == [PERIOD, 2 * PERIOD, 5 * PERIOD]
    assert (state.overruns, state.missed_cycles) == (1, 2)


def test_unmanaged_overruns_catch_up(clock):
    state, started = run(clock, [2_500_000, 5, 5, 5], manage=False)
    assert len(started) == 4 and started[3] == 4 * PERIOD
    assert state.missed_cycles == 0


def test_lateness_is_recorded(clock):
    late = iter([300, 0, 0])

    def wait(deadline):
        clock.now = deadline + next(late)

    state = LoopState()
    count = iter(range(10))
    run_loop(LoopTiming(PERIOD, wait), state, lambda now: None, lambda: next(count) < 3)
    assert state.lateness.largest == 300 and state.period_error.largest == 300


@pytest.fixture
def sleeping_clock(clock, monkeypatch):
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + round(seconds * 1e9))
    monkeypatch.setattr(loop_module, "sleep_until", clock.wait)
    return clock


def test_others_wait_until_the_cycle_that_is_due_has_ended(sleeping_clock):
    state = LoopState(deadline_ns=PERIOD, last_execution_ns=100_000)
    sleeping_clock.now = PERIOD // 2
    ended = PERIOD + 150_000

    def monotonic_ns():
        if sleeping_clock.now >= ended:
            state.deadline_ns = 2 * PERIOD
        return sleeping_clock.now

    sleeping_clock.monotonic_ns = monotonic_ns
    wait_for_slack(state, PERIOD)
    assert ended <= sleeping_clock.now < ended + 50_000


def test_others_need_not_wait_while_most_of_the_period_is_ahead_or_no_loop_runs(sleeping_clock):
    for deadline, period in ((0, PERIOD), (PERIOD, PERIOD), (8 * PERIOD, 50 * PERIOD)):
        sleeping_clock.now = 1_000
        wait_for_slack(LoopState(deadline_ns=deadline), period)
        assert sleeping_clock.now == 1_000


def test_others_do_not_wait_for_a_cycle_that_hangs(sleeping_clock):
    sleeping_clock.now = PERIOD // 2
    wait_for_slack(LoopState(deadline_ns=PERIOD, last_execution_ns=100_000), PERIOD)
    assert 2 * PERIOD <= sleeping_clock.now < 2.1 * PERIOD


def test_the_loop_says_its_next_deadline_while_it_runs(clock):
    state, deadlines = LoopState(), []

    def cycle(now):
        deadlines.append(state.deadline_ns)
        clock.now += 100

    run_loop(LoopTiming(PERIOD, clock.wait), state, cycle, lambda: len(deadlines) < 3)
    assert deadlines == [PERIOD, 2 * PERIOD, 3 * PERIOD] and state.deadline_ns == 0
