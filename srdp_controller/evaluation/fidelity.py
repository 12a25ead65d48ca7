"""``srdp eval fidelity``: how close each student's action distribution is to its teacher's.

The states are visited by the scripted expert in fresh episodes, so they are held out by construction
and no dataset is needed. Distances are in normalised action units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.certify.divergences import (
    bootstrap_interval,
    directions,
    mode_coverage,
    sliced_wasserstein,
    squared_mmd,
    tv_lower_bound,
    two_modes,
)
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.closed_loop import load_policy
from srdp_controller.progress import Report
from srdp_controller.simulation.scenario import load_scenario
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.pushing.env import ObservedWorld
from srdp_controller.tasks.pushing.expert import PushingExpert

# normalised actions (S, n, A) for noise (S, n, n_noise, horizon, act_dim) at the evaluation's states
Sample = Callable[[np.ndarray], np.ndarray]
Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]
CANDIDATES, TWO_WAY_SAMPLES = 12, 64
# how far apart two modes must stand, in standard deviations beyond what halves of one Gaussian do; where the
# states were chosen for their two modes, less is asked, or the next sample would lose most of them again
SEPARATION, SEPARATION_TWO_WAY = 2.0, 1.0
STATES = ("test", "shifted", "augmented", "two_way")
AUGMENTATION = 0.15
PROJECTIONS = 64


def visited_states(spec: PolicySpec, scenario: str, episodes: int, seed: int) -> np.ndarray:
    """Observations (n, obs_dim) every 50 ms along the expert's fresh episodes."""
    observed = ObservedWorld(load_scenario(scenario), spec=spec)
    states: list[np.ndarray] = []
    for episode in range(episodes):
        observed.reset(np.random.default_rng([seed, 77, episode]))
        world = observed.world
        expert = PushingExpert(np.random.default_rng([seed, 78, episode]))
        step = 0
        while not world.outcome.finished:
            if step % 12 == 0:
                states.append(observed.observation)
                command = expert.act(
                    world.arm.tip_position(), world.box_position(), world.layout.goal, world.layout.post
                )
                observed.send((float(command[0]), float(command[1])))
            observed.step()
            step += 1
    world.close()
    return np.stack(states)


