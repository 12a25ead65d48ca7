"""What a policy gains from knowing its own commands: past ones (a known delay), committed ones (planning ahead).

Two questions, each with its own teachers, all on one budget and one dataset:

- *Committed commands.* A plan takes d control steps and the next one begins when it is ready. What is past by then is
  dropped; the new chunk joins hard, is blended in, or was planned with the commands that are executed meanwhile as a
  prefix (real-time chunking at training time). For a teacher and a student of it.
- *Past commands.* The commands of the last 0.2 s as plain inputs, always there or hidden from a share of the training
  samples, against no history; under the nominal and under a longer actuation delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from srdp_controller.certify.intervals import success_interval
from srdp_controller.evaluation.rollout import Driver, Episode, rollout
from srdp_controller.experiments.torch_policy import torch_policy
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.pipeline import Overrides, Pipeline, RecipePath, shipped_recipe
from srdp_controller.offline.recipe import Recipe, load_recipe
from srdp_controller.progress import ProgressPrinter
from srdp_controller.tasks.task import find_task

PREFIX = 4  # commands that the policy can be told, and the longest plan [control steps]
HISTORY = 4
TEACHER_STEPS = 20  # DDIM steps here: all 100 cost five times as much and change little
RATE_HZ = 100.0
BLEND_S = 0.05
FIRST_SEED = 8_000_000
Joining = Literal["skip", "blend", "prefix"]


def chunking(
    recipe: RecipePath = None,
    *,
    set: Overrides = [],  # noqa: A002, B006
    quick: bool = False,
    episodes: int = 100,
    run_folder: Path = Path("runs/pushing"),
    processes: int = 2,
) -> dict[str, Any]:
    """What a policy gains from knowing its past and its committed commands.

    Trains teachers with command history and action prefix and drives them (about 20 minutes on 2 cores) in the run
    folder of a pipeline; run it again to go on.

    Args:
        recipe: recipe YAML (default: the shipped export/pushing.yaml)
        set: override, e.g. teacher.steps=5000; may be given again
        quick: toy budget
        episodes: of each row
        run_folder: of the pipeline
        processes: that share the work
    """
    report = ProgressPrinter()
    content = load_recipe(shipped_recipe(recipe), set)
    base = Pipeline(content, run_folder, report=report).run("data")
    recipes = teacher_recipes(content, quick)
    trainings = [Training(name, variant, base.folder) for name, variant in recipes.items()]
    for index, name in enumerate(run_parallel(trainings, processes=processes)):
        report("teachers", index + 1, len(trainings), name)
    joined: tuple[tuple[str, Joining], ...] = (("plain", "skip"), ("plain", "blend"), ("prefix", "prefix"))
    drives = [
        Drive(teacher, recipes[teacher], base.folder, student, "nominal", joining, delay, 4 if quick else episodes)
        for delay in range(1, PREFIX + 1)
        for teacher, joining in joined
        for student in (False, True)
    ]
    drives += [
        Drive(teacher, recipes[teacher], base.folder, False, scenario, None, 0, 4 if quick else episodes)
        for scenario in ("nominal", "delayed")
        for teacher in ("plain", "history", "history_dropout")
    ]
    table = []
    for index, row in enumerate(run_parallel(drives, processes=processes)):
        table.append(row)
        report("closed loop", index + 1, len(drives), f"{row['policy']} {row['joining'] or row['scenario']}")
    table.sort(key=lambda row: (row["joining"] is None, row["scenario"], row["plan_takes_s"], row["policy"]))
    print_table(table)
    return {"quick": quick, "seed": content.seed, "checks": checks(table), "table": table, "figures": []}


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


def variant(name: str, recipe: Recipe, base: Path) -> Pipeline:
    """A teacher's own pipeline, on the base run's dataset."""
    pipeline = Pipeline(recipe, base / "chunking" / name, threads=1)
    pipeline.folder.mkdir(parents=True, exist_ok=True)
    pipeline.take_over(base)
    return pipeline


@dataclass(frozen=True)
class Training:
    """Of one teacher, and of its student where that is driven."""

    name: str
    recipe: Recipe
    base: Path

    def __call__(self) -> str:
        """Train in this process; returns the name."""
        last = "distill" if self.name in ("plain", "prefix") else "teacher"
        variant(self.name, self.recipe, self.base).run(last)
        return self.name


@dataclass(frozen=True)
class Drive:
    """One row: a teacher or its student, in every cycle (``joining`` None) or planning for ``delay_steps`` ahead."""

    teacher: str
    recipe: Recipe
    base: Path
    student: bool
    scenario: str
    joining: Joining | None
    delay_steps: int
    episodes: int

    def __call__(self) -> dict[str, Any]:
        """Drive in this process."""
        pipeline = variant(self.teacher, self.recipe, self.base)
        spec, teacher = pipeline.spec, pipeline.teacher()
        student = pipeline.student(1) if self.student else None
        steps = min(TEACHER_STEPS, teacher.diffusion_steps)

        def network(state: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
            answer = teacher.sample(state, draws[:, 0], steps=steps) if student is None else student(state, draws[:, 0])
            return answer[0].clamp(-4.0, 4.0)

        name = f"{self.teacher}_k1" if self.student else self.teacher
        delay_s = self.delay_steps * spec.step_s
        values = {
            "update_rate": RATE_HZ,
            "planning.mode": "every_cycle" if self.joining is None else "ahead",
            "planning.blend_time": BLEND_S if self.joining == "blend" else 0.0,
            "observation.max_age": 2.0 * spec.step_s * spec.horizon,  # long plans are the point here
        }
        driven = rollout(
            find_task(self.recipe.task),
            self.scenario,
            Driver(torch_policy(name, network, spec), [delay_s] if self.joining else []),
            range(FIRST_SEED, FIRST_SEED + self.episodes),
            spec=spec,
            values=values,
        )
        successes = sum(episode.outcome.success for episode in driven)
        return {
            "policy": name,
            "scenario": self.scenario,
            "joining": self.joining,
            "plan_takes_s": delay_s,
            "episodes": self.episodes,
            "successes": successes,
            "success_rate": successes / self.episodes,
            "success_interval": success_interval(successes, self.episodes),
            "command_change": command_change(driven),
        }


def command_change(episodes: Sequence[Episode]) -> float:
    """Root mean square change of the command from one tick to the next: what jumps between chunks add to it."""
    changes = [np.diff(episode.commands, axis=0) for episode in episodes if len(episode.commands) > 1]
    return float(np.sqrt(np.mean(np.concatenate([(change**2).sum(axis=1) for change in changes]))))


def checks(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prefix against the two other ways to join, where a plan takes longest."""
    longest = max(row["plan_takes_s"] for row in table)
    teachers = {row["joining"]: row for row in table if row["plan_takes_s"] == longest and "_k1" not in row["policy"]}
    prefix = teachers["prefix"]
    found = []
    for other in ("skip", "blend"):
        for key, sign in (("success_rate", 1), ("command_change", -1)):
            value, bound = prefix[key], teachers[other][key]
            name = f"prefix against {other}, {key} at the longest plan"
            found.append({"name": name, "value": value, "bound": bound, "passed": bool(sign * (value - bound) >= 0)})
    return found


def print_table(table: Sequence[dict[str, Any]]) -> None:
    """One line a row."""
    print(f"{'policy':<16} {'scenario':<9} {'joining':<8} {'plan [s]':>8} {'success':>8} {'change':>7}")
    for row in table:
        print(
            f"{row['policy']:<16} {row['scenario']:<9} {row['joining'] or 'each':<8} {row['plan_takes_s']:>8.2f} "
            f"{row['success_rate']:>8.1%} {row['command_change']:>7.4f}"
        )
