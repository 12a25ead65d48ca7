"""``srdp eval fidelity``: how close each student's action distribution is to its teacher's.

The states are visited in fresh episodes, so they are held out by construction and no dataset is needed. Distances
are in normalised action units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from srdp_controller.certify.intervals import mean_interval, ratio_interval
from srdp_controller.certify.sample_distances import (
    directions,
    mode_coverage,
    sliced_wasserstein,
    squared_mmd,
    tv_lower_bound,
)
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.baselines import load_policy, trained_folder, with_level
from srdp_controller.evaluation.closed_loop import RESULTS
from srdp_controller.evaluation.policies import Policy, bundled
from srdp_controller.evaluation.states import BIMODAL_CANDIDATES, bimodal_states, draw_states
from srdp_controller.offline.baselines import POLICIES
from srdp_controller.progress import ProgressPrinter
from srdp_controller.tasks.task import find_task

# normalised actions (S, n, A) for noise (S, n, n_noise, horizon, act_dim) at the evaluation's states
Sample = Callable[[np.ndarray], np.ndarray]
# how far apart two modes must stand, in standard deviations beyond what halves of one Gaussian do; where the
# states were chosen for their two modes, less is asked, or the next sample would lose most of them again
SEPARATION, SEPARATION_BIMODAL = 2.0, 1.0
PROJECTIONS = 64


@dataclass(frozen=True)
class Reference:
    """A teacher's answers at some states: two independent samples, the second with the noise that is compared.

    Attributes:
        states: normalised (S, obs_dim).
        sample: actions (S, n, A).
        matched: the same with ``noise``.
        noise: (S, n, 1, horizon, act_dim).
        floor: sliced Wasserstein distance (S,) of ``sample`` to ``matched``: nothing can come closer.
    """

    states: np.ndarray
    sample: np.ndarray
    matched: np.ndarray
    noise: np.ndarray
    projections: np.ndarray
    floor: np.ndarray


def make_reference(
    states: np.ndarray, samples: int, shape: tuple[int, int, int], teacher: Sample, seed: int
) -> Reference:
    """Ask the teacher twice at normalised ``states`` (S, obs_dim)."""
    rng = np.random.default_rng([seed, 80])
    projections = directions(PROJECTIONS, int(np.prod(shape)), rng)
    noises = [rng.standard_normal((len(states), samples, *shape)).astype(np.float32) for _ in range(2)]
    one, two = (teacher(noise) for noise in noises)
    floor = np.array([sliced_wasserstein(x, y, projections) for x, y in zip(one, two, strict=True)])
    return Reference(states, one, two, noises[1], projections, floor)


def compare(
    reference: Reference, actions: np.ndarray, seed: int, matched: bool = True, separation: float = SEPARATION
) -> dict[str, Any]:
    """Distances of a policy's actions (S, n, A) from the teacher's, each with a 95 % interval.

    ``matched`` says that they were drawn with ``reference.noise``; ``separation`` is that of ``two_modes``.
    """
    rng = np.random.default_rng([seed, 81])
    pairs = list(zip(reference.sample, actions, strict=True))
    distances = np.array([sliced_wasserstein(x, y, reference.projections) for x, y in pairs])
    discrepancies = np.array([squared_mmd(x, y) for x, y in pairs])
    kept = [mode_coverage(x, y, separation) for x, y in pairs]
    coverage = np.array([value for value in kept if value is not None])
    tv, tv_low, tv_high = tv_lower_bound(reference.sample, actions, reference.states, np.random.default_rng(seed))
    result: dict[str, Any] = {
        "sliced_wasserstein": float(distances.mean()),
        "sliced_wasserstein_interval": mean_interval(distances, rng),
        "ratio_to_floor": float(distances.mean() / reference.floor.mean()),
        "ratio_to_floor_interval": ratio_interval(distances, reference.floor, rng),
        "mmd": float(discrepancies.mean()),
        "mmd_interval": mean_interval(discrepancies, rng),
        "tv_lower": tv,
        "tv_lower_interval": [tv_low, tv_high],
        "mode_coverage": float(coverage.mean()) if len(coverage) else None,
        "mode_coverage_interval": mean_interval(coverage, rng) if len(coverage) else None,
        "mode_coverage_of_teacher": coverage_of_teacher(reference, separation),
        "bimodal_states": len(coverage),
        "matched_noise_rmse": None,
        "matched_noise_rmse_interval": None,
    }
    if matched:
        squares = ((actions - reference.matched) ** 2).mean(axis=(1, 2))
        result["matched_noise_rmse"] = float(np.sqrt(squares.mean()))
        result["matched_noise_rmse_interval"] = [float(np.sqrt(end)) for end in mean_interval(squares, rng)]
    return result


def coverage_of_teacher(reference: Reference, separation: float) -> float | None:
    """The same of the teacher's own second sample, which misses a little of a mode, too, by chance."""
    own = [mode_coverage(x, y, separation) for x, y in zip(reference.sample, reference.matched, strict=True)]
    found = [value for value in own if value is not None]
    return float(np.mean(found)) if found else None


def sampler(bundle: LoadedBundle, policy: Policy, states: np.ndarray) -> Sample:
    """A policy's normalised actions at ``states`` (S, obs_dim), raw SI."""
    centre, scale = bundle.spec.action_normalisation()

    def sample(noise: np.ndarray) -> np.ndarray:
        count = noise.shape[1]
        rows = [policy.actions(np.repeat(states[i : i + 1], count, axis=0), noise[i]) for i in range(len(states))]
        return ((np.stack(rows) - centre) / scale).reshape(len(states), count, -1)

    return sample


