"""A planner in virtual time, for loops that nobody waits for: plans take as long as a distribution says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from srdp_controller.control.abstention import latent_distance
from srdp_controller.control.planner import Plan, Rest, RunTimes, prepare_inputs
from srdp_controller.engines.engine import Engine
from srdp_controller.errors import SrdpError

Latency = Callable[[], int]


class VirtualPlanner:
    """A ``Planner`` whose plans are ready ``latency()`` nanoseconds after they were submitted.

    With ``next_ns``, which says when the loop's next cycle begins, it leaves its engine to whoever runs those of many
    robots together and then calls ``complete``, at the latest when the plan is ``due``.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], int],
        latency: Latency,
        next_ns: Callable[[], int] | None = None,
    ) -> None:
        self.engine = engine
        self._clock, self._latency, self._next_ns = clock, latency, next_ns
        self._request: tuple[int, int, bool] | None = None  # what is to be evaluated yet
        self._ready_ns = self._took_ns = -1
        self._pending: Plan | None = None
        self._plan: Plan | None = None
        self._times = RunTimes()
        self.error = ""
        self.plans = 0

    def _settle(self, now_ns: int) -> None:
        if self._pending is not None and now_ns >= self._ready_ns:
            self._plan, self._pending = self._pending, None
            self._times.record(self._plan.took_ns)
            self.plans += 1

    @property
    def busy(self) -> bool:
        """Whether a plan is being made."""
        self._settle(self._clock())
        return self._pending is not None or self._request is not None

    @property
    def due(self) -> bool:
        """Whether its loop's next cycle may ask for what is not evaluated yet."""
        return self._request is not None and self._next_ns is not None and self._next_ns() >= self._ready_ns

    @property
    def pending(self) -> bool:
        """Whether a plan is under way whose engine was not run yet."""
        return self._request is not None

    def newest(self, now_ns: int) -> Plan | None:
        """The newest plan that is ready by now."""
        self._settle(now_ns)
        return self._plan

    def delay_ns(self) -> int:
        """The longest of the recent run times [ns]."""
        return self._times.longest()

    def exchange(self, engine: Engine) -> None:
        """Plan with another engine from the next plan on."""
        self.engine = engine
        self.error = ""

    def submit(
        self,
        observation: np.ndarray,
        noise: np.ndarray,
        now_ns: int,
        measured_ns: int,
        conditioned: bool = False,
        rest: Rest | None = None,
    ) -> bool:
        """Keep the plan back until it would be ready; where nobody else runs the engine, it is run at once."""
        if self.busy:
            return False
        told = prepare_inputs(self.engine, observation, noise, rest)
        self._request = (now_ns, measured_ns, conditioned or told)
        self._took_ns = self._latency()
        self._ready_ns = now_ns + self._took_ns
        if self._next_ns is not None:
            return True
        try:
            self.engine.run()
            self.complete()
        except SrdpError as error:
            self.error, self._request = str(error), None
        return True

    def complete(self) -> None:
        """Make a plan of what the engine has answered; nothing where it was given up meanwhile."""
        if self._request is None:
            return
        (now_ns, measured_ns, conditioned), self._request = self._request, None
        engine = self.engine
        chunk = engine.action[0].copy()
        self.error = "" if np.isfinite(chunk).all() else f"engine {engine.name} answered NaN"
        if not self.error:
            score, observation = latent_distance(engine), engine.observation[0].copy()
            self._pending = Plan(chunk, now_ns, measured_ns, score, conditioned, engine, self._took_ns, observation)

    def expire(self, now_ns: int, deadline_ns: int) -> None:
        """Give up a plan that has been under way for too long."""
        if self.busy and now_ns - (self._ready_ns - self._took_ns) > deadline_ns:
            self._pending = self._request = None

    def threads(self) -> list[int]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing to end."""
