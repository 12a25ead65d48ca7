"""The controller itself on the simulated robot, in virtual time: inference takes as long as one says.

Everything between the observation and the command is the node's own code (``Controller``: planning ahead,
supervisor, safety filter); only time is simulated, so that one machine can show what another one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from srdp_controller.control.assembly import build_controller
from srdp_controller.control.planner import Plan, RunTimes, latent_distance, prepare_inputs
from srdp_controller.control.swap import Deployment, Wanted
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.engine import Engine
from srdp_controller.errors import SrdpError
from srdp_controller.simulation.pushing_env import ObservedWorld
from srdp_controller.simulation.pushing_world import PHYSICS_RATE_HZ, EpisodeOutcome

WINDOW_S = 0.05  # commands are averaged over it before their jerk is taken, so that all rates compare
Latency = Callable[[], int]


class VirtualPlanner:
    """A ``Planner`` whose plans are ready ``latency()`` nanoseconds after they were submitted."""

    def __init__(self, engine: Engine, clock: Callable[[], int], latency: Latency) -> None:
        self._engine, self._clock, self._latency = engine, clock, latency
        self._ready_ns = -1
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
        return self._pending is not None

    def newest(self, now_ns: int) -> Plan | None:
        """The newest plan that is ready by now."""
        self._settle(now_ns)
        return self._plan

    def delay_ns(self) -> int:
        """The longest of the recent run times [ns]."""
        return self._times.longest()

    def exchange(self, engine: Engine) -> None:
        """Plan with another engine from the next plan on."""
        self._engine = engine
        self.error = ""

    def submit(
        self, observation: np.ndarray, noise: np.ndarray, now_ns: int, measured_ns: int, conditioned: bool = False
    ) -> bool:
        """Evaluate at once, and keep the plan back until it would be ready."""
        if self.busy:
            return False
        engine, took_ns = self._engine, self._latency()
        prepare_inputs(engine, observation, noise)
        try:
            engine.run()
        except SrdpError as error:
            self.error = str(error)
            return True
        self.error = ""
        chunk = engine.action[0].copy()
        if not np.isfinite(chunk).all():
            self.error = f"engine {engine.name} answered NaN"
            return True
        self._pending = Plan(chunk, now_ns, measured_ns, latent_distance(engine), conditioned, engine, took_ns)
        self._ready_ns = now_ns + took_ns
        return True

    def expire(self, now_ns: int, deadline_ns: int) -> None:
        """Give up a plan that has been under way for too long."""
        if self._pending is not None and now_ns - self._pending.begun_ns > deadline_ns:
            self._pending = None

    def threads(self) -> list[int]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True)
class Drive:
    """One episode.

    Attributes:
        outcome: of the episode.
        command_jerk: root mean square jerk of the command in force, over windows of ``WINDOW_S`` [m/s^3].
        largest_jump: largest change of the command from one sample at the physics rate to the next [m/s].
        age_s: age of the observation behind the command in force, at every physics step [s].
        cycles: how many cycles ran.
        missed_cycles: cycles that an evaluation in the loop outlasted.
    """

    outcome: EpisodeOutcome
    command_jerk: float
    largest_jump: float
    age_s: np.ndarray
    cycles: int
    missed_cycles: int


def command_jerk(commands: np.ndarray) -> float:
    """Root mean square jerk [m/s^3] of velocity commands (n, act_dim) sampled at the physics rate."""
    width = round(WINDOW_S * PHYSICS_RATE_HZ)
    count = len(commands) // width
    if count < 3:
        return 0.0
    windows = commands[: count * width].reshape(count, width, -1).mean(axis=1)
    second = np.diff(windows, n=2, axis=0) / WINDOW_S**2
    return float(np.sqrt(np.mean(np.sum(second**2, axis=1))))


def drive(
    observed: ObservedWorld,
    values: dict[str, Any],
    engine: Engine,
    teacher: Engine,
    *,
    seed: int,
    threshold: float,
    latency: Latency,
    teacher_latency: Latency,
) -> Drive:
    """One episode with ``engine`` at ``values["update_rate"]``; ``planning.mode`` says how it is run.

    ``every_cycle``: the command is sent ``latency()`` after its cycle began, and cycles that begin
    meanwhile are missed. ``ahead``: the loop never waits, plans are ready ``latency()`` later.
    """
    rate = values["update_rate"]
    observed.reset(np.random.default_rng([seed, 0]))
    world = observed.world
    now = [round(world.time_s * 1e9)]

    def clock() -> int:
        return now[0]

    ahead = values["planning.mode"] == "ahead"
    outbox: list[tuple[float, list[float], int]] = []
    took_s = [0.0]

    def publish(command: list[float], measured_ns: int) -> None:
        outbox.append((now[0] * 1e-9 + took_s[0], list(command), measured_ns))

    def take(now_ns: int) -> int:
        observed.assembler.update("/goal_pose", world.layout.goal, now_ns)  # published all the time, never noisy
        return 0

    def prepare(wanted: Wanted) -> Deployment:
        raise SrdpError("no swap in virtual time")

    first = Deployment(Wanted(engine.name), engine, threshold, 0.0, teacher, ahead)
    spec = observed.assembler.spec
    controller = build_controller(
        {**values, "seed": seed},
        observed.assembler,
        first,
        prepare,
        VirtualPlanner(teacher, clock, teacher_latency),
        VirtualPlanner(engine, clock, latency),
        Telemetry(1, tuple(component.name for component in spec.observation)),
        take,
        publish,
    )
    if not ahead:  # a loop that is slowed down by its inference has that for a period
        controller.safety.period_s = max(1.0 / rate, math.ceil(latency() * 1e-9 * rate) / rate)
    step_s = 1.0 / PHYSICS_RATE_HZ
    cycle, cycles, missed = math.ceil(world.time_s * rate), 0, 0
    command, measured_ns = [0.0, 0.0], now[0]
    commands, ages = [], []
    while not world.outcome.finished:
        until = world.time_s + step_s - 1e-9
        while cycle / rate < until:
            now[0] = round(cycle / rate * 1e9)
            took_s[0] = 0.0 if ahead else latency() * 1e-9
            controller.cycle(now[0])
            cycles += 1
            following = max(cycle + 1, math.ceil((cycle / rate + took_s[0]) * rate - 1e-6))
            missed += following - cycle - 1
            cycle = following
        while outbox and outbox[0][0] < until:
            _, command, measured_ns = outbox.pop(0)
            observed.send((command[0], command[1]))
        commands.append(command)
        ages.append(world.time_s - measured_ns * 1e-9)
        observed.step()
    path = np.array(commands)
    jumps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    return Drive(
        world.outcome,
        command_jerk(path),
        float(jumps.max(initial=0.0)),
        np.array(ages),
        cycles,
        missed,
    )
