import pytest

from srdp_controller.control import loop as loop_module
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop

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
