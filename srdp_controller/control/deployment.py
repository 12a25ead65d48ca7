"""Exchanging the engine while the loop runs: prepare in the background, exchange one reference."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from srdp_controller.control.histogram import Histogram
from srdp_controller.control.privileges import use_fifo
from srdp_controller.engines.bundle import LatencyBudget
from srdp_controller.engines.corrector import CorrectorEngine
from srdp_controller.engines.engine import Engine, Runnable
from srdp_controller.errors import EngineError, cause_of
from srdp_controller.spec import PolicySpec


@dataclass(frozen=True)
class DeploymentRequest:
    """What to drive with: a policy of a bundle, on a provider; of how many candidates where it runs in every cycle."""

    engine: str
    model_dir: str = ""
    provider: str = "cpu"
    candidates: int = 1

    def __str__(self) -> str:
        place = f" of {self.model_dir}" if self.model_dir else ""
        return f"{self.engine}{place} on {self.provider}"


@dataclass(frozen=True)
class Deployment:
    """An engine that is ready to drive, with what belongs to it.

    Attributes:
        request: what it answers.
        engine: loaded, verified and warm.
        threshold: of the abstention test.
        run_time_ns: what the loop has to expect (``measure``).
        teacher: the teacher's engine of the same bundle and provider.
        ahead: whether it takes longer than a period, and plans ahead of the loop.
        corrector: corrects, in every cycle, what was planned ahead (``planning.mode: corrected``).
        budget: how old the observations behind its commands may be; None where nobody has measured it.
    """

    request: DeploymentRequest
    engine: Engine
    threshold: float
    run_time_ns: float
    teacher: Engine
    ahead: bool = False
    corrector: CorrectorEngine | None = None
    budget: LatencyBudget | None = None

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.request.engine

    @property
    def candidates(self) -> int:
        """How many chunks a run samples: one where it plans ahead."""
        return len(self.engine.action)


def require_same_robot(mine: PolicySpec, other: PolicySpec, where: str) -> None:
    """Refuse a bundle whose policies observe or command something else than those that drive now.

    How a network normalises its inputs is its own affair; names, units, sources, limits, horizon and
    rate are the robot's.

    Raises:
        EngineError: naming the first field that differs.
    """

    def facts(spec: PolicySpec) -> dict[str, object]:
        content = spec.model_dump(exclude={"task"})
        for components in (content["observation"], *(group["components"] for group in content["action_groups"])):
            for component in components:
                del component["centre"], component["scale"]
        return content

    theirs = facts(other)
    for field, value in facts(mine).items():
        if theirs[field] != value:
            raise EngineError(f"{where}: its {field} differs from that of the bundle that drives; restart the node")


PAUSE_S = 1e-3


class RunTime(NamedTuple):
    """What an engine's runs took.

    Attributes:
        usual_ns: median of the wall time; what a planner that may be late now and then needs.
        longest_ns: what the loop has to expect: the larger of the processor time's p99 and the wall time's median. The
            wall time's tail is what others took from this thread, which they cannot take from the loop.
    """

    usual_ns: float
    longest_ns: float


def measure(engine: Runnable, runs: int = 100) -> RunTime:
    """Run an engine ``runs`` times.

    Runs are ``PAUSE_S`` apart, as in a loop, and so that nobody waits for long for this thread's processor or
    for the interpreter's lock.
    """
    wall, processor = Histogram(), Histogram()
    for _ in range(runs):
        time.sleep(PAUSE_S)
        started, worked = time.perf_counter_ns(), time.thread_time_ns()
        engine.run()
        processor.record(time.thread_time_ns() - worked)
        wall.record(time.perf_counter_ns() - started)
    usual_ns = wall.quantile(0.5)
    return RunTime(usual_ns, max(processor.quantile(0.99), usual_ns))


FITTING_SHARE = 0.8


def fits(run_time_ns: float, period_ns: int) -> bool:
    """Whether an engine's longest run time leaves room in the period."""
    return run_time_ns <= FITTING_SHARE * period_ns


def require_fit(name: str, run_time_ns: float, period_ns: int) -> None:
    """Refuse an engine that does not leave room in the period.

    Raises:
        EngineError: with the measured time and the rate that would fit.
    """
    if not fits(run_time_ns, period_ns):
        raise EngineError(
            f"engine {name} takes {run_time_ns * 1e-3:.0f} us, more than {FITTING_SHARE:.0%} of the period of "
            f"{period_ns * 1e-3:.0f} us; lower update_rate to {FITTING_SHARE * 1e9 / run_time_ns:.0f} Hz, choose "
            "fewer steps, or let it plan ahead with planning.mode:=auto (launch files: planning:=auto)"
        )


