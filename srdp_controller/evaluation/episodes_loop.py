"""Closed-loop evaluation: many simulated robots stepped together, one batched policy.

The loop is the controller's: every period it evaluates the policy on the newest observation, sends
the chunk's first action, and keeps one draw of the sampler's noise for ``noise_hold_s``. An action
that takes longer than its period to compute comes late: it is sent when it is ready, the loop
misses the cycles in between, and the arm goes on with the last command.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.pushing.env import ObservedWorld
from srdp_controller.tasks.pushing.expert import PushingExpert
from srdp_controller.tasks.pushing.world import PHYSICS_RATE_HZ, EpisodeOutcome

# observation (B, obs_dim), noise (B, n_noise, horizon, act_dim) -> chunk (B, horizon, act_dim)
BatchedPolicy = Callable[[np.ndarray, np.ndarray], np.ndarray]
Latency = Callable[[np.random.Generator], float]


@dataclass(frozen=True)
class EpisodeResult:
    """An episode's outcome, and whether its start let the expert go either way."""

    seed: int
    outcome: EpisodeOutcome
    ambiguous: bool


@dataclass
class _Robot:
    observed: ObservedWorld
    rng: np.random.Generator
    seed: int
    ambiguous: bool
    noise: np.ndarray
    noise_until: float
    next_cycle: int
    pending: tuple[float, tuple[float, float]] | None


def _send_what_is_ready(robot: _Robot) -> None:
    if robot.pending is not None and robot.observed.world.time_s >= robot.pending[0] - 1e-9:
        robot.observed.send(robot.pending[1])
        robot.pending = None


def run_episodes(
    policy: BatchedPolicy,
    scenario: Scenario,
    seeds: list[int],
    *,
    update_rate_hz: float,
    noise_shape: tuple[int, int, int],
    noise_hold_s: float,
    latency: Latency | None = None,
    robots: int = 16,
    spec: PolicySpec | None = None,
    finished: Callable[[int], None] | None = None,
) -> list[EpisodeResult]:
    """Run one episode per seed and return them in the order of ``seeds``.

    ``latency`` draws the seconds that one evaluation takes; None stands for an instant one. ``spec``
    says what the policy observes where that is more than the sensors.
    """
    waiting = list(reversed(seeds))
    pool = [ObservedWorld(scenario, spec=spec) for _ in range(min(robots, len(seeds)))]
    results: list[EpisodeResult] = []

    def start(observed: ObservedWorld) -> _Robot:
        seed = waiting.pop()
        observed.reset(np.random.default_rng([seed, 0]))
        layout = observed.world.layout
        rng = np.random.default_rng([seed, 1])
        cycle = math.ceil(observed.world.time_s * update_rate_hz)
        ambiguous = PushingExpert.is_ambiguous(layout.box, layout.post)
        return _Robot(observed, rng, seed, ambiguous, np.zeros(noise_shape, np.float32), -1.0, cycle, None)

    active = [start(observed) for observed in pool]
    while active:
        for robot in active:
            _send_what_is_ready(robot)
        due = [robot for robot in active if robot.observed.world.time_s >= robot.next_cycle / update_rate_hz - 1e-9]
        if due:
            for robot in due:
                now = robot.observed.world.time_s
                if now >= robot.noise_until:
                    robot.noise = robot.rng.standard_normal(noise_shape).astype(np.float32)
                    robot.noise_until = now + max(noise_hold_s, 0.5 / update_rate_hz) - 1e-9
            chunk = policy(
                np.stack([robot.observed.observation for robot in due]), np.stack([robot.noise for robot in due])
            )
            for robot, actions in zip(due, chunk, strict=True):
                world = robot.observed.world
                taken = latency(robot.rng) if latency else 0.0
                command = (float(actions[0, 0]), float(actions[0, 1]))
                robot.pending = (world.time_s + taken, command)
                # the next cycle after both this period and this evaluation are over
                busy_until = max(robot.next_cycle / update_rate_hz + 1e-9, world.time_s + taken)
                robot.next_cycle = max(robot.next_cycle + 1, math.ceil(busy_until * update_rate_hz - 1e-6))
                if robot.next_cycle / update_rate_hz < world.time_s - 1.0 / PHYSICS_RATE_HZ:
                    robot.next_cycle = math.ceil(world.time_s * update_rate_hz)
        remaining = []
        for robot in active:
            world = robot.observed.world
            _send_what_is_ready(robot)  # of an evaluation that began in this very step, too
            robot.observed.step()
            if not world.outcome.finished:
                remaining.append(robot)
                continue
            results.append(EpisodeResult(robot.seed, world.outcome, robot.ambiguous))
            if finished is not None:
                finished(len(results))
            if waiting:
                remaining.append(start(robot.observed))
            else:
                world.close()
        active = remaining
    order = {seed: index for index, seed in enumerate(seeds)}
    return sorted(results, key=lambda result: order[result.seed])
