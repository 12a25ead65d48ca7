"""Many simulated robots, each driven by the controller's own cycle in virtual time, with one batched policy.

Everything between a robot's measurements and its commands is what runs on a robot: observation, planning, abstention
with its teacher, supervisor, safety filter. Only time is simulated: physics and cycles take none, an evaluation takes
as long as one says. Each robot runs on, cycle after cycle, until it needs an evaluation; then the policy is evaluated
once for all of them, whatever the time is in each one's world.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from srdp_controller.control.build import build_cycle, default_values
from srdp_controller.control.deployment import Deployment, DeploymentRequest, fits
from srdp_controller.control.supervisor import Mode
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.corrector import CorrectorEngine
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.policies import BatchedEngine, Policy, run_together
from srdp_controller.evaluation.virtual_planner import VirtualPlanner
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import Outcome, Task


@dataclass(frozen=True)
class Driver:
    """What drives: a policy, and the teacher that takes over where it is not trusted.

    Attributes:
        policy: evaluated in every cycle, or planning ahead.
        latencies_s: an evaluation takes one of them, drawn anew each time [s]; none are needed for 0.
        teacher: of the fallback.
        teacher_latencies_s: as ``latencies_s``.
        threshold: of the latent distance; infinite where there is no test.
        corrector: makes a robot's head for the policy's late chunks, where ``planning.mode`` is ``corrected``; it is
            taken to need no time.
    """

    policy: Policy
    latencies_s: Sequence[float] = ()
    teacher: Policy | None = None
    teacher_latencies_s: Sequence[float] = ()
    threshold: float = math.inf
    corrector: Callable[[], CorrectorEngine] | None = None


@dataclass
class Episode:
    """One episode.

    Attributes:
        seed: of everything random in it.
        outcome: what it came to.
        cycles: how many ran; ``missed_cycles`` began while an evaluation was under way.
        abstentions: how often the test fired.
        modes: cycles in each mode.
        interventions: cycles in which the safety filter changed the command noticeably; and by cause.
        command_age_s: median age of the observations behind the commands when they were published [s]; NaN without.
        commands: (ticks, act_dim) in force while the world ticked.
        ages_s: (ticks,) age of the observation behind them [s].
    """

    seed: int
    outcome: Outcome
    cycles: int = 0
    missed_cycles: int = 0
    abstentions: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    interventions: int = 0
    interventions_by_cause: dict[str, int] = field(default_factory=dict)
    command_age_s: float = math.nan
    commands: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    ages_s: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def drawn(latencies_s: Sequence[float], rng: np.random.Generator) -> Callable[[], int]:
    """Draws one of the latencies as ns."""
    choices = [round(latency * 1e9) for latency in latencies_s] or [0]
    if len(choices) == 1:
        return lambda: choices[0]
    return lambda: choices[rng.integers(len(choices))]


def _no_swap(request: DeploymentRequest) -> Deployment:
    raise SrdpError("engines are not exchanged in virtual time")


class _Robot:
    """One world and, for each of its episodes, a fresh cycle."""

    def __init__(self, observed: ObservedWorld, driver: Driver, values: Mapping[str, Any]) -> None:
        self.observed, self.world = observed, observed.world
        self._driver, self._values = driver, values
        self._rate = float(values["update_rate"])
        mode = values["planning.mode"]
        slowest_ns = 1e9 * max(driver.latencies_s, default=0.0)
        self._corrector: CorrectorEngine | None = None
        if mode == "corrected":
            if driver.corrector is None:
                raise SrdpError(f"planning.mode corrected: there is no correction head for {driver.policy.name}")
            self._corrector = driver.corrector()
        self._ahead = mode in ("ahead", "corrected") or (
            mode == "auto" and not fits(slowest_ns, round(1e9 / self._rate))
        )

    def start(self, seed: int) -> None:
        """Reset the world, and build the cycle as the node does."""
        observed, driver, values = self.observed, self._driver, self._values
        observed.reset(np.random.default_rng([seed, 0]))
        rng = np.random.default_rng([seed, 1])
        spec = observed.assembler.spec
        engine = BatchedEngine(driver.policy, spec, 1 if self._ahead else values["sampling.candidates"] or 1)
        teacher = BatchedEngine(driver.teacher or driver.policy, spec)
        self._engine: BatchedEngine | None = None  # that the cycle which has begun waits for
        self._latency = drawn(driver.latencies_s, rng)
        self._planners = (
            VirtualPlanner(teacher, self._clock, drawn(driver.teacher_latencies_s, rng), self._next_ns),
            VirtualPlanner(engine, self._clock, self._latency, self._next_ns),
        )
        self._cycle = build_cycle(
            {**values, "seed": seed},
            observed.assembler,
            Deployment(
                DeploymentRequest(driver.policy.name),
                engine,
                driver.threshold,
                0.0,
                teacher,
                self._ahead,
                self._corrector,
            ),
            _no_swap,
            *self._planners,
            Telemetry(1, spec),
            lambda now_ns: 0,  # the world's ticks have fed the assembler
            self._publish,
        )
        self._number = math.ceil(self.world.time_s * self._rate - 1e-6)
        self._now_ns = self._took_ns = 0
        self._outbox: list[tuple[int, list[float], int]] = []
        self._command: list[float] = []  # in force; none before the first
        self._measured_ns = 0
        self._commands: list[list[float]] = []
        self._ages_s: list[float] = []
        self.episode = Episode(seed, self.world.outcome)
        self._cycle.begin_episode(0)

    def _clock(self) -> int:
        return self._now_ns

    def _next_ns(self) -> int:
        return round(self._number / self._rate * 1e9)

    def _publish(self, command: list[float], following: list[list[float]], measured_ns: int) -> None:
        self._outbox.append((self._now_ns + self._took_ns, list(command), measured_ns))

    def advance(self) -> bool:
        """Run on until an evaluation is needed; False where the episode ended before."""
        while not any(planner.due for planner in self._planners):
            if not self._tick():
                return False
            self._engine = self._begin()
            if self._engine is not None:
                return True
            self._finish()
        return True

    @property
    def waiting_for(self) -> list[BatchedEngine]:
        """Engines to be run before ``resume``: those that are needed now, and with them those of plans under way."""
        planned = [planner.engine for planner in self._planners if planner.pending]
        return [*([] if self._engine is None else [self._engine]), *planned]  # type: ignore[list-item]

    def resume(self) -> None:
        """Go on with what the engines have answered."""
        for planner in self._planners:
            planner.complete()
        if self._engine is not None:
            self._finish()

    def _tick(self) -> bool:
        """Tick the world until the next cycle is due; False where the episode ended before."""
        world = self.world
        while True:
            until_s = world.time_s + world.tick_s - 1e-9
            if self._number / self._rate < until_s:
                return True
            while self._outbox and self._outbox[0][0] * 1e-9 <= world.time_s + 1e-9:  # a later one waits for a tick
                _, self._command, self._measured_ns = self._outbox.pop(0)
                world.send(self._command)
            if self._command:
                self._commands.append(self._command)
                self._ages_s.append(world.time_s - self._measured_ns * 1e-9)
            self.observed.tick()
            if world.outcome.finished:
                self._end()
                return False

    def _begin(self) -> BatchedEngine | None:
        """Begin the cycle; the engine that it wants to be run."""
        self._now_ns = self._next_ns()
        engine: Any = self._cycle.begin(self._now_ns)
        if engine is self._corrector and engine is not None:
            engine.run()  # too small to be worth a batch
            engine = None
        self._took_ns = 0 if engine is None else self._latency()
        return engine

    def _finish(self) -> None:
        """End the cycle; those that begin before its command is out are missed."""
        self._engine = None
        self._cycle.finish(self._now_ns, self._took_ns)
        episode = self.episode
        following = math.ceil((self._number / self._rate + self._took_ns * 1e-9) * self._rate - 1e-6)
        following = max(self._number + 1, following)
        episode.cycles += 1
        episode.missed_cycles += following - self._number - 1
        self._number = following

    def _end(self) -> None:
        self._cycle.end_episode()
        episode, cycle = self.episode, self._cycle
        episode.outcome = self.world.outcome
        episode.abstentions = cycle.abstention.count
        episode.modes = {mode.value: count for mode, count in cycle.statistics.modes.items()}
        episode.interventions = cycle.safety.interventions
        episode.interventions_by_cause = dict(cycle.safety.interventions_by_cause)
        ages = cycle.statistics.by_mode[Mode.STUDENT].age
        episode.command_age_s = ages.quantile(0.5) * 1e-9 if ages.count else math.nan
        episode.commands = np.array(self._commands, np.float32)
        episode.ages_s = np.array(self._ages_s, np.float32)


def rollout(
    task: Task,
    scenario: str,
    driver: Driver,
    seeds: Sequence[int],
    *,
    spec: PolicySpec,
    values: Mapping[str, Any] | None = None,
    added_delay_s: float = 0.0,
    robots: int = 16,
) -> list[Episode]:
    """One episode for each seed, in the order of ``seeds``; the result does not depend on ``robots``.

    Args:
        task: whose worlds they are.
        scenario: name or path.
        driver: what drives.
        seeds: of the episodes.
        spec: of the driver's policies.
        values: of the controller's parameters, where not at their defaults.
        added_delay_s: between a command and its effect, beside the scenario's own [s].
        robots: how many are evaluated together.

    Raises:
        SrdpError: no such scenario or parameter, or the task has no world, or one that does not publish what the spec
            observes.
    """
    known, changed = default_values(), values or {}
    for name in changed:
        if name not in known:
            raise SrdpError(f"parameter {name!r} is unknown; the controller's are: {', '.join(known)}")
    waiting = list(reversed(seeds))
    conditions = task.scenario(scenario).delayed(added_delay_s)
    active = [
        _Robot(ObservedWorld(task.make_world(conditions), spec), driver, {**known, **changed})
        for _ in range(min(robots, len(seeds)))
    ]
    for robot in active:
        robot.start(waiting.pop())
    episodes: dict[int, Episode] = {}
    while active:
        stopped = []
        for robot in active:
            while not robot.advance():
                episodes[robot.episode.seed] = robot.episode
                if not waiting:
                    robot.world.close()
                    break
                robot.start(waiting.pop())
            else:
                stopped.append(robot)
        run_together([engine for robot in stopped for engine in robot.waiting_for])
        for robot in stopped:
            robot.resume()
        active = stopped
    return [episodes[seed] for seed in seeds]
