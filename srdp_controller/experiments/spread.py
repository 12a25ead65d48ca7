"""``srdp experiment spread``: what the spread of the sampled chunks tells, beside the latent distance that is tested.

A policy that samples several chunks in a cycle knows how far they lie apart at no further cost. Is that a score to
abstain by? Asked are two things: does it tell states off the data from those on it, and does it grow with how far the
student is from its teacher.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy import stats

from srdp_controller.certify.intervals import auroc_interval, rank_correlation_interval
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.policies import Policy, bundled
from srdp_controller.evaluation.states import draw_states
from srdp_controller.evaluation.stored import fewest_evaluations
from srdp_controller.progress import ProgressPrinter
from srdp_controller.tasks.task import find_task


def scores(student: Policy, teacher: Policy, states: np.ndarray, noise: np.ndarray, scale: np.ndarray) -> Any:
    """(3, n) at states (n, obs_dim): spread of the chunks, latent distance, distance from the teacher's chunks.

    The first is the root of the chunks' total variance, the last a mean over the same noise (N, n_noise, horizon,
    act_dim), both in the actions' scales.
    """
    found = []
    for state in states:
        repeated = np.repeat(state[None], len(noise), axis=0)
        chunks, latent, teacher_latent = student.evaluate(repeated, noise)
        away = (chunks - teacher.actions(repeated, noise)) / scale
        found.append(
            (
                np.sqrt((chunks / scale).var(axis=0).sum()),
                np.linalg.norm(latent[0] - teacher_latent[0]),
                np.sqrt(np.square(away).sum(axis=(1, 2))).mean(),
            )
        )
    return np.array(found).T


def spread(
    bundle: tyro.conf.Positional[Path],
    *,
    policy: str | None = None,
    candidates: int = 16,
    states: int = 200,
    kinds: tuple[str, ...] = ("augmented",),
    augmentation: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two scores, the spread of the sampled chunks and the latent distance, on the data and off it.

    Args:
        bundle: folder, e.g. models/avoiding
        policy: of the bundle; its student of fewest evaluations where not given
        candidates: chunks that are sampled at a state
        states: of each kind
        kinds: off the data: augmented, or shifted where the task has a scenario of that name
        augmentation: disturbance of augmented states, in the observation's scales
        seed: of states and noise

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks a world.
    """
    if candidates < 2 or states < 4 or not kinds:
        raise SrdpError(f"--candidates {candidates} --states {states}: expected at least 2, and 4, and a kind")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    spec, task, teacher = loaded.spec, find_task(loaded.content.task), bundled(loaded, "teacher")
    student, scale = bundled(loaded, policy or fewest_evaluations(loaded)), spec.action_normalisation()[1]
    rng = np.random.default_rng([seed, 87])
    noise = rng.standard_normal((candidates, *student.noise_shape)).astype(np.float32)
    by_kind: dict[str, np.ndarray] = {}
    for place, kind in enumerate(("test", *kinds)):
        drawn = draw_states(task, spec, kind, states, seed, teacher, augmentation)
        by_kind[kind] = scores(student, teacher, drawn, noise, scale)
        report("spread", place + 1, 1 + len(kinds), kind)
    rows = []
    everywhere = np.concatenate(list(by_kind.values()), axis=1)
    for place, name in enumerate(("spread", "latent_distance")):
        correlation = float(stats.spearmanr(everywhere[place], everywhere[2]).statistic)
        row: dict[str, Any] = {
            "score": name,
            "rank_correlation": correlation,
            "rank_correlation_interval": rank_correlation_interval(everywhere[place], everywhere[2], rng),
        }
        told = f"{name}: rank correlation with the distance from the teacher {correlation:.2f}"
        for kind in kinds:
            area, interval = auroc_interval(by_kind["test"][place], by_kind[kind][place], rng)
            row |= {f"auroc_{kind}": area, f"auroc_{kind}_interval": interval}
            told += f", AUROC test against {kind} {area:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
        print(told)
        rows.append(row)
    return {
        "seed": seed,
        "task": task.name,
        "bundle_sha256": loaded.identity,
        "policy": student.name,
        "candidates": candidates,
        "states": states,
        "augmentation": augmentation,
        "mean_distance_from_teacher": {kind: float(found[2].mean()) for kind, found in by_kind.items()},
        "table": rows,
    }