def require_chunk(name: str, run_time_ns: float, chunk_ns: int, max_age_ns: int) -> str:
    """Refuse an engine whose plans would be over, or too old, when they are ready.

    Returns:
        What to warn of: each plan would be over, or too old, before the next one is ready. Empty where it is not.

    Raises:
        EngineError: with the measured time and what it would have to stay below.
    """
    most_ns = min(chunk_ns, max_age_ns)
    told = (
        f"engine {name} takes {run_time_ns * 1e-6:.1f} ms to plan a chunk of {chunk_ns * 1e-6:.0f} ms from "
        f"observations that may be {max_age_ns * 1e-6:.0f} ms old: "
    )
    if run_time_ns > most_ns:
        raise EngineError(f"{told}at most {most_ns * 1e-6:.0f} ms are possible; choose fewer steps")
    # a plan is executed until the one that was begun when it became ready is ready
    gap_ns = 2 * run_time_ns - most_ns
    return (
        f"{told}the robot holds for {gap_ns * 1e-6:.0f} ms before each plan; choose fewer steps" if gap_ns > 0 else ""
    )


def require_budget(name: str, run_time_ns: float, budget: LatencyBudget) -> None:
    """Refuse an engine whose run time alone is more delay than its task bears.

    Raises:
        EngineError: with the measured time and the budget.
    """
    if run_time_ns > budget.delay_s * 1e9:
        raise EngineError(
            f"engine {name} takes {run_time_ns * 1e-6:.1f} ms, more than the {budget.delay_s * 1e3:.0f} ms by which "
            f"commands may be late ({budget.text}); choose fewer steps"
        )


class DeploymentSlot:
    """Holds the deployment in force; ``take`` and ``roll_back`` are called by the loop between two cycles.

    Attributes:
        current: what is in force.
        history: since when (system time [s]) which policy was, and of how many candidates.
        previous: what was before the last swap, until the new one has proved itself.
    """

    def __init__(
        self,
        deployment: Deployment,
        prepare: Callable[[DeploymentRequest], Deployment],
        priority: int = 0,
        patience_s: float = math.inf,
    ) -> None:
        """``priority`` (SCHED_FIFO) is that of the thread that prepares: it holds the interpreter's lock at times.

        What is not prepared after ``patience_s`` is given up.
        """
        self._priority, self._patience_s = priority, patience_s
        self._retired: list[Deployment] = []
        self.current = deployment
        self.history = [(time.time(), deployment.name, deployment.candidates)]
        self.previous: Deployment | None = None
        self.swaps = 0
        self.rollbacks = 0
        self.refusal = ""
        self._prepare = prepare
        self._pending: Deployment | None = None
        self._request: DeploymentRequest | None = None
        self._lock = threading.Lock()  # between requesters only; the loop never takes it
        self._thread: threading.Thread | None = None
        self._preparing: tuple[DeploymentRequest, float] | None = None  # and since when (monotonic) [s]

    def request(self, request: DeploymentRequest) -> None:
        """Prepare what is asked for in the background; the newest request wins. Returns at once."""
        with self._lock:
            self._request = request
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="engine-swap", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        use_fifo(self._priority)
        me = threading.current_thread()
        while True:
            with self._lock:
                if self._thread is not me:
                    return
                request, self._request = self._request, None
                if request is None:
                    self._thread = self._preparing = None
                    return
                self._preparing = request, time.monotonic()
            prepared, refusal = None, ""
            try:
                prepared = self._prepare(request)
            except Exception as error:  # whatever a bundle brings: the loop goes on with what drives, and says why
                refusal = cause_of(error)
            with self._lock:
                if self._thread is not me:  # given up meanwhile: nobody wants it any more
                    return
                self.refusal = refusal
                if prepared is not None:
                    self._pending = prepared

    def give_up(self) -> None:
        """Leave a preparation that hangs to itself, and go on with the next request."""
        with self._lock:
            if self._preparing is None or time.monotonic() - self._preparing[1] < self._patience_s:
                return
            self.refusal = f"{self._preparing[0]} was not prepared within {self._patience_s:g} s (swap.timeout)"
            self._thread = self._preparing = None
            request = self._request
        if request is not None:
            self.request(request)

    @property
    def busy(self) -> bool:
        """Whether a request is being prepared or waits for the next cycle."""
        return self._thread is not None or self._pending is not None

    def take(self) -> bool:
        """Put a prepared deployment in force; whether there was one."""
        pending = self._pending
        if pending is None:
            return False
        self._pending = None
        self._retire(self.previous)
        self.previous = self.current
        self._put_in_force(pending)
        self.swaps += 1
        return True

    def roll_back(self, reason: str) -> bool:
        """Put the deployment before the last swap in force again, once; whether there was one."""
        if self.previous is None:
            return False
        failed = self.current
        self._put_in_force(self.previous)
        self.previous = None
        self._retire(failed)
        self.rollbacks += 1
        self.refusal = f"{failed.request} failed right after the swap ({reason})"
        return True

    def _put_in_force(self, deployment: Deployment) -> None:
        self.current = deployment
        self.history.append((time.time(), deployment.name, deployment.candidates))

    def settle(self) -> None:
        """The new deployment has proved itself: forget the one before."""
        self._retire(self.previous)
        self.previous = None

    def _retire(self, deployment: Deployment | None) -> None:
        if deployment is not None:
            self._retired.append(deployment)

    def sweep(self) -> None:
        """Free what is no longer in use, and give up what hangs; the loop does not, since it takes some 100 us."""
        self.give_up()
        while self._retired:
            self._retired.pop()
