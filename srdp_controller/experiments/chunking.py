"""What a policy gains from knowing its own commands: past ones (a known delay), committed ones (planning ahead).

Two questions, each with its own teachers, all on one budget and one dataset:

- *Committed commands.* A plan takes d control steps. Late execution, skipping what is past, and a
  training-time action prefix (real-time chunking) are compared, for a teacher and a student of it.
- *Past commands.* The commands of the last 0.2 s as plain inputs, always there or hidden from a share
  of the training samples, against no history; under the nominal and under a longer actuation delay.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srdp_controller.certify.conformal import wilson_interval
from srdp_controller.evaluation.chunked_loop import Joining, run_chunked
from srdp_controller.evaluation.episodes_loop import run_episodes
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.pipeline import Run
from srdp_controller.offline.recipe import Recipe
from srdp_controller.progress import Report
from srdp_controller.simulation.scenario import load_scenario

PREFIX = 4
HISTORY = 4
TEACHER_STEPS = 20  # DDIM steps here: all 100 cost five times as much and change little
BLOCK = 20


def teacher_recipes(recipe: Recipe, quick: bool) -> dict[str, Recipe]:
    """The teachers that are compared: nothing of its own commands, a prefix, a history with and without dropout."""
    teacher = recipe.teacher.model_copy(update={"steps": 60 if quick else 10_000})
    distill = recipe.distill.model_copy(
        update={"students": (1,), "queries": 500 if quick else 60_000, "steps": 60 if quick else 8000, "processes": 1}
    )
    plain = recipe.model_copy(update={"teacher": teacher, "distill": distill})

    def observing(**changes: Any) -> Recipe:
        return plain.model_copy(update={"observation": plain.observation.model_copy(update=changes)})

    return {
        "plain": plain,
        "prefix": observing(action_prefix=PREFIX),
        "history": observing(command_history=HISTORY, history_dropout=0.0),
        "history_dropout": observing(command_history=HISTORY, history_dropout=0.3),
    }


@dataclass(frozen=True)
class _Train:
    name: str
    recipe: Recipe
    folder: Path
    base: Path

    def __call__(self) -> str:
        run = Run(self.recipe, self.folder, lambda *_: None, threads=1)
        for name in ("dataset", "split.json", "split.key"):
            if not (run.folder / name).exists():
                os.symlink(self.base / name, run.folder / name)
        run.train()
        if self.name in ("plain", "prefix"):
            run.distill()
        return self.name


@dataclass(frozen=True)
class _Drive:
    teacher: str
    recipe: Recipe
    folder: Path
    student: bool
    scenario: str
    seeds: tuple[int, ...]
    joining: Joining | None
    delay_steps: int

    def __call__(self) -> tuple[Any, ...]:
        run = Run(self.recipe, self.folder, lambda *_: None)
        spec = run.spec
        centre, scale = spec.observation_normalisation()
        action_centre, action_scale = spec.action_normalisation()
        teacher = run.teacher()
        student = run.student(1) if self.student else None
        steps = min(TEACHER_STEPS, teacher.diffusion_steps)

        @torch.no_grad()
        def policy(observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
            state = torch.from_numpy((observation - centre) / scale)
            draws = torch.from_numpy(noise.reshape(len(noise), -1))
            answer = teacher.sample(state, draws, steps=steps) if student is None else student(state, draws)
            chunk: np.ndarray = answer[0].clamp(-4, 4).numpy().reshape(len(noise), spec.horizon, spec.act_dim)
            return chunk * action_scale + action_centre

        shape = (1, spec.horizon, spec.act_dim)
        scenario, seeds = load_scenario(self.scenario), list(self.seeds)
        if self.joining is None:
            episodes = run_episodes(
                policy,
                scenario,
                seeds,
                update_rate_hz=20.0,
                noise_shape=shape,
                noise_hold_s=0.2,
                robots=BLOCK,
                spec=spec,
            )
            return self, [episode.outcome.success for episode in episodes], [], []
        results = run_chunked(
            policy,
            spec,
            scenario,
            seeds,
            delay_steps=self.delay_steps,
            execute_steps=PREFIX,
            joining=self.joining,
            noise_shape=shape,
            robots=BLOCK,
        )
        return (
            self,
            [result.outcome.success for result in results],
            [result.jump for result in results],
            [result.change for result in results],
        )


def run_chunking(
    recipe: Recipe, folder: Path, *, quick: bool, episodes: int, processes: int, report: Report
) -> dict[str, Any]:
    """Train, drive, tabulate; returns the contract's keys of an experiment."""
    base = Run(recipe, folder, report)
    base.collect()
    base.split()
    recipes = teacher_recipes(recipe, quick)
    places = {name: base.folder / "chunking" / name for name in recipes}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    trainings = [_Train(name, variant, places[name], base.folder) for name, variant in recipes.items()]
    for index, name in enumerate(run_parallel(trainings, processes=processes)):
        report("teachers", index + 1, len(trainings), name)
    kinds: list[tuple[str, bool, str, Joining | None, int]] = []
    for delay in (1, 2, 3, 4):
        kinds += [("plain", False, "nominal", "late", delay), ("plain", False, "nominal", "skip", delay)]
        kinds += [("prefix", False, "nominal", "prefix", delay), ("prefix", True, "nominal", "prefix", delay)]
        kinds += [("plain", True, "nominal", "skip", delay)]
    for scenario in ("nominal", "delayed"):
        kinds += [(name, False, scenario, None, 0) for name in ("plain", "history", "history_dropout")]
    seeds = list(range(8_000_000, 8_000_000 + (4 if quick else episodes)))
    drives = [
        _Drive(
            name, recipes[name], places[name], student, scenario, tuple(seeds[start : start + BLOCK]), joining, delay
        )
        for name, student, scenario, joining, delay in kinds
        for start in range(0, len(seeds), BLOCK)
    ]
    gathered: dict[tuple[Any, ...], list[list[Any]]] = {kind: [[], [], []] for kind in kinds}
    for index, (drive, successes, jumps, changes) in enumerate(run_parallel(drives, processes=processes)):
        kind = (drive.teacher, drive.student, drive.scenario, drive.joining, drive.delay_steps)
        for column, values in zip(gathered[kind], (successes, jumps, changes), strict=True):
            column.extend(values)
        report("closed loop", index + 1, len(drives), f"{drive.teacher} {drive.joining or drive.scenario}")
    table = []
    for (name, student, scenario, joining, delay), (successes, jumps, changes) in gathered.items():
        table.append(
            {
                "policy": f"{name}_k1" if student else name,
                "scenario": scenario,
                "joining": joining,
                "plan_takes_s": delay * base.spec.step_s,
                "episodes": len(successes),
                "successes": sum(successes),
                "success_rate": sum(successes) / len(successes),
                "success_interval": list(wilson_interval(sum(successes), len(successes))),
                "jump_m_s": float(np.mean(jumps)) if jumps else None,
                "change_m_s": float(np.mean(changes)) if changes else None,
            }
        )

    def rate(policy: str, joining: str, delay: int) -> dict[str, Any]:
        return next(
            row
            for row in table
            if (row["policy"], row["joining"], row["plan_takes_s"]) == (policy, joining, delay * base.spec.step_s)
        )

    longest = PREFIX
    prefix, skip, late = (rate(*key, longest) for key in (("prefix", "prefix"), ("plain", "skip"), ("plain", "late")))
    checks = [
        _check("prefix against late, success at the longest plan", prefix, late, "success_rate", above=True),
        _check("prefix against skip, success at the longest plan", prefix, skip, "success_rate", above=True),
        _check("prefix against skip, jump between chunks", prefix, skip, "jump_m_s", above=False),
    ]
    return {"quick": quick, "seed": recipe.seed, "checks": checks, "table": table, "figures": []}


def _check(name: str, mine: dict[str, Any], theirs: dict[str, Any], key: str, above: bool) -> dict[str, Any]:
    value, bound = mine[key], theirs[key]
    return {"name": name, "value": value, "bound": bound, "passed": bool(value >= bound if above else value <= bound)}
