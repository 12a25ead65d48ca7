"""One control cycle: exchange the deployment, observe, propose, supervise, filter, publish, record.

Knows neither ROS nor the robot: where observations come from and where commands go are two callables, so the node,
the rollout in virtual time, the benchmarks and the tests run this very code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from srdp_controller.control.abstention import Abstention
from srdp_controller.control.deployment import DeploymentSlot
from srdp_controller.control.loop import LoopState
from srdp_controller.control.noise import HeldNoise
from srdp_controller.control.planner import ChunkSchedule, Plan, Planner
from srdp_controller.control.safety_filter import SafetyFilter
from srdp_controller.control.sources import Ahead, Corrected, Moment, Proposal, Source, Student, Teacher
from srdp_controller.control.statistics import Statistics
from srdp_controller.control.supervisor import Event, Mode, Supervisor
from srdp_controller.control.telemetry import MODES, Telemetry
from srdp_controller.engines.engine import Runnable
from srdp_controller.errors import cause_of
from srdp_controller.observation import NEVER_NS, ObservationAssembler
from srdp_controller.spec import TRAJECTORY

# take(now_ns) updates the assembler and returns when the newest message was received [ns], or 0
Take = Callable[[int], int]
# publish(command, following, measured_ns): the next commands of the chunk, one a step, where an output takes them;
# and when what the command was computed from was measured [ns]
Publish = Callable[[list[float], list[list[float]], int], None]


@dataclass(frozen=True)
class CycleSettings:
    """Times [ns] and switches of the cycle."""

    period_ns: int
    max_age_ns: int
    teacher_deadline_ns: int
    abstain_enabled: bool = True
    rollback_cycles: int = 100  # an engine that fails so soon after a swap makes way for the one before
    blend_ns: int = 50_000_000  # in which one source's chunk fades into another's
    execution_ns: int = 0  # for so long a chunk of an engine in the loop is executed before the next evaluation


class CommandHistory:
    """The commands of the longest age that the observation contains, in a ring."""

    def __init__(self, ages_ns: list[int], period_ns: int) -> None:
        self._sent: list[tuple[int, list[float]]] = [(NEVER_NS, [])] * (
            2 + max([0, *(a // period_ns for a in ages_ns)])
        )
        self._next = 0

    def record(self, now_ns: int, command: list[float]) -> None:
        """Keep a command (act_dim,) that was sent."""
        self._sent[self._next % len(self._sent)] = (now_ns, command)
        self._next += 1

    def at(self, when_ns: int, before: list[float]) -> list[float]:
        """The command in force at a time; ``before`` where that was before all of them."""
        newest, best = NEVER_NS, before
        for sent_ns, command in self._sent:
            if newest < sent_ns <= when_ns:
                newest, best = sent_ns, command
        return best

    def clear(self) -> None:
        """Forget them."""
        self._sent = [(NEVER_NS, [])] * len(self._sent)


class Cycle:
    """Call it once a period; everything it needs is allocated before the first call.

    Every call of somebody else's code (readers, engines, planners, publishers) stands in a ``try``: nothing that they
    raise ends the loop while the robot moves. ``begin`` and ``finish`` are its two halves round the engine's run, for
    whoever runs many robots' engines as one batch.
    """

    def __init__(
        self,
        settings: CycleSettings,
        assembler: ObservationAssembler,
        slot: DeploymentSlot,
        teacher: Planner,
        ahead: Planner,
        supervisor: Supervisor,
        abstention: Abstention,
        safety: SafetyFilter,
        noise: HeldNoise,
        telemetry: Telemetry,
        take: Take,
        publish: Publish,
    ) -> None:
        spec, max_age_ns = assembler.spec, settings.max_age_ns
        self.settings, self.slot, self.teacher, self.ahead = settings, slot, teacher, ahead
        self.supervisor, self.abstention, self.safety, self.telemetry = supervisor, abstention, safety, telemetry
        self.statistics = Statistics()
        self.schedule = ChunkSchedule(round(spec.step_s * 1e9), settings.blend_ns)
        self.loop: LoopState | None = None  # of the loop that calls, for statistics by mode
        self._assembler, self._noise, self._take, self._publish = assembler, noise, take, publish
        executing_ns = settings.execution_ns - settings.period_ns // 2  # to the nearest cycle, whenever those wake up
        self._student = Student(slot, assembler, self.schedule, noise, self.statistics, max_age_ns, executing_ns)
        planned_ahead = (ahead, slot, assembler, self.schedule, noise, self.statistics, max_age_ns)
        self._ahead, self._corrected = Ahead(*planned_ahead), Corrected(*planned_ahead)
        self._teacher = Teacher(teacher, assembler, self.schedule, max_age_ns, settings.teacher_deadline_ns)
        self._in_force: object = self._student  # the source of the plan in force
        self._history = CommandHistory(assembler.history_ages_ns, settings.period_ns)
        self._wants_following = any(group.output.type == TRAJECTORY for group in spec.action_groups)
        self._zero = [0.0] * spec.act_dim
        self._episode: int | None = None  # since when: a new episode that begins with the next cycle
        self._in_episode, self._new_episode, self._since_ns = True, False, NEVER_NS
        self._seen_observation = False  # since the start: from then on missing sensors lead to STOP
        self._moment = Moment(0, NEVER_NS, NEVER_NS)
        self._unobserved = self._failure = ""  # why there is no observation to compute a command from; what failed
        self._since_swap = self._started_ns = self._published_ns = self._received_ns = 0

    # --- the cycle ------------------------------------------------------------------------------

    def __call__(self, now_ns: int) -> None:
        """One period: exactly one command is published, whatever fails."""
        engine = self.begin(now_ns)
        if engine is None:
            self.finish(now_ns)
            return
        failure, started_ns = "", time.monotonic_ns()
        try:
            engine.run()
        except Exception as error:
            failure = cause_of(error)
        self.finish(now_ns, time.monotonic_ns() - started_ns, failure)

    def begin(self, now_ns: int) -> Runnable | None:
        """Exchange the deployment, observe, fill the inputs in; the engine whose ``run`` is due now, or None."""
        self._unobserved, self._failure = "the observation could not be read", ""
        try:
            self._exchange()
            self._unobserved = self._observe(now_ns)
            return None if self._unobserved else self._source.begin(self._moment)
        except Exception as error:
            self._failure = cause_of(error)
        return None

    def finish(self, now_ns: int, inference_ns: int = 0, failure: str = "") -> None:
        """Propose, supervise, filter, publish, record; ``failure`` says why the engine did not answer, if so."""
        safety, observed_ns = self.safety, self._moment.observed_ns
        proposal = self._propose(inference_ns, failure or self._failure)
        stopped = self.supervisor.mode is Mode.STOP
        self._seen_observation = self._seen_observation or observed_ns != NEVER_NS  # an episode does not undo it
        mode = self.supervisor.step(proposal.event, proposal.reason, now_ns, self._seen_observation)
        if stopped and mode is not Mode.STOP:
            safety.forget_position()  # whoever has reset it may have moved the robot
        if mode is Mode.STOP:
            self.schedule.clear()
        vector = None if self._unobserved else self._assembler.vector
        elapsed_s = (now_ns - self._published_ns if self._published_ns else self.settings.period_ns) * 1e-9
        self._published_ns = now_ns
        following: list[list[float]] = []
        try:
            safety.apply(self.schedule.action(now_ns), vector, elapsed_s)
            if self._wants_following:
                following = safety.preview(self.schedule.following(now_ns), self._assembler.spec.step_s)
        except Exception as error:  # what cannot be filtered is not driven
            self.supervisor.fault(f"the safety filter failed: {cause_of(error)}")
            safety.apply(None, None, elapsed_s)
        planned_ns = self.schedule.measured_ns()
        measured_ns = observed_ns if planned_ns is None else planned_ns
        if safety.ready:
            try:
                self._publish(safety.command, following, measured_ns)
            except Exception as error:
                self.supervisor.fault(f"publishing failed: {cause_of(error)}")
            self.statistics.commands += 1
        self._record(mode, now_ns, measured_ns, inference_ns)

    @property
    def observation(self) -> np.ndarray:
        """What was observed last (obs_dim,); the cycle's own array."""
        return self._assembler.vector

    # --- its steps ------------------------------------------------------------------------------

    @property
    def _source(self) -> Source:
        deployment = self.slot.current
        if not deployment.ahead:
            return self._student
        return self._ahead if deployment.corrector is None else self._corrected

    def _exchange(self) -> None:
        """Put a deployment that has been prepared, and an episode that has been announced, in force."""
        if self.slot.take():
            self._deployed()
        elif self.slot.previous is not None:
            self._since_swap += 1
            if self._since_swap > self.settings.rollback_cycles:
                self.slot.settle()
        since_ns, self._episode = self._episode, None
        if since_ns is not None:
            self._since_ns, self._new_episode, self._in_episode = since_ns, True, True
            self._assembler.discard_before(since_ns)
            self.safety.forget_position()
            for memory in (self.schedule, self.abstention, self._history):
                memory.clear()
            self._noise.renew()

    def _deployed(self) -> None:
        """Another deployment is in force: its latents and its teacher are others."""
        self._since_swap = 0
        self.abstention.clear()
        self.teacher.exchange(self.slot.current.teacher)
        self.ahead.exchange(self.slot.current.engine)

    def _observe(self, now_ns: int) -> str:
        """Take what has arrived; why no command can be computed from it, or nothing."""
        assembler, max_age_ns = self._assembler, self.settings.max_age_ns
        self._moment, self._received_ns = Moment(now_ns, self._moment.observed_ns, self._since_ns), 0
        self._received_ns = self._take(now_ns)
        observed_ns = assembler.oldest_ns()
        self._moment = Moment(now_ns, observed_ns, self._since_ns)
        if observed_ns == NEVER_NS:
            missing = ", ".join(assembler.missing())
            return f"a new episode: waiting for {missing}" if self._new_episode else f"no message yet on {missing}"
        stale = assembler.stale(now_ns, max_age_ns)
        if stale:
            refused = self.statistics.rejected_reason
            return f"{stale}; last refused {refused}" if refused and stale.startswith(refused.split(":")[0]) else stale
        self._new_episode = False
        self.statistics.observation_age.record(now_ns - observed_ns)
        assembler.remember(now_ns)
        if assembler.history_ages_ns:
            at, first = self._history.at, self._zero
            assembler.set_history({age: at(now_ns - age, first) for age in assembler.history_ages_ns})
        return ""

    def _propose(self, inference_ns: int, failure: str) -> Proposal:
        """Ask the source, and the teacher where the source is not to be trusted; put the plan in force."""
        if self._unobserved:
            return Proposal(Event.OBSERVATION_STALE, f"{self._unobserved}{failure and f': {failure}'}")
        source, moment = self._source, self._moment
        if failure:
            proposal = self._failed(failure)
        else:
            try:
                proposal = source.finish(moment, inference_ns)
                if proposal.plan is not None and self._abstains(proposal.plan.score):
                    proposal = self._ask_teacher(source, proposal.plan.score)
                elif proposal.plan is not None:
                    self._join(proposal.plan, source, source.plans_ahead)
            except Exception as error:
                proposal = self._failed(cause_of(error))
        if isinstance(source, Ahead) and source is self._source:  # not where it has just been rolled back
            try:  # only now: what is committed are the actions of the plan that was just joined
                source.submit(source.noise, moment)
            except Exception as error:
                proposal = self._failed(cause_of(error))
        return proposal

    def _abstains(self, score: float) -> bool:
        """Whether the policy differs from its teacher: ``abstention`` keeps hysteresis and dwell."""
        threshold = self.slot.current.threshold
        if not self.settings.abstain_enabled or threshold == math.inf:
            return False
        self.statistics.score = score
        fired = self.abstention.fired
        abstains = self.abstention.update(score, threshold, self._moment.now_ns, self._in_episode)
        if abstains and not fired and not self._in_episode:
            self.statistics.alarms_between_episodes += 1
        return abstains

    def _ask_teacher(self, source: Source, score: float) -> Proposal:
        proposal = self._teacher.finish(self._moment)
        if proposal.plan is not None:
            self._join(proposal.plan, self._teacher, True)
        self._teacher.submit(source.noise, self._moment)
        limit = f"{self.slot.current.threshold:.3g}"
        if score <= self.slot.current.threshold:
            reason = f"latent distance was above {limit}, now {score:.3g}: below, waiting"
        else:
            reason = f"latent distance {score:.3g} above {limit}"
        return proposal._replace(reason=reason + proposal.reason)

    def _join(self, plan: Plan, source: object, ahead: bool) -> None:
        """Put a plan in force; it fades in where the source changes, or where it was planned unconditioned.

        What would become too old while it fades out is dropped at once.
        """
        schedule, settings, now_ns = self.schedule, self.settings, self._moment.now_ns
        earlier = schedule.plan
        if plan is earlier:
            return
        blend = source is not self._in_force or (ahead and not plan.conditioned)
        self._in_force = source
        fresh = earlier is not None and now_ns + settings.blend_ns - earlier.measured_ns <= settings.max_age_ns
        schedule.join(plan, now_ns, blend and fresh)

    def _failed(self, reason: str) -> Proposal:
        """The engine failed: HOLD, and right after a swap the one before takes over again."""
        self.statistics.engine_failures += 1
        if self._since_swap < self.settings.rollback_cycles and self.slot.roll_back(reason):
            self._deployed()
            reason = f"{reason}; {self.slot.current.name} takes over again"
        return Proposal(Event.ENGINE_FAILED, reason)

    def _record(self, mode: Mode, now_ns: int, measured_ns: int, inference_ns: int) -> None:
        command, observed_ns, received_ns = self.safety.command, self._moment.observed_ns, self._received_ns
        if self._assembler.history_ages_ns:
            self._history.record(now_ns, command)
        self._started_ns = self._started_ns or now_ns
        ended_ns = time.monotonic_ns()
        latency_ns = ended_ns - received_ns if received_ns else 0
        observed = observed_ns != NEVER_NS
        age_ns = now_ns - measured_ns if observed else None
        self.statistics.record(mode, ended_ns - now_ns, inference_ns, latency_ns, age_ns, self.loop)
        self.telemetry.record(
            (
                (now_ns - self._started_ns) * 1e-9,
                MODES.index(mode.value),
                inference_ns * 1e-3,
                latency_ns * 1e-3,
                (now_ns - observed_ns) * 1e-6 if observed else math.nan,
                self.statistics.score,
            ),
            command,
            self._assembler.vector,
        )

    # --- from other threads ---------------------------------------------------------------------

    def begin_episode(self, since_ns: int) -> None:
        """From the next cycle on a new episode: what was measured before ``since_ns`` (monotonic) is forgotten.

        So are plans, the abstention test's past and the noise. HOLD until the first whole observation.
        """
        self._episode = since_ns

    def end_episode(self) -> None:
        """Until the next episode begins, alarms are counted apart (``alarms_between_episodes``)."""
        self._in_episode = False

    def long_running_threads(self) -> list[int]:
        """Threads (the operating system's identifiers) that compute for long and must not be hurried."""
        return [*self.teacher.threads(), *self.ahead.threads()]
