"""``srdp eval replay``: a bundle's chunks at recorded observations, beside what was recorded and beside its teacher's.

Nothing is simulated: what a policy would have done differently changes nothing that follows. It tells where in a
chunk, and in which component, a policy strays, before a robot is there to try it on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from srdp_controller.certify.intervals import mean_interval
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import load_policy
from srdp_controller.evaluation.demonstrations import drawn_states, unlearned
from srdp_controller.evaluation.latency import measure_inference, percentiles
from srdp_controller.progress import ProgressPrinter

BLOCK = 4096  # evaluations at a time


def replay(
    bundle: tyro.conf.Positional[Path],
    *,
    policies: tuple[str, ...] = (),
    run_folder: Path | None = None,
    baselines: Path | None = None,
    states: int = 20,
    samples: int = 8,
    seed: int = 0,
) -> dict[str, Any]:
    """Each policy's chunks against the recorded actions of the test trajectories and against the teacher's.

    Errors are in the actions' units: the mean over states of the median over draws of the distance from the recorded
    action, and the root mean square distance from the teacher's chunk of the same noise.

    Args:
        bundle: folder, e.g. models/pushing
        policies: of the bundle, ddim_kN@LEVEL, or baselines (default: all of the bundle)
        run_folder: with the dataset (default: runs/TASK)
        baselines: folder of what `srdp experiment direct-policies` trained (default: runs/TASK/baselines)
        states: of each trajectory
        samples: chunks drawn at each state
        seed: of states and noise

    Raises:
        SrdpError: as of ``srdp eval demonstrations``.
    """
    loaded, report = load_bundle(bundle), ProgressPrinter()
    spec = loaded.spec
    if states < 1 or samples < 1:
        raise SrdpError(f"--states {states} --samples {samples}: expected one or more")
    trajectories, digest = unlearned(loaded, run_folder)
    chosen = policies or tuple(name for name, entry in loaded.content.policies.items() if not entry.guided)
    rng = np.random.default_rng([seed, 91])
    action_centre, action_scale = spec.action_normalisation()
    observed, recorded, of = drawn_states(trajectories, spec, states, rng)
    repeated = np.repeat(observed, samples, axis=0)
    truth = (recorded.reshape(-1, spec.horizon, spec.act_dim) * action_scale + action_centre)[:, None]
    noise = rng.standard_normal((len(repeated), *loaded.policy("teacher").noise_shape)).astype(np.float32)

    def chunks(name: str) -> np.ndarray:
        """(states, samples, horizon, act_dim), of the same noise for all policies that take one draw."""
        policy = load_policy(loaded, name, baselines)
        own = (
            noise
            if policy.noise_shape == noise.shape[1:]
            else rng.standard_normal((len(repeated), *policy.noise_shape))
        )
        blocks = range(0, len(repeated), BLOCK)
        found = [policy.actions(repeated[at : at + BLOCK], own[at : at + BLOCK].astype(np.float32)) for at in blocks]
        return np.concatenate(found).reshape(-1, samples, spec.horizon, spec.act_dim)

    taught = chunks("teacher")
    report("replay", 0, len(chosen), "teacher")
    times = measure_inference(loaded, chosen, baselines=baselines)
    counts = np.bincount(of)
    table: list[dict[str, Any]] = []
    for index, name in enumerate(chosen):
        found = taught if name == "teacher" else chunks(name)
        error = np.median(np.abs(found - truth), axis=1)  # (states, horizon, act_dim)
        by_trajectory = np.stack([np.bincount(of, weights=column) / counts for column in error.mean(axis=1).T])
        away = np.sqrt(((found - taught) ** 2).mean(axis=(0, 1)))
        latency = percentiles(times[name], 1e-3)
        for action, of_action in zip(spec.action, by_trajectory, strict=True):
            table.append(
                {
                    "policy": name,
                    "action": action.name,
                    "unit": action.unit,
                    "error": float(of_action.mean()),
                    "error_interval": mean_interval(of_action, np.random.default_rng(seed)),
                    "error_by_step": error.mean(axis=0)[:, action.index].tolist(),
                    "from_teacher": float(np.sqrt((away[:, action.index] ** 2).mean())),
                    "from_teacher_by_step": away[:, action.index].tolist(),
                    "latency_ms": latency,
                    "latency_steps": latency["p50"] * 1e-3 / spec.step_s,
                }
            )
        report("replay", index + 1, len(chosen), name)
    heads = f"{'error':>10} {'95 % interval':>22} {'step 1':>9} {'last':>9} {'from teacher':>13}"
    print(f"{'policy':<14} {'action':<20} {heads}")
    for row in table:
        low, high = row["error_interval"]
        first, last = row["error_by_step"][0], row["error_by_step"][-1]
        numbers = f"{row['error']:>10.4g} {f'{low:.4g} to {high:.4g}':>22} {first:>9.4g} {last:>9.4g}"
        print(f"{row['policy']:<14} {row['action']:<20} {numbers} {row['from_teacher']:>13.4g} {row['unit']}")
    for name in chosen:
        row = next(one for one in table if one["policy"] == name)
        print(f"{name}: {row['latency_ms']['p50']:.3g} ms a chunk, {row['latency_steps']:.2g} steps of {spec.horizon}")
    return {
        "seed": seed,
        "bundle": str(bundle),
        "bundle_sha256": loaded.identity,
        "task": loaded.content.task,
        "dataset": digest,
        "trajectories": len(trajectories),
        "states": len(truth),
        "samples": samples,
        "step_s": spec.step_s,
        "table": table,
    }
