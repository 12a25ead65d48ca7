"""``srdp experiment sheaf``: the chunks among which a policy chose along an episode, and what was then driven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import load_policy, with_level
from srdp_controller.evaluation.closed_loop import RESULTS
from srdp_controller.evaluation.rollout import Driver, rollout
from srdp_controller.progress import ProgressPrinter
from srdp_controller.report.figures import save_figure
from srdp_controller.report.tables import label
from srdp_controller.tasks.task import find_task


def sheaf(
    bundle: tyro.conf.Positional[Path],
    *,
    policy: str = "student_k1",
    candidates: tuple[int, ...] = (1, 16),
    moments: int = 6,
    scenario: str = "nominal",
    update_rate: float = 20.0,
    seed: int = 0,
    picture: Path = Path("sheaf.png"),
    baselines: Path | None = None,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Draw the chunks that were sampled at moments along an episode, faintly, and what was driven from there, plainly.

    Args:
        bundle: folder, e.g. models/avoiding
        policy: of the bundle, ddim_kN, or a baseline's name
        candidates: numbers of chunks that are drawn in a cycle, a row each; noise is drawn anew in every cycle
        moments: how many, evenly apart in time, a column each
        scenario: of the task
        update_rate: of the loop [Hz]
        seed: of the episode, the same for all rows
        picture: file to write; its ending says the format
        baselines: folder of those that were trained (default: runs/TASK/baselines)
        results: folder of the best starting levels

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks a world or a drawing.
    """
    from matplotlib.figure import Figure

    if moments < 1 or update_rate <= 0.0 or min(candidates, default=0) < 1:
        raise SrdpError(f"--moments {moments} --update-rate {update_rate} --candidates {candidates}: expected above 0")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    spec, task = loaded.spec, find_task(loaded.content.task)
    name = with_level(loaded, task, policy, results, lambda *now: report("starting level", *now))
    drawn_from = load_policy(loaded, name, baselines)
    figure = Figure(figsize=(0.3 + 2.6 * moments, 0.4 + 2.2 * len(candidates)), layout="constrained")
    panels = figure.subplots(len(candidates), moments, squeeze=False)
    outcomes = {}
    for row, number in enumerate(candidates):
        sampled: list[tuple[np.ndarray, np.ndarray]] = []  # by cycle: the observation, its chunks

        def remembering(
            observation: np.ndarray, *inputs: np.ndarray, sampled: list[Any] = sampled
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            answer = drawn_from.evaluate(observation, *inputs)
            sampled.append((observation[0], answer[0]))
            return answer

        values = {
            "update_rate": update_rate,
            "noise.hold_time": 0.0,
            "sampling.candidates": number,
            "planning.mode": "every_cycle",
            "abstain.enabled": False,
        }
        driver = Driver(replace(drawn_from, evaluate=remembering))
        [episode] = rollout(task, scenario, driver, [seed], spec=spec, values=values)
        ticks_a_step = len(episode.commands) / len(sampled) * spec.step_s * update_rate
        for column, cycle in enumerate(np.linspace(0, len(sampled) - 1, moments + 1).astype(int)[:-1]):
            axes, (observation, chunks) = panels[row, column], sampled[cycle]
            task.draw_futures(axes, observation, chunks)
            begun = cycle / len(sampled) * len(episode.commands)
            ticks = (begun + ticks_a_step * np.arange(spec.horizon)).astype(int)
            driven = episode.commands[ticks[ticks < len(episode.commands)]]
            task.draw_futures(axes, observation, driven[None], "black")
            axes.set_title(f"{cycle / update_rate:.1f} s", fontsize=9)
            axes.label_outer()
        panels[row, 0].set_ylabel(f"{number} sampled\n{panels[row, 0].get_ylabel()}")
        outcomes[str(number)] = episode.outcome.success
        report(
            "sheaf",
            row + 1,
            len(candidates),
            f"{number} candidates: {'succeeded' if outcomes[str(number)] else 'failed'}",
        )
    figure.suptitle(label(name), fontsize=10)
    save_figure(figure, picture)
    return {
        "seed": seed,
        "task": task.name,
        "bundle_sha256": loaded.identity,
        "policy": name,
        "succeeded": outcomes,
        "figures": [str(picture)],
    }