def draw_states(spec: PolicySpec, kind: str, count: int, seed: int, augmentation: float = AUGMENTATION) -> np.ndarray:
    """``count`` states (count, obs_dim), raw SI, of the given kind; ``two_way`` are drawn like ``test``."""
    if kind not in STATES:
        raise SrdpError(f"--states {kind}: choose one of: {', '.join(STATES)}")
    rng = np.random.default_rng([seed, 79])
    states = visited_states(spec, "shifted" if kind == "shifted" else "nominal", max(10, count // 12), seed)
    states = states[rng.choice(len(states), size=count, replace=len(states) < count)]
    if kind == "augmented":
        _, scale = spec.observation_normalisation()
        noise = augmentation * scale * rng.standard_normal(states.shape)
        states[:, spec.sensor_indices()] += noise[:, spec.sensor_indices()].astype(np.float32)
    return states.astype(np.float32)


@dataclass(frozen=True)
class Reference:
    """A teacher's answers at some states: two independent samples, and one that shares its noise.

    Attributes:
        states: normalised (S, obs_dim).
        sample: actions (S, n, A); ``again`` with other noise, ``matched`` with ``noise``.
        noise: (S, n, 1, horizon, act_dim).
        floor: sliced Wasserstein distance (S,) of ``sample`` to ``again``: nothing can come closer.
    """

    states: np.ndarray
    sample: np.ndarray
    again: np.ndarray
    matched: np.ndarray
    noise: np.ndarray
    projections: np.ndarray
    floor: np.ndarray


def make_reference(
    states: np.ndarray, samples: int, shape: tuple[int, int, int], teacher: Sample, seed: int
) -> Reference:
    """Ask the teacher three times at normalised ``states`` (S, obs_dim)."""
    rng = np.random.default_rng([seed, 80])
    projections = directions(PROJECTIONS, int(np.prod(shape)), rng)
    noises = [rng.standard_normal((len(states), samples, *shape)).astype(np.float32) for _ in range(3)]
    one, two, matched = (teacher(noise) for noise in noises)
    floor = np.array([sliced_wasserstein(x, y, projections) for x, y in zip(one, two, strict=True)])
    return Reference(states, one, two, matched, noises[2], projections, floor)


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
        "sliced_wasserstein_interval": list(bootstrap_interval(distances, rng)),
        "ratio_to_floor": float(distances.mean() / reference.floor.mean()),
        "ratio_to_floor_interval": list(ratio_interval(distances, reference.floor, rng)),
        "mmd": float(discrepancies.mean()),
        "mmd_interval": list(bootstrap_interval(discrepancies, rng)),
        "tv_lower": tv,
        "tv_lower_95": tv_low,
        "tv_lower_interval": [tv_low, tv_high],
        "mode_coverage": float(coverage.mean()) if len(coverage) else None,
        "mode_coverage_interval": list(bootstrap_interval(coverage, rng)) if len(coverage) else None,
        "two_mode_states": len(coverage),
        "matched_noise_rmse": None,
        "matched_noise_rmse_interval": None,
    }
    if matched:
        squares = ((actions - reference.matched) ** 2).mean(axis=(1, 2))
        result["matched_noise_rmse"] = float(np.sqrt(squares.mean()))
        result["matched_noise_rmse_interval"] = [float(np.sqrt(end)) for end in bootstrap_interval(squares, rng)]
    return result


def ratio_interval(values: np.ndarray, floor: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of mean(values) / mean(floor), states (n,) drawn together."""
    rows = rng.integers(len(values), size=(1000, len(values)))
    ratios = values[rows].mean(axis=1) / floor[rows].mean(axis=1)
    return float(np.percentile(ratios, 2.5)), float(np.percentile(ratios, 97.5))


def evaluate_fidelity(
    bundle_folder: Path,
    kind: str,
    *,
    states: int,
    samples: int,
    seed: int,
    report: Report,
    direct: list[Path] | None = None,
) -> dict[str, Any]:
    """Compare every student and every baseline of the same step counts with the teacher as shipped.

    ``direct`` are bundles whose teachers were trained with few steps on the same data, without a
    teacher of their own. Returns the JSON contract's keys.
    """
    if states < 4 or samples < 8:
        raise SrdpError(f"--count {states} --samples {samples}: expected at least 4 states and 8 samples")
    bundle = load_bundle(bundle_folder)
    spec = bundle.spec
    drawn = draw_states(spec, kind, states * (CANDIDATES if kind == "two_way" else 1), seed)
    if kind == "two_way":
        drawn = _two_way(
            load_policy(bundle_folder, "teacher"), drawn, bundle.policy("teacher").noise_shape, seed, report
        )
        drawn = drawn[:states]
        states = len(drawn)
    centre, scale = spec.observation_normalisation()
    action_centre, action_scale = spec.action_normalisation()

    def sampler(folder: Path, name: str) -> Sample:
        policy = load_policy(folder, name)

        def sample(noise: np.ndarray) -> np.ndarray:
            count = noise.shape[1]
            rows = [policy(np.repeat(drawn[i : i + 1], count, axis=0), noise[i]) for i in range(len(drawn))]
            return ((np.stack(rows) - action_centre) / action_scale).reshape(len(drawn), count, -1)

        return sample

    shape = bundle.policy("teacher").noise_shape
    reference = make_reference((drawn - centre) / scale, samples, shape, sampler(bundle_folder, "teacher"), seed)
    # even the teacher's own second sample misses a little of a mode, by chance
    separation = SEPARATION_TWO_WAY if kind == "two_way" else SEPARATION
    own = [mode_coverage(x, y, separation) for x, y in zip(reference.sample, reference.again, strict=True)]
    own_coverage = [value for value in own if value is not None]
    students = [name for name in bundle.content.policies if name != "teacher"]
    steps = [bundle.policy(name).steps for name in students]
    tasks = [(name, bundle_folder, name) for name in students]
    tasks += [(f"{solver}_k{k}", bundle_folder, f"{solver}_k{k}") for solver in _solvers(report) for k in steps]
    for folder in direct or []:
        tasks.append((f"direct_k{load_bundle(folder).policy('teacher').steps}", folder, "teacher"))
    results: dict[str, dict[str, Any]] = {}
    for index, (name, folder, policy) in enumerate(tasks):
        entry = load_bundle(folder).content.policies.get(policy)
        noise = reference.noise
        if entry is not None and entry.noise_shape[0] > 1:  # a sampler that draws more than once
            extra = (*noise.shape[:2], entry.noise_shape[0] - 1, *noise.shape[3:])
            fresh = np.random.default_rng([seed, 82]).standard_normal(extra).astype(np.float32)
            noise = np.concatenate([noise, fresh], axis=2)
        matched = noise.shape[2] == 1 and not name.startswith("direct")
        results[name] = compare(reference, sampler(folder, policy)(noise), seed, matched, separation)
        report("fidelity", index + 1, len(tasks), f"{name}: {results[name]['ratio_to_floor']:.2f} times the floor")
    for name in results:
        baseline = results.get(f"ddim_k{name.rsplit('k', 1)[1]}", {}).get("sliced_wasserstein")
        results[name]["ratio_to_ddim"] = results[name]["sliced_wasserstein"] / baseline if baseline else None
    return {
        "seed": seed,
        "bundle": str(bundle_folder),
        "states": kind,
        "count": states,
        "samples": samples,
        "floor": {
            "sliced_wasserstein": float(reference.floor.mean()),
            "interval": list(bootstrap_interval(reference.floor, np.random.default_rng([seed, 83]))),
            "mode_coverage": float(np.mean(own_coverage)) if own_coverage else None,
        },
        "policies": {name: results[name] for name in students},
        "baselines": {name: entry for name, entry in results.items() if name not in students},
    }


def _two_way(teacher: Policy, states: np.ndarray, shape: tuple[int, int, int], seed: int, report: Report) -> np.ndarray:
    """Those states (n, obs_dim) at which a sample of the teacher's chunks has two modes."""
    rng = np.random.default_rng([seed, 84])
    kept = []
    for index, state in enumerate(states):
        noise = rng.standard_normal((TWO_WAY_SAMPLES, *shape)).astype(np.float32)
        chunks = teacher(np.repeat(state[None], TWO_WAY_SAMPLES, axis=0), noise).reshape(TWO_WAY_SAMPLES, -1)
        if two_modes(chunks) is not None:
            kept.append(state)
        report("two-way states", index + 1, len(states), f"{len(kept)} found")
    if len(kept) < 4:
        raise SrdpError(f"--states two_way: {len(kept)} of {len(states)} states have two modes; raise --count")
    return np.stack(kept)


def _solvers(report: Report) -> list[str]:
    try:
        import diffusers  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        report("fidelity", 0, 1, "without DPM-Solver++: pip install 'srdp_controller[train]'")
        return ["ddim"]
    return ["ddim", "dpm"]
