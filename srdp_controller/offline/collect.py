"""Demonstrations of the scripted expert, recorded with Minari's collector in its own format.

The command that is executed carries an Ornstein-Uhlenbeck disturbance; the command that is recorded
is the expert's own, so that the data holds corrections. Starts and goals in the regions of the
``hole_scenario`` are left out, so that that scenario is out of distribution by construction.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.errors import DatasetError
from srdp_controller.offline.recipe import CollectRecipe
from srdp_controller.progress import Progress
from srdp_controller.simulation.scenario import Scenario, load_scenario

DATASET = "pushing/expert-v1"


def dataset_scenario(recipe: CollectRecipe) -> Scenario:
    """The scenario that is collected in: the recipe's, less the hole."""
    scenario = load_scenario(recipe.scenario)
    hole = load_scenario(recipe.hole_scenario)
    layout = scenario.layout.model_copy(update={"excluded": scenario.layout.excluded + hole.layout.regions})
    return scenario.model_copy(update={"layout": layout})


def _collect_part(recipe: CollectRecipe, seed: int, first: int, count: int, folder: str, name: str) -> int:
    """Collect episodes ``first`` to ``first + count`` into Minari dataset ``name``; returns successes."""
    os.environ["MINARI_DATASETS_PATH"] = folder
    from minari import DataCollector, StepDataCallback

    # Minari warns that the environment has no registered spec: its scenario is an object, not a name
    warnings.filterwarnings("ignore", module="minari")

    from srdp_controller.tasks.pushing.env import PushingEnv
    from srdp_controller.tasks.pushing.expert import PushingExpert

    class RecordExpertCommand(StepDataCallback):  # type: ignore[misc]
        """Records the expert's own command in place of the disturbed one, which goes into the infos."""

        def __call__(self, env: Any, **data: Any) -> Any:
            step = super().__call__(env, **data)
            sent = step["action"]
            step["info"] = {"executed": np.zeros(2, np.float32) if sent is None else np.array(sent, np.float32)}
            if sent is not None:
                step["action"] = command.copy()
            return step

    env = PushingEnv(dataset_scenario(recipe))
    collector = DataCollector(env, step_data_callback=RecordExpertCommand, record_infos=True)
    period = 1.0 / 20.0
    keep = math.exp(-period / recipe.disturbance_time_s)
    fresh = recipe.disturbance * math.sqrt(1.0 - keep * keep)
    successes = 0
    for episode in range(first, first + count):
        episode_seed = int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])
        rng = np.random.default_rng([seed, episode, 1])
        expert = PushingExpert(rng)
        collector.reset(seed=episode_seed)
        disturbance = recipe.disturbance * rng.standard_normal(2)
        world = env.world
        done = False
        while not done:
            command = expert.act(world.arm.tip_position(), world.box_position(), world.layout.goal, world.layout.post)
            disturbance = keep * disturbance + fresh * rng.standard_normal(2)
            limit = env.action_space.high
            executed = np.clip(command + disturbance, -limit, limit).astype(np.float32)
            _, _, terminated, truncated, _ = collector.step(executed)
            done = terminated or truncated
            successes += terminated
    dataset = collector.create_dataset(
        dataset_id=name,
        algorithm_name="scripted expert",
        author="srdp_controller",
        author_email="none@example.org",
        code_permalink="https://example.org",
        description="Tabletop pushing round a post, either way",
    )
    del dataset
    collector.close()
    return successes


def collect(recipe: CollectRecipe, seed: int, folder: Path, progress: Progress) -> dict[str, float]:
    """Collect ``recipe.episodes`` episodes into ``folder`` as Minari dataset ``pushing/expert-v1``.

    Returns: episodes, successes and steps.

    Raises:
        DatasetError: the expert failed in more than one episode in ten, so the data would be bad.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    import minari

    chunk = max(1, math.ceil(recipe.episodes / (recipe.processes * 5)))
    parts = [
        (first, min(chunk, recipe.episodes - first), f"pushing/part{index}-v0")
        for index, first in enumerate(range(0, recipe.episodes, chunk))
    ]
    # what a killed run left may be half a dataset, at which Minari's own listing fails
    for name in {name.split("/")[0] for _, _, name in parts} | {DATASET.split("/")[0]}:
        shutil.rmtree(folder / name, ignore_errors=True)
    successes = done = 0

    def finished(part: int, found: int) -> None:
        nonlocal successes, done
        successes += found
        done += parts[part][1]
        progress(done, recipe.episodes, f"expert succeeded in {successes} of {done}")

    work = [(recipe, seed, first, count, str(folder), name) for first, count, name in parts]
    if recipe.processes == 1:  # a worker of a cluster may have no children
        for part, arguments in enumerate(work):
            finished(part, _collect_part(*arguments))
    else:
        with ProcessPoolExecutor(recipe.processes) as pool:
            futures = [pool.submit(_collect_part, *arguments) for arguments in work]
            for part, future in enumerate(futures):
                finished(part, future.result())
    datasets = [minari.load_dataset(name) for _, _, name in parts]
    combined = minari.combine_datasets(datasets, DATASET)
    combined.storage.update_metadata({"seed": seed, "recipe": recipe.model_dump_json()})
    steps = int(combined.total_steps)
    for _, _, name in parts:
        minari.delete_dataset(name)
    if successes < 0.9 * recipe.episodes:
        raise DatasetError(
            f"the expert succeeded in {successes} of {recipe.episodes} episodes only; "
            f"scenario {recipe.scenario!r} is too hard to learn from"
        )
    return {"episodes": recipe.episodes, "successes": successes, "steps": steps}
