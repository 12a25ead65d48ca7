"""Closed loop of a policy that plans chunks ahead of its own inference time, one control step at a time.

| control step          | p - 1 | p                | ... | p + d - 1 | p + d        | ... | p + d + s - 1 |
| --------------------- | ----- | ---------------- | --- | --------- | ------------ | --- | ------------- |
| what happens          |       | observe, plan    |     |           | plan is due  |     |               |
| executed              | old   | old (committed)  | old | old       | new chunk[d] | new | new           |

A plan takes d steps, a new one begins every s steps. What the new chunk is made of decides how it joins:
``late`` executes it from its first action, d steps after the state it was made for; ``skip`` drops the d
actions that are past; ``prefix`` drops them too, but the policy was told what the robot does in those
steps (real-time chunking by a training-time action prefix).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from srdp_controller.simulation.scenario import Scenario
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.pushing.env import ObservedWorld
from srdp_controller.tasks.pushing.world import PHYSICS_RATE_HZ, EpisodeOutcome

Joining = Literal["late", "skip", "prefix"]


@dataclass(frozen=True)
class ChunkedResult:
    """An episode's outcome and how smooth its commands were.

    ``jump`` is the mean change of the command where one chunk follows another, ``change`` that at
    all other steps [m/s].
    """

    seed: int
    outcome: EpisodeOutcome
    jump: float
    change: float


class _Robot:
    def __init__(self, observed: ObservedWorld, seed: int, act_dim: int) -> None:
        observed.reset(np.random.default_rng([seed, 0]))
        self.observed, self.seed = observed, seed
        self.rng = np.random.default_rng([seed, 1])
        self.chunk: np.ndarray | None = None
        self.begins = 0  # control step of the current chunk's first action
        self.planned: tuple[int, int, np.ndarray] | None = None  # due, begins, chunk
        self.command = np.zeros(act_dim)
        self.jumps: list[float] = []
        self.changes: list[float] = []

    def action(self, step: int, horizon: int) -> np.ndarray:
        if self.chunk is None:
            return np.zeros_like(self.command)
        return self.chunk[min(max(step - self.begins, 0), horizon - 1)]

    def join(self, step: int) -> bool:
        """Put a plan that is due in force; whether it follows another."""
        if self.planned is None or step < self.planned[0]:
            return False
        follows = self.chunk is not None
        _, self.begins, self.chunk = self.planned
        self.planned = None
        return follows

    def result(self) -> ChunkedResult:
        jump = float(np.mean(self.jumps)) if self.jumps else 0.0
        return ChunkedResult(self.seed, self.observed.world.outcome, jump, float(np.mean(self.changes or [0.0])))


def run_chunked(
    policy: Callable[[np.ndarray, np.ndarray], np.ndarray],
    spec: PolicySpec,
    scenario: Scenario,
    seeds: list[int],
    *,
    delay_steps: int,
    execute_steps: int,
    joining: Joining,
    noise_shape: tuple[int, int, int],
    robots: int = 20,
) -> list[ChunkedResult]:
    """One episode per seed; ``policy`` maps (B, obs_dim), (B, *noise_shape) to chunks (B, horizon, act_dim).

    Raises:
        ValueError: d + s is more than the horizon, s is less than d, or the policy knows no such prefix.
    """
    horizon = spec.horizon
    if not execute_steps >= 1 or not delay_steps <= execute_steps <= horizon - delay_steps:
        raise ValueError(f"needs d <= s <= horizon - d, got d {delay_steps}, s {execute_steps}, horizon {horizon}")
    if joining == "prefix" and delay_steps > spec.prefix_steps:
        raise ValueError(f"the policy was trained with {spec.prefix_steps} committed actions, not {delay_steps}")
    results: list[ChunkedResult] = []
    pool = [ObservedWorld(scenario, spec=spec) for _ in range(min(robots, len(seeds)))]
    physics_steps = round(PHYSICS_RATE_HZ * spec.step_s)
    for start in range(0, len(seeds), len(pool)):
        block = seeds[start : start + len(pool)]
        active = [_Robot(observed, seed, spec.act_dim) for observed, seed in zip(pool, block, strict=False)]
        step = 0
        while active:
            joined = [robot.join(step) for robot in active]  # first: a plan may be due when the next begins
            if step % execute_steps == 0:
                for robot in active:
                    count = delay_steps if joining == "prefix" and robot.chunk is not None else 0
                    if spec.prefix_steps:
                        committed = [robot.action(step + ahead, horizon).tolist() for ahead in range(count)]
                        robot.observed.assembler.set_prefix(committed)
                observations = np.stack([robot.observed.observation for robot in active])
                noise = np.stack([robot.rng.standard_normal(noise_shape).astype(np.float32) for robot in active])
                begins = step + delay_steps if joining == "late" else step
                for robot, chunk in zip(active, policy(observations, noise), strict=True):
                    robot.planned = (step + delay_steps, begins, chunk)
            for robot, joins in zip(active, joined, strict=True):
                command = robot.action(step, horizon)
                (robot.jumps if joins else robot.changes).append(float(np.linalg.norm(command - robot.command)))
                robot.command = command
                robot.observed.send((float(command[0]), float(command[1])))
                for _ in range(physics_steps):
                    robot.observed.step()
            step += 1
            results += [robot.result() for robot in active if robot.observed.world.outcome.finished]
            active = [robot for robot in active if not robot.observed.world.outcome.finished]
    for observed in pool:
        observed.world.close()
    order = {seed: index for index, seed in enumerate(seeds)}
    return sorted(results, key=lambda result: order[result.seed])
