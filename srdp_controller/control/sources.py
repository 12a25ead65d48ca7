"""Where a cycle's plan comes from: the student in every cycle, an engine that plans ahead, or the teacher.

Each says with ``finish`` what it found, as a ``Proposal``; before that, those that drive with the deployed engine fill
inputs in with ``begin``. The cycle decides which source is asked and puts the proposed plan in force.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from srdp_controller.control.abstention import latent_distance
from srdp_controller.control.coherence import Coherence
from srdp_controller.control.deployment import DeploymentSlot
from srdp_controller.control.noise import HeldNoise
from srdp_controller.control.planner import ChunkSchedule, Plan, Planner
from srdp_controller.control.statistics import Statistics
from srdp_controller.control.supervisor import Event
from srdp_controller.engines.engine import Engine, Runnable
from srdp_controller.errors import EngineError
from srdp_controller.observation import ObservationAssembler


class Proposal(NamedTuple):
    """What a source found in a cycle: the supervisor's event and its reason, and the plan to drive with, if any."""

    event: Event
    reason: str = ""
    plan: Plan | None = None


class Moment(NamedTuple):
    """A cycle's time and that of its observation, monotonic [ns]; plans from before ``since_ns`` do not count."""

    now_ns: int
    observed_ns: int
    since_ns: int


class Source(Protocol):
    """Proposes what to do."""

    plans_ahead: bool  # its plans were begun in the past, while another one was executed

    @property
    def noise(self) -> np.ndarray:
        """The sampler's noise in force (1, n_noise, horizon, act_dim)."""

    def begin(self, moment: Moment) -> Runnable | None:
        """Fill the inputs in; the engine whose ``run`` is due now, or None."""

    def finish(self, moment: Moment, inference_ns: int) -> Proposal:
        """What came of it.

        Raises:
            SrdpError: the engine failed.
        """


class Student:
    """The deployed engine, evaluated in the cycle; of several chunks, the one that goes on with the plan in force.

    A chunk is executed for ``execution_ns`` before the next evaluation, unless it ends before, another source or engine
    has taken over meanwhile, or what it was computed from is older than ``max_age_ns``.
    """

    plans_ahead = False

    def __init__(
        self,
        slot: DeploymentSlot,
        assembler: ObservationAssembler,
        schedule: ChunkSchedule,
        noise: HeldNoise,
        statistics: Statistics,
        max_age_ns: int,
        execution_ns: int = 0,
    ) -> None:
        self._slot, self._assembler, self._noise, self._statistics = slot, assembler, noise, statistics
        self._schedule, spec = schedule, assembler.spec
        self._max_age_ns, self._execution_ns = max_age_ns, execution_ns
        self._executing: Plan | None = None
        self._coherence = Coherence(spec.action_normalisation()[1], spec.horizon, schedule.step_ns)

    @property
    def noise(self) -> np.ndarray:
        """Of the first chunk that is sampled: the engine's own buffer."""
        return self._slot.current.engine.noise[:1]

    def begin(self, moment: Moment) -> Engine | None:
        """Fill the engine's observation and noise in; None while a chunk is executed."""
        engine, plan, now_ns = self._slot.current.engine, self._schedule.plan, moment.now_ns
        self._executing = None
        if (
            plan is not None
            and plan.engine is engine
            and now_ns - plan.begun_ns < self._execution_ns
            and now_ns - plan.measured_ns <= self._max_age_ns
            and plan.action(now_ns, self._schedule.step_ns) is not None
        ):
            self._executing = plan
            return None
        np.copyto(engine.observation, self._assembler.vector)
        self._noise.fill(engine.noise, moment.now_ns)
        return engine

    def finish(self, moment: Moment, inference_ns: int) -> Proposal:
        """The engine's chunk; its clock starts now, as the evaluated closed loop's does."""
        if self._executing is not None:
            return Proposal(Event.TRUSTED, "", self._executing)
        deployment = self._slot.current
        engine = deployment.engine
        self._statistics.inference.record(inference_ns)
        chunk = engine.action[self._coherence.choose(engine.action, self._schedule.plan, moment.now_ns)]
        if not math.isfinite(float(chunk.sum())):
            raise EngineError(f"engine {deployment.name} answered NaN")
        score = latent_distance(engine) if deployment.threshold < math.inf else math.nan
        plan = Plan(chunk.copy(), moment.now_ns, moment.observed_ns, score, engine=engine)
        return Proposal(Event.TRUSTED, "", plan)


