"""One control cycle: observe, infer, judge, choose, filter, publish, account.

Knows neither ROS nor the robot: where observations come from and where commands go are two
callables, so the node, the benchmarks and the tests run this very code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from srdp_controller.control.deployment import EngineSlot
from srdp_controller.control.histogram import Histogram
from srdp_controller.control.loop import LoopState
from srdp_controller.control.noise import HeldNoise
from srdp_controller.control.planner import ChunkSchedule, Plan, Planner
from srdp_controller.control.safety_filter import SafetyFilter
from srdp_controller.control.supervisor import Abstention, Event, Mode, Supervisor
from srdp_controller.control.telemetry import MODES, Telemetry
from srdp_controller.engines.engine import Engine
from srdp_controller.errors import SrdpError
from srdp_controller.observation import NEVER_NS, ObservationAssembler


@dataclass(frozen=True)
class ControllerSettings:
    """Times [ns] and switches of the cycle."""

    period_ns: int
    max_age_ns: int
    teacher_deadline_ns: int
    abstain_enabled: bool = True
    rollback_cycles: int = 100  # an engine that fails so soon after a swap makes way for the one before
    blend_ns: int = 50_000_000  # in which one source's chunk fades into another's


@dataclass
class ModeStatistics:
    """Histograms [ns] and overruns of the cycles in one mode; ``age`` is that of what the command came from."""

    lateness: Histogram = field(default_factory=Histogram)
    execution: Histogram = field(default_factory=Histogram)
    inference: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    age: Histogram = field(default_factory=Histogram)
    overruns: int = 0

    def histograms(self) -> tuple[Histogram, ...]:
        """All of them."""
        return self.lateness, self.execution, self.inference, self.latency, self.age


@dataclass
class ControllerState:
    """Counters and histograms [ns] of a run."""

    commands: int = 0
    rejected_messages: int = 0
    rejected_reason: str = ""
    engine_failures: int = 0
    inference: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    overhead: Histogram = field(default_factory=Histogram)
    observation_age: Histogram = field(default_factory=Histogram)
    score: float = math.nan
    modes: dict[Mode, int] = field(default_factory=lambda: dict.fromkeys(Mode, 0))
    by_mode: dict[Mode, ModeStatistics] = field(default_factory=lambda: {mode: ModeStatistics() for mode in Mode})

    def restart_statistics(self) -> None:
        """Empty the histograms and count the commands anew; the other counters go on."""
        self.commands = 0
        for histogram in (self.inference, self.latency, self.overhead, self.observation_age):
            histogram.clear()
        for statistics in self.by_mode.values():
            statistics.overruns = 0
            for histogram in statistics.histograms():
                histogram.clear()


# take(now_ns) updates the assembler and returns when the newest message was received [ns], or 0
Take = Callable[[int], int]
# publish(command, measured_ns): when what the command was computed from was measured [ns]
Publish = Callable[[list[float], int], None]


def nowhere(command: list[float], measured_ns: int) -> None:
    """Publishes nothing."""


class Controller:
    """Runs ``cycle`` once a period; everything it needs is allocated before the first one."""

    def __init__(
        self,
        settings: ControllerSettings,
        assembler: ObservationAssembler,
        slot: EngineSlot,
        teacher: Planner,
        ahead: Planner,
        supervisor: Supervisor,
        abstention: Abstention,
        safety: SafetyFilter,
        noise: HeldNoise,
        telemetry: Telemetry,
        take: Take,
        publish: Publish,
        practise: Publish = nowhere,
    ) -> None:
        self.settings = settings
        self.state = ControllerState()
        self.slot = slot
        self.supervisor = supervisor
        self.abstention = abstention
        self.safety = safety
        self.telemetry = telemetry
        self.teacher = teacher
        self.ahead = ahead
        self._assembler = assembler
        self._noise = noise
        self.loop: LoopState | None = None  # of the loop that calls ``cycle``, for statistics by mode
        self._overruns_seen = 0
        self._last_mode = supervisor.mode
        self._take = take
        self._publish = publish
        spec = assembler.spec
        self.schedule = ChunkSchedule(round(spec.step_s * 1e9), settings.blend_ns)
        self._from_teacher = False
        names = [component.name for component in spec.observation]
        self._tip = [names.index(name) for name in spec.workspace.position_observations]
        self._zero = [0.0] * spec.act_dim
        self._history = [(0, self._zero)] * (
            2 + max([0, *(age // settings.period_ns for age in assembler.history_ages_ns)])
        )
        self._cycle = 0
        self._newest: Plan | None = None
        self._ahead_noise = np.zeros_like(slot.current.engine.noise)
        self._scores = np.zeros_like(slot.current.engine.latent[0])
        self._since_swap = 0
        self._started_ns = 0
        self._last_publish_ns = 0
        self._position: tuple[float, float] | None = None
        self._received_early_ns = 0
        self._practise = practise  # publishes where nobody listens
        self._understudy = SafetyFilter(safety.limits, safety.period_s)
        self._discarded = ModeStatistics()

    def cycle(self, now_ns: int) -> None:
        """One period: exactly one command is published."""
        state = self.state
        settings = self.settings
        assembler = self._assembler
        if self._started_ns == 0:
            self._started_ns = now_ns
        if self.slot.take():
            self._deployed()
        elif self.slot.previous is not None:
            self._since_swap += 1
            if self._since_swap > settings.rollback_cycles:
                self.slot.settle()
        received_ns = self._take(now_ns) or self._received_early_ns
        self._received_early_ns = 0
        observed_ns = assembler.oldest_ns()
        age_ns = now_ns - observed_ns
        inference_ns = 0
        if observed_ns == NEVER_NS:
            event, reason = Event.OBSERVATION_STALE, "no message yet on " + ", ".join(assembler.missing())
        elif age_ns > settings.max_age_ns:
            event, reason = Event.OBSERVATION_STALE, self._stale_reason()
        else:
            state.observation_age.record(age_ns)
            event, reason, inference_ns = self._infer(now_ns, observed_ns)
        mode = self.supervisor.step(event, reason, now_ns, observed_ns != NEVER_NS)
        state.modes[mode] += 1
        desired = self._desired(mode, now_ns)
        elapsed_ns = now_ns - self._last_publish_ns if self._last_publish_ns else settings.period_ns
        position = self._position
        if observed_ns != NEVER_NS:
            if age_ns <= settings.max_age_ns or position is None:
                vector = assembler.vector
                position = (float(vector[self._tip[0]]), float(vector[self._tip[1]]))
            else:  # dead reckoning, so that the barrier holds while the rest of the chunk is driven blind
                vx, vy = self.safety.command[:2]
                position = (position[0] + vx * elapsed_ns * 1e-9, position[1] + vy * elapsed_ns * 1e-9)
            self._position = position
        command = self.safety.apply(desired, position, elapsed_ns * 1e-9)
        self._last_publish_ns = now_ns
        planned_ns = self.schedule.measured_ns()
        measured_ns = observed_ns if planned_ns is None else planned_ns
        self._publish(command, measured_ns)
        state.commands += 1
        if assembler.history_ages_ns:
            self._history[self._cycle % len(self._history)] = (now_ns, command)
        self._cycle += 1
        ended = time.monotonic_ns()
        latency_ns = ended - received_ns if received_ns else 0
        statistics = state.by_mode[mode]
        statistics.execution.record(ended - now_ns)
        if received_ns:
            state.latency.record(latency_ns)
            statistics.latency.record(latency_ns)
        if observed_ns != NEVER_NS:
            statistics.age.record(now_ns - measured_ns)
        if inference_ns:
            statistics.inference.record(inference_ns)
        self._account_for_the_loop(mode, statistics)
        state.overhead.record(ended - now_ns - inference_ns)
        self.telemetry.record(
            (
                (now_ns - self._started_ns) * 1e-9,
                MODES.index(mode.value),
                inference_ns * 1e-3,
                latency_ns * 1e-3,
                age_ns * 1e-6 if observed_ns != NEVER_NS else math.nan,
                state.score,
                command[0],
                command[1] if len(command) > 1 else 0.0,
            ),
            assembler.vector,
        )

    def rehearse(self, now_ns: int) -> None:
        """Take what has arrived so far, then run a cycle for practice, so that the next one finds warm caches.

        Nothing comes of it but the observation: no command, no change of mode, no count. An engine that fails
        here will fail in the cycle, where that is judged.
        """
        received_ns = self._take(now_ns)
        if received_ns:
            self._received_early_ns = received_ns
        observed_ns = self._assembler.oldest_ns()
        deployment = self.slot.current
        if observed_ns == NEVER_NS or deployment.ahead:  # the planner's thread may be using the engine
            return
        try:
            self._evaluate(deployment.engine, now_ns)
        except SrdpError:
            return
        self._distance(deployment.engine)
        vector = self._assembler.vector
        position = (float(vector[self._tip[0]]), float(vector[self._tip[1]]))
        desired: Any = self.schedule.action(now_ns)
        command = self._understudy.apply(self._zero if desired is None else desired, position)
        self._practise(command, observed_ns)
        for histogram in self._discarded.histograms():
            histogram.record(time.monotonic_ns() - now_ns)

    def _account_for_the_loop(self, mode: Mode, statistics: ModeStatistics) -> None:
        """The lateness of this cycle, and the overrun of the one before, which the loop has counted since."""
        loop = self.loop
        if loop is None:
            return
        statistics.lateness.record(loop.last_lateness_ns)
        if loop.overruns != self._overruns_seen:
            if loop.overruns > self._overruns_seen:
                self.state.by_mode[self._last_mode].overruns += loop.overruns - self._overruns_seen
            self._overruns_seen = loop.overruns
        self._last_mode = mode

    def long_running_threads(self) -> list[int]:
        """Threads (the operating system's identifiers) that compute for long and must not be hurried."""
        return [*self.teacher.threads(), *self.ahead.threads()]

    def _deployed(self) -> None:
        """Another deployment is in force: its latents and its teacher are others."""
        self._since_swap = 0
        self.abstention.clear()
        self.teacher.exchange(self.slot.current.teacher)
        self.ahead.exchange(self.slot.current.engine)
        if self._scores.shape != self.slot.current.engine.latent[0].shape:
            self._scores = np.zeros_like(self.slot.current.engine.latent[0])

    def _engine_failed(self, reason: str, inference_ns: int) -> tuple[Event, str, int]:
        self.state.engine_failures += 1
        if self._since_swap < self.settings.rollback_cycles and self.slot.roll_back(reason):
            self._deployed()
            reason = f"{reason}; {self.slot.current.name} takes over again"
        return Event.ENGINE_FAILED, reason, inference_ns

    def _stale_reason(self) -> str:
        oldest = min(
            (plan for plan in self._assembler.plans.values() if not plan.optional), key=lambda plan: plan.measured_ns
        )
        reason = f"{oldest.topic} is older than {self.settings.max_age_ns * 1e-6:.0f} ms"
        refused = self.state.rejected_reason
        return f"{reason}; last refused {refused}" if refused.startswith(f"{oldest.topic}:") else reason

    def _infer(self, now_ns: int, observed_ns: int) -> tuple[Event, str, int]:
        """Run the student; returns the cycle's event, its reason and the inference time [ns]."""
        state = self.state
        deployment = self.slot.current
        engine = deployment.engine
        assembler = self._assembler
        assembler.remember(now_ns)
        if assembler.history_ages_ns:
            assembler.set_history({age: self._command_at(now_ns - age) for age in assembler.history_ages_ns})
        if deployment.ahead:
            return self._plan_ahead(now_ns, observed_ns)
        started = time.monotonic_ns()
        try:
            inference_ns = self._evaluate(engine, now_ns)
        except SrdpError as error:
            return self._engine_failed(str(error), time.monotonic_ns() - started)
        state.inference.record(inference_ns)
        chunk = engine.action[0]
        if not math.isfinite(float(chunk.sum())):
            return self._engine_failed(f"engine {deployment.name} answered NaN", inference_ns)
        if self.settings.abstain_enabled and deployment.threshold < math.inf:
            state.score = score = self._distance(engine)
            if self.abstention.update(score, deployment.threshold, now_ns):
                return (*self._abstain(engine.noise, now_ns, observed_ns, score, deployment.threshold), inference_ns)
        # this chunk's clock starts now, as the evaluated closed loop's does
        self._join(Plan(chunk.copy(), now_ns, observed_ns), now_ns, teacher=False)
        return Event.TRUSTED, "", inference_ns

    def _evaluate(self, engine: Engine, now_ns: int) -> int:
        """Run the engine on the present observation; returns how long that took [ns]."""
        np.copyto(engine.observation[0], self._assembler.vector)
        self._noise.fill(engine.noise, now_ns)
        started = time.monotonic_ns()
        engine.run()
        return time.monotonic_ns() - started

    def _distance(self, engine: Engine) -> float:
        """The latent distance between student and teacher, which the certificate is about."""
        np.subtract(engine.teacher_latent[0], engine.latent[0], out=self._scores)
        return math.sqrt(float(self._scores.dot(self._scores)))

    def _join(self, plan: Plan, now_ns: int, teacher: bool, follows: bool = False) -> None:
        """Put a plan in force; it is blended in where the source changes, or where it ``follows`` unconditioned.

        What would become too old while it fades is dropped at once.
        """
        schedule, settings = self.schedule, self.settings
        blend = teacher is not self._from_teacher or (follows and not plan.conditioned)
        self._from_teacher = teacher
        earlier = schedule.plan
        fresh = earlier is not None and now_ns + settings.blend_ns - earlier.measured_ns <= settings.max_age_ns
        schedule.join(plan, now_ns, blend and fresh)

    def _submit(self, planner: Planner, noise: np.ndarray, now_ns: int, observed_ns: int) -> None:
        """Have a chunk planned, told what will be done until it is ready where the policy can be told."""
        if planner.busy:
            return
        assembler = self._assembler
        steps = assembler.spec.prefix_steps
        committed = self.schedule.committed(now_ns, planner.delay_ns(), steps) if steps else ()
        if steps:
            assembler.set_prefix(committed)
        planner.submit(assembler.vector, noise, now_ns, observed_ns, len(committed) > 0)
        if steps:
            assembler.set_prefix(())

    def _plan_ahead(self, now_ns: int, observed_ns: int) -> tuple[Event, str, int]:
        """Drive with an engine that takes longer than a period: the newest plan is executed meanwhile."""
        noise = self._ahead_noise
        if noise.shape != self.slot.current.engine.noise.shape:
            noise = self._ahead_noise = np.zeros_like(self.slot.current.engine.noise)
        self._noise.fill(noise, now_ns)
        event, reason = self._judge_plan(noise, now_ns, observed_ns)
        self.ahead.expire(now_ns, self.settings.max_age_ns)
        if self.slot.current.ahead:  # it may just have been rolled back to an engine that this thread runs itself
            # only now: what is committed are the actions of the plan that has just been joined
            self._submit(self.ahead, noise, now_ns, observed_ns)
        return event, reason, 0

    def _judge_plan(self, noise: np.ndarray, now_ns: int, observed_ns: int) -> tuple[Event, str]:
        state, settings = self.state, self.settings
        deployment, planner = self.slot.current, self.ahead
        if planner.error:
            return self._engine_failed(planner.error, 0)[:2]
        plan = planner.newest(now_ns)
        if plan is None or plan.engine is not deployment.engine:
            return Event.PLAN_LATE, f"the first plan of {deployment.name} is not ready"
        if plan is not self._newest:
            self._newest = plan
            state.inference.record(plan.took_ns)
        if now_ns - plan.measured_ns > settings.max_age_ns:
            return Event.PLAN_LATE, f"{deployment.name} takes longer than {settings.max_age_ns * 1e-6:.0f} ms"
        if settings.abstain_enabled and deployment.threshold < math.inf:
            state.score = plan.score
            if self.abstention.update(plan.score, deployment.threshold, now_ns):
                return self._abstain(noise, now_ns, observed_ns, plan.score, deployment.threshold)
        if plan is not self.schedule.plan:
            self._join(plan, now_ns, teacher=False, follows=True)
        return Event.TRUSTED, ""

    def _abstain(
        self, noise: np.ndarray, now_ns: int, observed_ns: int, score: float, threshold: float
    ) -> tuple[Event, str]:
        worker = self.teacher
        settings = self.settings
        worker.expire(now_ns, settings.teacher_deadline_ns)
        plan = worker.newest(now_ns)
        due = (
            plan is not None
            and now_ns - plan.begun_ns <= settings.teacher_deadline_ns
            and now_ns - plan.measured_ns <= settings.max_age_ns
        )
        if plan is not None and due and plan is not self.schedule.plan:
            self._join(plan, now_ns, teacher=True, follows=True)
        self._submit(worker, noise, now_ns, observed_ns)
        reason = f"latent distance {score:.3g} above {threshold:.3g}"
        if due:
            return Event.ABSTAIN_TEACHER_READY, reason
        return Event.ABSTAIN_TEACHER_LATE, f"{reason}; teacher {worker.error or 'late'}"

    def _desired(self, mode: Mode, now_ns: int) -> Any:
        if mode is Mode.STOP:
            self.schedule.clear()
            return self._zero
        action = self.schedule.action(now_ns)
        return self._zero if action is None else action

    def _command_at(self, when_ns: int) -> list[float]:
        best = self._zero
        newest = -(2**62)
        for sent_ns, command in self._history:
            if newest < sent_ns <= when_ns:
                newest, best = sent_ns, command
        return best
