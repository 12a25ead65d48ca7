"""Demonstrations of a task's expert in its own world, recorded with Minari's collector in its own format.

The command that is executed carries an Ornstein-Uhlenbeck disturbance; the command that is recorded
is the expert's own, so that the data holds corrections. The starts that ``hole_scenario`` draws are left
out, so that that scenario is out of distribution by construction.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import DatasetError
from srdp_controller.offline.parallel import run_parallel
from srdp_controller.offline.recipe import Recipe
from srdp_controller.progress import Progress
from srdp_controller.simulation.scenario import Scenario, slug
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import Expert, Outcome, Task, TaskError, find_task, load_object, summarise

WORST_EXPERT = {"all": 0.9, "successes": 0.5}  # least share of successes, by what is kept


def dataset_name(task_name: str) -> str:
    """Minari's id of a task's collected dataset, e.g. ``pushing/expert-v1``."""
    return f"{slug(task_name)}/expert-v1"


def dataset_scenario(recipe: Recipe, task: Task) -> Scenario:
    """The scenario that is collected in: the recipe's, less the hole."""
    scenario = task.scenario(recipe.collect.scenario)
    hole = recipe.collect.hole_scenario
    return scenario.without(task.scenario(hole)) if hole else scenario


def make_expert(recipe: Recipe, task: Task, rng: np.random.Generator) -> Expert:
    """The recipe's expert (``module:Class``, made from ``rng``), else the task's own.

    Raises:
        TaskError: there is none, or it is none.
    """
    path = recipe.collect.expert
    if not path:
        return task.require_expert(rng)
    expert: Expert = load_object(path, "expert")(rng)
    for method in ("reset", "act"):
        if not hasattr(expert, method):
            raise TaskError(f"expert {path!r} has no {method}; expected reset() and act(truth)")
    return expert


def disturbance_std(recipe: Recipe, spec: PolicySpec) -> np.ndarray:
    """Standard deviation (act_dim,) of what is added to the expert's commands, in their units."""
    return recipe.collect.disturbance * np.array([component.scale for component in spec.action])


def _collect_part(recipe: Recipe, spec: PolicySpec, first: int, count: int, folder: str, name: str) -> list[Outcome]:
    """Collect episodes ``first`` to ``first + count`` into Minari dataset ``name``; returns what they came to."""
    os.environ["MINARI_DATASETS_PATH"] = folder
    from minari import DataCollector, StepDataCallback

    # Minari warns that the environment has no registered spec: its scenario is an object, not a name
    warnings.filterwarnings("ignore", module="minari")

    from srdp_controller.simulation.environment import WorldEnv

    class RecordExpertCommand(StepDataCallback):  # type: ignore[misc]
        """Records the expert's own command in place of the disturbed one, which goes into the infos."""

        def __call__(self, env: Any, **data: Any) -> Any:
            step = super().__call__(env, **data)
            sent = step["action"]
            none = np.zeros(spec.act_dim, np.float32)
            step["info"] = {"executed": none if sent is None else np.array(sent, np.float32)}
            if sent is not None:
                step["action"] = command.copy()
            return step

    task = find_task(recipe.task)
    env = WorldEnv(task.make_world(dataset_scenario(recipe, task)), spec)
    collector = DataCollector(env, step_data_callback=RecordExpertCommand, record_infos=True)
    keep = math.exp(-spec.step_s / recipe.collect.disturbance_time_s)
    std = disturbance_std(recipe, spec)
    outcomes: list[Outcome] = []
    keep_all = recipe.collect.keep == "all"
    command = np.zeros(spec.act_dim, np.float32)

    def play(stage: Any, episode: int) -> Outcome:
        """The episode, the same every time, on the environment or on the collector around it."""
        nonlocal command
        rng = np.random.default_rng([recipe.seed, episode, 1])
        expert = make_expert(recipe, task, rng)
        expert.reset()
        stage.reset(seed=int(np.random.SeedSequence([recipe.seed, episode]).generate_state(1)[0]))
        disturbance = std * rng.standard_normal(spec.act_dim)
        done = False
        while not done:
            command = np.asarray(expert.act(env.world.truth), dtype=np.float32)
            if command.shape != (spec.act_dim,) or not np.isfinite(command).all():
                raise DatasetError(f"the expert's command is {command}; expected {spec.act_dim} finite numbers")
            disturbance = keep * disturbance + math.sqrt(1.0 - keep * keep) * std * rng.standard_normal(spec.act_dim)
            executed = np.clip(command + disturbance, env.action_space.low, env.action_space.high)
            _, _, terminated, truncated, _ = stage.step(executed.astype(np.float32))
            done = terminated or truncated
        return replace(env.world.outcome, details={})

    for episode in range(first, first + count):
        # the collector keeps what it has seen end, so an episode that may be left out is first played without it
        outcome = play(collector if keep_all else env, episode)
        outcomes.append(outcome if keep_all or not outcome.success else play(collector, episode))
    if keep_all or any(outcome.success for outcome in outcomes):
        collector.create_dataset(
            dataset_id=name,
            algorithm_name="expert",
            author="srdp_controller",
            author_email="none@example.org",
            code_permalink="https://example.org",
            description=f"Demonstrations of task {recipe.task}",
        )
    collector.close()
    return outcomes