class _Planned:
    """Plans are made by a ``Planner``, which is told what will be done until they are ready."""

    def __init__(
        self,
        planner: Planner,
        assembler: ObservationAssembler,
        schedule: ChunkSchedule,
        max_age_ns: int,
        deadline_ns: int,
    ) -> None:
        """``max_age_ns`` is that of a plan's observation, ``deadline_ns`` the time after which it is given up."""
        self._planner, self._assembler, self._schedule = planner, assembler, schedule
        self._max_age_ns, self._deadline_ns = max_age_ns, deadline_ns

    def submit(self, noise: np.ndarray, moment: Moment) -> None:
        """Have a chunk planned, unless one is being made that is not late yet."""
        planner, assembler = self._planner, self._assembler
        planner.expire(moment.now_ns, self._deadline_ns)
        if planner.busy:
            return
        steps = assembler.spec.prefix_steps
        committed = self._schedule.committed(moment.now_ns, planner.delay_ns(), steps) if steps else ()
        if steps:
            assembler.set_prefix(committed)
        rest = self._schedule.rest(moment.now_ns, planner.delay_ns())
        planner.submit(assembler.vector, noise, moment.now_ns, moment.observed_ns, len(committed) > 0, rest)
        if steps:
            assembler.set_prefix(())


class Ahead(_Planned):
    """The deployed engine, which takes longer than a period: its newest plan is executed while it makes the next."""

    plans_ahead = True

    def __init__(
        self,
        planner: Planner,
        slot: DeploymentSlot,
        assembler: ObservationAssembler,
        schedule: ChunkSchedule,
        noise: HeldNoise,
        statistics: Statistics,
        max_age_ns: int,
    ) -> None:
        super().__init__(planner, assembler, schedule, max_age_ns, max_age_ns)
        self._slot, self._noise, self._statistics = slot, noise, statistics
        self.noise = np.zeros_like(slot.current.engine.noise)
        self._newest: Plan | None = None
        self._planned: Plan | None = None

    def begin(self, moment: Moment) -> Runnable | None:
        """Draw the noise of the next plan; there is nothing to wait for."""
        shape = self._slot.current.engine.noise.shape
        if self.noise.shape != shape:
            self.noise = np.zeros(shape, np.float32)
        self._noise.fill(self.noise, moment.now_ns)
        return None

    def finish(self, moment: Moment, inference_ns: int) -> Proposal:
        """The newest plan, unless it is too old; ``submit`` has the next one made, once this one is in force."""
        planner, name, now_ns = self._planner, self._slot.current.name, moment.now_ns
        if planner.error:
            raise EngineError(planner.error)
        plan = planner.newest(now_ns)
        if plan is None or plan.engine is not self._slot.current.engine or plan.measured_ns < moment.since_ns:
            return Proposal(Event.PLAN_LATE, f"the first plan of {name} is not ready")
        if plan is not self._newest:
            self._newest = plan
            self._statistics.inference.record(plan.took_ns)
        if now_ns - plan.measured_ns > self._max_age_ns:
            return Proposal(Event.PLAN_LATE, f"{name} takes longer than {self._max_age_ns * 1e-6:.0f} ms")
        return Proposal(Event.TRUSTED, "", plan)


class Corrected(Ahead):
    """As ``Ahead``, and a small network corrects each action of the late plan from the newest observation (A2C2)."""

    plans_ahead = False  # what is corrected goes on from what was executed: fading would bring the old plan back

    def begin(self, moment: Moment) -> Runnable | None:
        """The correction head, filled in for the action that is due; None where no plan reaches."""
        super().begin(moment)
        head, step_ns = self._slot.current.corrector, self._schedule.step_ns
        plan, self._planned = self._planner.newest(moment.now_ns), None
        action = None if plan is None else plan.action(moment.now_ns, step_ns)
        if head is None or plan is None or action is None:
            return None
        self._planned = plan
        head.observation[0], head.origin[0], head.base_action[0] = self._assembler.vector, plan.observation, action
        head.index[0, 0] = plan.place(moment.now_ns, step_ns)
        return head

    def finish(self, moment: Moment, inference_ns: int) -> Proposal:
        """The newest plan with the correction added to all of its actions: for the later ones it is a first guess."""
        proposal, head = super().finish(moment, inference_ns), self._slot.current.corrector
        plan = proposal.plan
        # one that became ready since ``begin`` is corrected by the next cycle
        if head is None or plan is None or plan is not self._planned:
            return proposal
        if not math.isfinite(float(head.correction.sum())):
            raise EngineError(f"{head.name} answered NaN")
        return proposal._replace(plan=plan._replace(chunk=plan.chunk + head.correction))


class Teacher(_Planned):
    """The teacher, asked while the student is not trusted; its plans are due within the deadline."""

    def finish(self, moment: Moment) -> Proposal:
        """Its newest plan where that is due; ``submit`` has the next one made."""
        planner, now_ns = self._planner, moment.now_ns
        plan = planner.newest(now_ns)
        if (
            plan is None
            or plan.measured_ns < moment.since_ns
            or now_ns - plan.begun_ns > self._deadline_ns
            or now_ns - plan.measured_ns > self._max_age_ns
        ):
            return Proposal(Event.ABSTAIN_TEACHER_LATE, f"; teacher {planner.error or 'late'}")
        return Proposal(Event.ABSTAIN_TEACHER_READY, "", plan)