def fidelity(
    bundle: tyro.conf.Positional[Path],
    *,
    states: Literal["test", "shifted", "augmented", "bimodal"] = "test",
    students: tuple[str, ...] = (),
    count: int = 128,
    samples: int = 64,
    baselines: Path | None = None,
    seed: int = 0,
    task: str | None = None,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Distance of each student's actions, and of every baseline's with as many steps, from the teacher's as shipped.

    Args:
        bundle: folder, e.g. models/pushing
        states: visited in fresh episodes: nominal ones, those of the task's scenario "shifted", disturbed ones, or
            those where the teacher has two modes
        students: these of the bundle's (all where none is named), beside baselines of as many steps
        count: number of states
        samples: actions drawn at each state
        baselines: folder of what `srdp experiment direct-policies` trained (default: runs/TASK/baselines, as far as
            there is anything)
        seed: of states and noise
        task: the bundle's, where not given
        results: folder that keeps the best starting levels, TASK/starting_levels.json

    Raises:
        SrdpError: something is wrong with the arguments, or the task lacks what the states need.
    """
    if count < 4 or samples < 8:
        raise SrdpError(f"--count {count} --samples {samples}: expected at least 4 states and 8 samples")
    loaded, report = load_bundle(bundle), ProgressPrinter()
    spec, found = loaded.spec, find_task(task or loaded.content.task)
    teacher = bundled(loaded, "teacher")
    folder = trained_folder(loaded, baselines)
    there = [name for name in POLICIES if (folder / f"{name}.onnx").is_file()]
    if not there:
        remedy = f"{folder}: no policy trained directly; `srdp experiment direct-policies RECIPE` makes them"
        if baselines is not None:
            raise SrdpError(remedy)
        report("fidelity", 0, 1, remedy)
    bimodal = states == "bimodal"
    drawn = draw_states(found, spec, states, count * (BIMODAL_CANDIDATES if bimodal else 1), seed, teacher)
    if bimodal:
        drawn = bimodal_states(teacher, drawn, seed, lambda *now: report("bimodal states", *now))[:count]
    centre, scale = spec.observation_normalisation()
    normalised = (drawn - centre) / scale
    reference = make_reference(normalised, samples, teacher.noise_shape, sampler(loaded, teacher, drawn), seed)
    separation = SEPARATION_BIMODAL if bimodal else SEPARATION
    chosen = students or [name for name in loaded.content.policies if name != "teacher"]
    steps = sorted({loaded.policy(name).steps for name in chosen})
    compared = {name: name for name in chosen}
    for solver in ("ddim", "dpm"):
        if solver == "dpm" and not (find_spec("diffusers") and find_spec("torch")):
            report("fidelity", 0, 1, "without DPM-Solver++: pip install 'srdp_controller[train]'")
            continue
        for k in steps:
            if solver == "dpm" and k == 1:
                continue  # one step of DPM-Solver++ is one of DDIM
            full = with_level(loaded, found, f"{solver}_k{k}", results, lambda *now: report("starting level", *now))
            compared[f"{solver}_k{k}"] = full
    compared |= {name: name for name in there}
    entries: dict[str, dict[str, Any]] = {}
    for index, (name, full) in enumerate(compared.items()):
        policy = load_policy(loaded, full, baselines)
        noise, extra = reference.noise, policy.noise_shape[0] - 1
        if extra:  # a sampler that draws more than once
            shape = (*noise.shape[:2], extra, *noise.shape[3:])
            fresh = np.random.default_rng([seed, 82]).standard_normal(shape).astype(np.float32)
            noise = np.concatenate([noise, fresh], axis=2)
        matched = not extra and name not in POLICIES  # what shares noise with its teacher
        entries[name] = compare(reference, sampler(loaded, policy, drawn)(noise), seed, matched, separation)
        if "@" in full:
            entries[name]["starting_level"] = int(full.partition("@")[2])
        report("fidelity", index + 1, len(compared), f"{name}: {entries[name]['ratio_to_floor']:.2f} times the floor")
    for name, entry in entries.items():
        plain = entries.get(f"ddim_k{name.rpartition('_k')[2]}", {}).get("sliced_wasserstein")
        entry["ratio_to_ddim"] = entry["sliced_wasserstein"] / plain if plain else None
    own = coverage_of_teacher(reference, separation)
    _print(entries, own)
    return {
        "seed": seed,
        "bundle": str(bundle),
        "task": found.name,
        "states": states,
        "count": len(drawn),
        "samples": samples,
        "floor": {
            "sliced_wasserstein": float(reference.floor.mean()),
            "interval": mean_interval(reference.floor, np.random.default_rng([seed, 83])),
            "mode_coverage": own,
        },
        "policies": {name: entries[name] for name in chosen},
        "baselines": {name: entry for name, entry in entries.items() if name not in chosen},
    }


def _print(entries: dict[str, dict[str, Any]], own_coverage: float | None) -> None:
    columns = {"ratio_to_floor": 2, "ratio_to_ddim": 3, "mmd": 5, "tv_lower": 2, "mode_coverage": 2}
    columns["matched_noise_rmse"] = 3
    print(f"{'policy':<14} {'SW / floor':>10} {'SW / DDIM':>10} {'MMD^2':>10} {'TV >=':>10} {'modes':>10} {'RMSE':>10}")
    for name, entry in entries.items():
        cells = ["-" if entry[key] is None else f"{entry[key]:.{digits}f}" for key, digits in columns.items()]
        print(f"{name:<14} " + " ".join(f"{cell:>10}" for cell in cells))
    if own_coverage is not None:
        print(f"the teacher's own second sample keeps {own_coverage:.2f} of its modes")