def collect(recipe: Recipe, spec: PolicySpec, folder: Path, progress: Progress) -> dict[str, Any]:
    """Collect ``recipe.collect.episodes`` episodes into ``folder`` as Minari dataset ``dataset_name(recipe.task)``.

    ``spec`` says what of the world is observed, at what rate, and the limits of the commands.

    Returns: episodes, successes (None where the world judges none), kept (of the episodes, in the dataset), steps
    (of the dataset), metrics (of all episodes).

    Raises:
        TaskError: the task has no world, or nobody demonstrates it.
        DatasetError: the expert failed in more than one episode in ten, so the data would be bad; or, where only
            successes are kept, in more than half, so that luck would have chosen them.
    """
    task, settings = find_task(recipe.task), recipe.collect
    make_expert(recipe, task, np.random.default_rng(0))  # one that is missing is missed here, not in a worker
    dataset_scenario(recipe, task)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    import minari

    name = dataset_name(recipe.task)
    chunk = max(1, math.ceil(settings.episodes / (settings.processes * 5)))
    parts = [
        (first, min(chunk, settings.episodes - first), f"{slug(recipe.task)}/part{index}-v0")
        for index, first in enumerate(range(0, settings.episodes, chunk))
    ]
    # what a killed run left may be half a dataset, at which Minari's own listing fails
    shutil.rmtree(folder / slug(recipe.task), ignore_errors=True)
    outcomes: list[Outcome] = []

    work = [partial(_collect_part, recipe, spec, first, count, str(folder), part) for first, count, part in parts]
    for found in run_parallel(work, settings.processes):
        outcomes.extend(found)
        good = sum(outcome.success for outcome in outcomes)
        text = f"expert succeeded in {good} of {len(outcomes)}" if found[0].judged else f"{len(outcomes)} episodes"
        progress(len(outcomes), settings.episodes, text)
    judged = all(outcome.judged for outcome in outcomes)
    successes = sum(outcome.success for outcome in outcomes)
    if judged and successes < WORST_EXPERT[settings.keep] * settings.episodes:
        raise DatasetError(
            f"the expert succeeded in {successes} of {settings.episodes} episodes only; "
            f"scenario {settings.scenario!r} is too hard to learn from"
        )
    if settings.keep == "successes" and not judged:
        raise DatasetError(f"collect.keep is 'successes', but nothing judges an episode of {recipe.task}; keep all")
    kept = [part for _, _, part in parts if (folder / part).exists()]
    combined = minari.combine_datasets([minari.load_dataset(part) for part in kept], name)
    combined.storage.update_metadata({"seed": recipe.seed, "recipe": settings.model_dump_json()})
    steps = int(combined.total_steps)
    for part in kept:
        minari.delete_dataset(part)
    return {
        "episodes": settings.episodes,
        "successes": successes if judged else None,
        "kept": int(combined.total_episodes),
        "steps": steps,
        "metrics": summarise(outcomes),
    }
