"""``srdp experiment futures``: what each policy would do at the same states, drawn side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import load_policy, with_level
from srdp_controller.evaluation.closed_loop import RESULTS
from srdp_controller.evaluation.policies import Policy, bundled
from srdp_controller.evaluation.states import draw_states
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report.figures import save_figure
from srdp_controller.report.tables import label
from srdp_controller.tasks.task import find_task

VISITED = 60  # states, of which those are drawn at which the teacher's chunks differ most
SPREAD_SAMPLES = 8


def futures(
    bundle: tyro.conf.Positional[Path],
    *,
    policies: tuple[str, ...] = ("teacher", "student_k1", "ddim_k1"),
    states: int = 3,
    samples: int = 64,
    seed: int = 0,
    picture: Path = Path("futures.png"),
    baselines: Path | None = None,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Draw sampled chunks of each policy, a column, at visited states, a row; all with the same noise.

    Args:
        bundle: folder, e.g. models/avoiding
        policies: of the bundle, ddim_kN, or a baseline's name
        states: how many, of those visited in fresh episodes at which the teacher is least decided
        samples: chunks at each
        seed: of states and noise
        picture: file to write; its ending says the format
        baselines: folder of those that were trained (default: runs/TASK/baselines)
        results: folder of the best starting levels

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks a world or a drawing.
    """
    from matplotlib.figure import Figure

    if states < 1 or samples < 1 or not policies:
        raise SrdpError(f"--states {states} --samples {samples}: expected at least one policy, state and sample")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    spec, task, teacher = loaded.spec, find_task(loaded.content.task), bundled(loaded, "teacher")
    names = [with_level(loaded, task, name, results, lambda *now: report("starting level", *now)) for name in policies]
    visited = draw_states(task, spec, "test", VISITED, seed, teacher)
    centre, scale = spec.observation_normalisation()
    chosen = apart(
        undecided(teacher, visited, spec.action_normalisation()[1], seed), (visited - centre) / scale, states
    )
    figure = Figure(figsize=(3.6 * len(names), 0.4 + 2.6 * states), layout="constrained")
    panels = figure.subplots(states, len(names), squeeze=False)
    for column, name in enumerate(names):
        policy = load_policy(loaded, name, baselines)
        for row, state in enumerate(visited[chosen]):
            rng = np.random.default_rng([seed, 86, row])
            noise = rng.standard_normal((samples, *policy.noise_shape)).astype(np.float32)
            task.draw_futures(
                panels[row, column], state, policy.actions(np.repeat(state[None], samples, axis=0), noise)
            )
            panels[row, column].label_outer()
        panels[0, column].set_title(label(name))
        report("futures", column + 1, len(names), label(name))
    save_figure(figure, picture)
    return {
        "seed": seed,
        "task": task.name,
        "bundle_sha256": loaded.identity,
        "policies": names,
        "figures": [str(picture)],
    }


def undecided(teacher: Policy, states: np.ndarray, scale: np.ndarray, seed: int) -> np.ndarray:
    """Total variance (n,) of the teacher's chunks at states (n, obs_dim), in the actions' scales."""
    rng = np.random.default_rng([seed, 85])
    noise = rng.standard_normal((SPREAD_SAMPLES, *teacher.noise_shape)).astype(np.float32)
    chunks = [teacher.actions(np.repeat(state[None], SPREAD_SAMPLES, axis=0), noise) / scale for state in states]
    return np.array([chunk.var(axis=0).sum() for chunk in chunks])


def apart(values: np.ndarray, places: np.ndarray, count: int) -> list[int]:
    """``count`` rows among the quarter of largest values (n,): the largest, then whichever is furthest from those."""
    best = list(np.argsort(-values)[: max(count, len(values) // 4)])
    chosen = [best.pop(0)]
    while len(chosen) < count and best:
        distances = np.linalg.norm(places[best][:, None] - places[chosen][None], axis=2).min(axis=1)
        chosen.append(best.pop(int(distances.argmax())))
    return [int(row) for row in chosen]
