"""The loop without a controller: what a machine allows.

``python -m srdp_controller.benchmarks.bare_loop HZ SECONDS BUSY [BUNDLE ENGINE]``. Its cycle is empty, or runs an
engine until BUSY seconds of an undisturbed machine's work are done: a machine that takes the processor away for a
moment, or becomes slow, hits a cycle that computes more often than one that does not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from srdp_controller.control.clock import sleep_then_spin
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop
from srdp_controller.control.privileges import ShallowIdle, lock_memory, use_fifo
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.providers import load_engine

SPIN_NS = 150_000


def work(bundle: str, name: str, busy_ns: int) -> Callable[[int], None]:
    """A cycle that evaluates an engine as often as fits into ``busy_ns``, at least once."""
    engine = load_engine(load_bundle(bundle), name, "cpu")
    times = []
    for _ in range(200):
        started = time.monotonic_ns()
        engine.run()
        times.append(time.monotonic_ns() - started)
    repeats = range(max(1, round(busy_ns / sorted(times)[len(times) // 2])))

    def cycle(now_ns: int) -> None:
        for _ in repeats:
            engine.run()

    return cycle


def main() -> None:
    """Run and print the counters and the histogram of the lateness as JSON."""
    rate, seconds, busy_ns = float(sys.argv[1]), float(sys.argv[2]), round(float(sys.argv[3]) * 1e9)
    idle = ShallowIdle()
    use_fifo(50)
    lock_memory(True)
    idle.open(True)
    state = LoopState()
    cycles = round(rate * seconds)
    timing = LoopTiming(round(1e9 / rate), sleep_then_spin(SPIN_NS))

    cycle = work(sys.argv[4], sys.argv[5], busy_ns) if len(sys.argv) > 5 else lambda now_ns: None
    run_loop(timing, state, cycle, lambda: state.cycles + state.missed_cycles < cycles)
    idle.close()
    lateness = state.lateness
    part = {"counts": lateness.sparse(), "largest": lateness.largest, "total": lateness.total}
    record = {"cycles": state.cycles, "overruns": state.overruns, "missed_cycles": state.missed_cycles}
    print(json.dumps({**record, "histograms": {"lateness_us": part}}))


if __name__ == "__main__":
    main()
