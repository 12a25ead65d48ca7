"""The controller itself on the simulated robot, in virtual time: inference takes as long as one says.

Everything between the observation and the command is the node's own code (``Controller``: planning ahead,
supervisor, safety filter); only time is simulated, so that one machine can show what another one does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from srdp_controller.control.assembly import build_controller
from srdp_controller.control.deployment import Deployment, Wanted
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.engine import Engine
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.virtual_planner import Latency, VirtualPlanner
from srdp_controller.tasks.pushing.env import ObservedWorld
from srdp_controller.tasks.pushing.world import PHYSICS_RATE_HZ, EpisodeOutcome

WINDOW_S = 0.05  # commands are averaged over it before their jerk is taken, so that all rates compare


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
