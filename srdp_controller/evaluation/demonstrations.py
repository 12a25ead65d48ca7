"""``srdp eval demonstrations``: how well each policy foretells demonstrations that nobody learned from.

``srdp eval fidelity`` asks how near a policy is to the teacher, which favours what was distilled from it. Here the
demonstrator is the judge: the energy score of a policy's chunks at the states of the test trajectories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from srdp_controller.certify.intervals import mean_interval, ratio_interval
from srdp_controller.certify.sample_distances import energy_scores
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import load_policy, trained_folder
from srdp_controller.offline.baselines import POLICIES
from srdp_controller.offline.dataset import Trajectory
from srdp_controller.offline.dataset import samples as rows_of
from srdp_controller.offline.pipeline import Pipeline
from srdp_controller.offline.recipe import Recipe
from srdp_controller.policy.samplers import CLIP
from srdp_controller.progress import ProgressPrinter
from srdp_controller.simulation.scenario import slug
from srdp_controller.spec import PolicySpec

BLOCK = 4096  # evaluations at a time


def unlearned(bundle: LoadedBundle, run_folder: Path | None, fresh: bool = False) -> tuple[list[Trajectory], str]:
    """Trajectories that a bundle's policies have not learned from, and the SHA-256 of the dataset that has them.

    They are the test trajectories of the run folder (default: runs/TASK) that the bundle was made in, or all of one
    with ``fresh`` data.

    Raises:
        SrdpError: the run folder has no dataset, or not the one that is meant.
    """
    run = run_folder or Path("runs") / slug(bundle.content.task)
    if not (run / "recipe.json").exists():
        raise SrdpError(f"{run}: no run of the pipeline; `srdp pipeline RECIPE --last data` collects the dataset again")
    pipeline = Pipeline(Recipe.model_validate_json((run / "recipe.json").read_bytes()), run)
    digest = str(pipeline.record().get("data", {}).get("facts", {}).get("sha256"))
    made_from = bundle.content.provenance.get("dataset")
    if (digest == made_from) == fresh:
        raise SrdpError(
            f"{run}: dataset {digest}, and {bundle.folder} was made from {made_from}. Name a run folder with the "
            "bundle's dataset, or with --fresh one that nobody learned from: `srdp pipeline RECIPE --set seed=1 --last "
            "data`"
        )
    return pipeline.trajectories if fresh else pipeline.split().test, digest


def drawn_states(
    trajectories: list[Trajectory], spec: PolicySpec, states: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """So many states of each trajectory, drawn without repetition.

    Returns: observations (n, obs_dim), raw SI units, float32; the chunks that were demonstrated there
    (n, horizon * act_dim), normalised; and of which trajectory each is (n).
    """
    centre, scale = spec.observation_normalisation()
    observations, demonstrated, of = [], [], []
    for number, trajectory in enumerate(trajectories):
        rows = rows_of([trajectory], spec)
        drawn = rng.choice(len(rows.action), min(states, len(rows.action)), replace=False)
        observations.append(centre + scale * rows.observation[drawn])
        demonstrated.append(rows.action[drawn])
        of += [number] * len(drawn)
    return np.concatenate(observations).astype(np.float32), np.concatenate(demonstrated), of


def demonstrations(
    bundle: tyro.conf.Positional[Path],
    *,
    policies: tuple[str, ...] = (),
    run_folder: Path | None = None,
    baselines: Path | None = None,
    fresh: bool = False,
    states: int = 10,
    samples: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Energy score of each policy on the test trajectories of the bundle's data, or on fresh ones; less is better.

    Chunks are in normalised action units, as in ``eval fidelity``.

    Args:
        bundle: folder, e.g. models/pushing
        policies: of the bundle, ddim_kN@LEVEL, or baselines; the first is what the others are compared with (default:
            the bundle's students, and every baseline that was trained)
        run_folder: with the dataset (default: runs/TASK)
        baselines: folder of what `srdp experiment direct-policies` trained (default: runs/TASK/baselines)
        fresh: the run folder's data were collected for this, with another seed than the bundle's (--set seed=1): all of
            them are tested on
        states: of each trajectory
        samples: actions drawn at each state
        seed: of states and noise

    Raises:
        SrdpError: there is nothing to score, or the run folder has no dataset, or one that the bundle may have learned
            from.
    """
    loaded, report = load_bundle(bundle), ProgressPrinter()
    spec = loaded.spec
    trajectories, digest = unlearned(loaded, run_folder, fresh)
    folder = trained_folder(loaded, baselines)
    there = [name for name in POLICIES if (folder / f"{name}.onnx").is_file()]
    chosen = policies or (*(name for name in loaded.content.policies if name.startswith("student")), *there)
    if not chosen or states < 1 or samples < 2:
        raise SrdpError(
            f"--policies {' '.join(chosen)} --states {states} --samples {samples}: expected at least one policy, "
            "one state and two samples"
        )
    rng = np.random.default_rng([seed, 90])
    action_centre, action_scale = spec.action_normalisation()
    observations, outcomes, trajectory_of = drawn_states(trajectories, spec, states, rng)
    repeated, count = np.repeat(observations, samples, axis=0), np.bincount(trajectory_of)
    table: list[dict[str, Any]] = []
    means: dict[str, np.ndarray] = {}  # of each trajectory: its states are no independent draws
    for index, name in enumerate(chosen):
        policy = load_policy(loaded, name, baselines)
        noise = rng.standard_normal((len(repeated), *policy.noise_shape)).astype(np.float32)
        blocks = range(0, len(repeated), BLOCK)
        raw = np.concatenate([policy.actions(repeated[at : at + BLOCK], noise[at : at + BLOCK]) for at in blocks])
        chunks = ((raw - action_centre) / action_scale).clip(-CLIP, CLIP).reshape(len(outcomes), samples, -1)
        scores = energy_scores(chunks, outcomes)
        means[name] = np.bincount(trajectory_of, weights=scores) / count
        score, first = means[name], means[chosen[0]]
        table.append(
            {
                "policy": name,
                "energy_score": float(score.mean()),
                "interval": mean_interval(score, np.random.default_rng(seed)),
                "ratio": float(score.mean() / first.mean()),
                "ratio_interval": ratio_interval(score, first, np.random.default_rng(seed)),
            }
        )
        report("demonstrations", index + 1, len(chosen), f"{name}: {score.mean():.3f}")
    print(f"{'policy':<16} {'energy score':>12} {'95 % interval':>16} {'beside ' + chosen[0]:>28}")
    for row in table:
        (low, high), (least, most) = row["interval"], row["ratio_interval"]
        beside = f"{row['ratio']:.3f} ({least:.3f} to {most:.3f})"
        print(f"{row['policy']:<16} {row['energy_score']:>12.3f} {f'{low:.3f} to {high:.3f}':>16} {beside:>28}")
    return {
        "seed": seed,
        "bundle": str(bundle),
        "bundle_sha256": loaded.identity,
        "task": loaded.content.task,
        "dataset": digest,
        "fresh": fresh,
        "trajectories": len(trajectories),
        "states": len(outcomes),
        "samples": samples,
        "table": table,
    }
