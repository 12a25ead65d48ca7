"""The loop without a controller, `python -m srdp_controller.control.bare_loop HZ SECONDS BUSY`: what a machine allows.

Its cycle is empty, or spins for BUSY seconds: a machine that takes the processor away for a moment hits a
cycle that computes more often than one that does not, whatever it computes.
"""

from __future__ import annotations

import json
import sys
import time

from srdp_controller.control.clock import sleep_then_spin
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop
from srdp_controller.control.privileges import ShallowIdle, lock_memory, use_fifo

SPIN_NS = 150_000


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

    def cycle(now_ns: int) -> None:
        while time.monotonic_ns() - now_ns < busy_ns:
            pass

    run_loop(timing, state, cycle, lambda: state.cycles + state.missed_cycles < cycles)
    idle.close()
    lateness = state.lateness
    part = {"counts": lateness.sparse(), "largest": lateness.largest, "total": lateness.total}
    record = {"cycles": state.cycles, "overruns": state.overruns, "missed_cycles": state.missed_cycles}
    print(json.dumps({**record, "histograms": {"lateness_us": part}}))


if __name__ == "__main__":
    main()
