"""The control loop's thread: its privileges, its period, and a robot at rest however it ends."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from srdp_controller.control.clock import sleep_then_spin, sleep_until
from srdp_controller.control.cycle import Cycle
from srdp_controller.control.guard import DRIVING, SEEN, TAKEN, GuardSlot, come_to_rest
from srdp_controller.control.late_cycles import LateCycles
from srdp_controller.control.loop import LoopState, LoopTiming, run_loop
from srdp_controller.control.privileges import (
    Privilege,
    ShallowIdle,
    lock_memory,
    raise_helpers,
    use_affinity,
    use_fifo,
)
from srdp_controller.control.supervisor import Event, Mode
from srdp_controller.errors import cause_of
from srdp_controller.observation import NEVER_NS
from srdp_controller.spec import PolicySpec

COLLECTION_NS = 500_000  # slack that a collection of the youngest generation needs
SPARE_S = 1.0  # beyond what the limits need for a stop
STUCK_S = 1.0  # a cycle that takes longer has a failed engine

Publish = Callable[[list[float], list[list[float]], int], None]


def stopping_time_s(spec: PolicySpec, values: Mapping[str, Any]) -> float:
    """The longest that the safety filter may need to reach the hold command, through the whole range [s]."""
    longest = 0.0
    for group in spec.action_groups:
        for one in group.components:
            span, needed = one.upper - one.lower, 0.0
            if one.max_rate:
                needed += span / one.max_rate
            fastest = one.max_velocity or span
            if one.max_velocity:
                needed += span / one.max_velocity
            acceleration, jerk = one.max_acceleration, one.max_jerk
            if group.kind == "twist":
                acceleration = min(
                    group.max_acceleration or values["safety.max_acceleration"], values["safety.max_acceleration"]
                )
                jerk = values["safety.max_jerk"] or group.max_jerk
            if acceleration:
                needed += 2.0 * fastest / acceleration
                needed += 4.0 * acceleration / jerk if jerk else 0.0
            longest = max(longest, needed)
    return longest + SPARE_S


class LoopThread:
    """Runs a cycle at its rate in a thread of its own, from ``start`` to ``stop``.

    ``failure`` says why the loop is dead; it is empty while all is well. The robot has been brought to rest by then.

    Args:
        run: what is called in every period with the time [ns]; it runs ``cycle``.
        cycle: whose supervisor and safety filter bring the robot to rest.
        publish: publishes the commands of a loop that has failed.
        stopping_s: what the limits need for that at most [s].
        values: the node's parameters by name.
        guard: where the commands are left for a guardian; None where there is none.
    """

    def __init__(
        self,
        run: Callable[[int], None],
        cycle: Cycle,
        publish: Publish,
        stopping_s: float,
        values: Mapping[str, Any],
        guard: GuardSlot | None = None,
    ) -> None:
        self.guard = guard
        self.cycle, self.values, self._publish = cycle, values, publish
        self._run_cycle = run
        self.state = LoopState()
        cycle.loop = self.state
        self.period_ns = round(1e9 / values["update_rate"])
        self.failure = ""
        self.reason = ""  # why it was not the student that drove when the loop was stopped
        self.privileges: list[Privilege] = []
        self.late_cycles: LateCycles | None = None
        self.cycles_before_ready = 0  # of those counted: nothing could be commanded yet
        self._stopping_s = stopping_s
        self._idle = ShallowIdle()
        self._thread: threading.Thread | None = None
        self._running = False
        self._overdue = (0, 0.0)  # the deadline that was last seen to be past, and for how long [s]
        self._abandoned = False  # a cycle did not return

    def start(self) -> None:
        """Begin; returns at once."""
        self._running = True
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Bring the robot to rest through the safety filter, for as long as its limits need, then end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        supervisor = self.cycle.supervisor
        self.reason = "" if supervisor.mode is Mode.STUDENT else supervisor.reason
        supervisor.fault("deactivated")
        give_up = time.monotonic() + self._stopping_s
        while time.monotonic() < give_up and thread.is_alive() and not self.failure:
            if supervisor.mode is Mode.STOP and self.cycle.safety.at_rest:
                self._guarded(False)
                break
            time.sleep(0.005)
        self._running = False
        if not self._abandoned:
            thread.join(timeout=self._stopping_s + 2e-9 * self.period_ns)
        if not thread.is_alive():
            self._guarded(False)

    def watch(self, every_s: float) -> None:
        """For another thread, ``every_s``: a cycle that does not return is a failure, handled by that thread.

        Where there is a guardian it has seen that before, and has brought the robot to rest.

        The calls are counted, not the time: where the whole process stood still, nobody is late.
        """
        if self.guard is not None and self.guard.words[TAKEN]:
            self._yield_to_guardian()
            return
        deadline_ns, (watched_ns, waited_s) = self.state.deadline_ns, self._overdue
        overdue = self._running and 0 < deadline_ns < time.monotonic_ns()
        waited_s = waited_s + every_s if overdue and deadline_ns == watched_ns else 0.0
        self._overdue = deadline_ns, waited_s
        if waited_s > STUCK_S + 1e-9 * self.period_ns:
            self._abandoned, self._running = True, False
            self._fail(f"the control loop failed: a cycle has not returned for {waited_s:.1f} s")

    def publish(self, command: list[float], following: list[list[float]], measured_ns: int) -> None:
        """For the cycle: publish its command, unless another thread has stopped the robot meanwhile."""
        if self._abandoned:
            return
        if self.guard is None or self.guard.leave(command, self.cycle.observation):
            self._publish(command, following, measured_ns)

    def _guarded(self, driving: bool) -> None:
        """Whether the guardian expects a heartbeat."""
        if self.guard is not None:
            self.guard.words[DRIVING] = int(driving)

    def _yield_to_guardian(self) -> None:
        """The guardian has stopped the robot: this loop drives it no more."""
        if not self._abandoned:
            self._abandoned, self._running = True, False
            failure = "the control loop failed: a cycle did not return in time, and the guardian has stopped the robot"
            self.cycle.supervisor.step(Event.FAULT, failure, time.monotonic_ns())
            self.failure = self.failure or failure
        assert self.guard is not None
        self.guard.words[SEEN] = 1

    def _run(self) -> None:
        values = self.values
        try:
            self.take_privileges()
            sys.setswitchinterval(2e-4)
            gc.collect()
            gc.freeze()
            gc.disable()
            spin_ns = round(values["spin_time"] * 1e9)
            timing = LoopTiming(
                self.period_ns, sleep_then_spin(spin_ns) if spin_ns else sleep_until, values["overruns.manage"]
            )
            cycle = self.counted_cycle()
            if values["statistics.late_cycles"]:
                late = self.late_cycles = LateCycles(self.period_ns)
                timing, cycle = replace(timing, wait=late.wait(timing.wait)), late.cycle(cycle)
            self._guarded(True)  # only now: privileges and garbage take longer than a cycle may
            run_loop(timing, self.state, cycle, lambda: self._running, self._collect_garbage)
        except BaseException as error:  # the loop's thread must say why it died, and leave no robot in motion
            if not self._abandoned:
                self._fail(f"the control loop failed: {cause_of(error)}")
        finally:
            self.state.deadline_ns = 0
            gc.enable()
            gc.unfreeze()  # else no node or session of this process is ever freed, and it stays in the graph
            self._idle.close()
            if self.late_cycles is not None:
                self.late_cycles.close()

    def take_privileges(self) -> None:
        """Real-time privileges for the calling thread, and for the others those of helpers."""
        values = self.values
        priority = values["helper_priority"] if values["thread_priority"] else 0
        self.privileges = [
            use_fifo(values["thread_priority"]),
            use_affinity(values["cpu_affinity"]),
            lock_memory(values["lock_memory"]),
            self._idle.open(values["cpu_dma_latency"]),
            raise_helpers(priority, self.cycle.long_running_threads()),
        ]

    def counted_cycle(self) -> Callable[[int], None]:
        """The cycle; before the first one after ``statistics.warm_up`` the statistics begin anew."""
        warm_up_cycles = round(self.values["statistics.warm_up"] * 1e9) // self.period_ns
        left, run, safety = warm_up_cycles or -1, self._run_cycle, self.cycle.safety

        def cycle(now_ns: int) -> None:
            nonlocal left
            if left >= 0:
                left -= 1
                if left < 0:
                    self.state.restart_statistics()
                    self.cycle.statistics.restart()
                    self.cycles_before_ready = 0
                    if self.late_cycles is not None:
                        self.late_cycles.clear()
            run(now_ns)
            if not safety.ready:
                self.cycles_before_ready += 1

        return cycle

    def _collect_garbage(self, deadline_ns: int) -> None:
        if deadline_ns - time.monotonic_ns() > COLLECTION_NS and gc.get_count()[0] > 5000:
            gc.collect(0)

    def _fail(self, failure: str) -> None:
        """The cycle cannot go on: STOP, and commands within the limits until the hold command is reached."""
        try:
            self.cycle.supervisor.step(Event.FAULT, failure, time.monotonic_ns())
            come_to_rest(self.cycle.safety, self._rest, self._stopping_s)
            self._guarded(False)
        except Exception as error:  # nobody can publish any more: the robot has to stop by itself
            failure += f"; no hold command could be published: {cause_of(error)}"
        self.failure = failure

    def _rest(self, command: list[float]) -> bool:
        """Publish a command on the way to rest; False: the guardian does."""
        if self.guard is not None and not self.guard.leave(command, self.cycle.observation):
            return False
        self._publish(command, [], NEVER_NS)
        return True
