import threading
import time

import pytest

from srdp_controller.control.clock import sleep_until
from srdp_controller.control.late_cycles import Cause, LateCycles, Moment, cause_of
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop
from srdp_controller.control.privileges import use_fifo

START = Moment(0, 0, 0, 0)
PERIOD_NS = 20_000_000


@pytest.mark.parametrize(
    ("after", "computes", "cause"),
    [
        (Moment(1000, 900, 0, 0), True, Cause.WORK),
        (Moment(1000, 900, 0, 0), False, Cause.TAKEN),  # a spin that took long
        (Moment(1000, 100, 800, 0), True, Cause.SCHEDULED),
        (Moment(1000, 100, 0, 2), True, Cause.LOCK),
        (Moment(1000, 100, 0, 0), True, Cause.TAKEN),
    ],
)
def test_the_cause_is_where_most_of_the_time_went(after, computes, cause):
    assert cause_of(START, after, 1000, 0, computes) is cause


def test_going_to_sleep_until_the_deadline_is_no_waiting_for_a_lock():
    assert cause_of(START, Moment(1000, 10, 0, 1), 600, 1, False) is Cause.TAKEN
    assert cause_of(START, Moment(1000, 10, 0, 2), 600, 1, False) is Cause.LOCK


def compute():
    until = time.thread_time_ns() + 2 * PERIOD_NS
    while time.thread_time_ns() < until:
        pass


def wait_for_a_lock():
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(2 * PERIOD_NS * 1e-9, lock.release).start()
    with lock:
        pass


def causes_of(trouble):
    state, records = LoopState(), []

    def cycle(now_ns):
        if state.cycles % 4 == 3:
            trouble()

    def loop():
        use_fifo(10)  # where that is allowed, so that a crowded machine changes nothing
        late = LateCycles(PERIOD_NS)
        timing = LoopTiming(PERIOD_NS, late.wait(sleep_until))
        run_loop(timing, state, late.cycle(cycle), lambda: state.cycles < 24)
        late.close()
        records.append(late.record())

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    (record,) = records
    long = [one for one in record["kept"] if one["execution_us"] > 1.5e-3 * PERIOD_NS]
    assert len(long) >= 6 and all(one["overrun"] for one in long)
    assert sum(record["overruns"].values()) >= 6
    return [one["cause"] for one in long]


@pytest.mark.parametrize(("trouble", "cause"), [(compute, Cause.WORK), (wait_for_a_lock, Cause.LOCK)])
def test_a_loop_tells_long_work_from_waiting(trouble, cause):
    # not every time: where FIFO is refused and the machine crowded, it is true that another thread ran instead
    assert cause.value in causes_of(trouble)
