"""``srdp eval fidelity``: how close each student's action distribution is to its teacher's.

The states are visited by the scripted expert in fresh episodes, so they are held out by construction
and no dataset is needed. Distances are in normalised action units.
"""

from __future__ import annotations

from collections.abc import Callable
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
)
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.report.closed_loop import load_policy
from srdp_controller.simulation.expert import PushingExpert
from srdp_controller.simulation.pushing_env import ObservedWorld
from srdp_controller.simulation.scenario import load_scenario

Report = Callable[[str, int, int, str], None]
STATES = ("test", "shifted", "augmented")
AUGMENTATION = 0.15
PROJECTIONS = 64


def visited_states(scenario: str, episodes: int, seed: int) -> np.ndarray:
    """Observations (n, obs_dim) every 50 ms along the expert's fresh episodes."""
    observed = ObservedWorld(load_scenario(scenario))
    states = []
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
                world.send((float(command[0]), float(command[1])))
            observed.step()
            step += 1
    world.close()
    return np.stack(states)


def draw_states(bundle: LoadedBundle, kind: str, count: int, seed: int) -> np.ndarray:
    """``count`` states (count, obs_dim) of the given kind."""
    if kind not in STATES:
        raise SrdpError(f"--states {kind}: choose one of: {', '.join(STATES)}")
    rng = np.random.default_rng([seed, 79])
    states = visited_states("shifted" if kind == "shifted" else "nominal", max(10, count // 12), seed)
    states = states[rng.choice(len(states), size=count, replace=len(states) < count)]
    if kind == "augmented":
        _, scale = bundle.spec.observation_normalisation()
        states = states + AUGMENTATION * scale * rng.standard_normal(states.shape)
    return states.astype(np.float32)


def evaluate_fidelity(
    bundle_folder: Path, kind: str, *, states: int, samples: int, seed: int, report: Report
) -> dict[str, Any]:
    """Compare every student, and plain DDIM of the same step counts, with the teacher as shipped.

    Returns the JSON contract's keys.
    """
    if states < 4 or samples < 8:
        raise SrdpError(f"--count {states} --samples {samples}: expected at least 4 states and 8 samples")
    bundle = load_bundle(bundle_folder)
    drawn = draw_states(bundle, kind, states, seed)
    centre, scale = bundle.spec.observation_normalisation()
    action_centre, action_scale = bundle.spec.action_normalisation()
    rng = np.random.default_rng([seed, 80])
    shape = bundle.policy("teacher").noise_shape
    size = int(np.prod(shape))
    projections = directions(PROJECTIONS, size, rng)
    noises = [rng.standard_normal((states, samples, *shape)).astype(np.float32) for _ in range(3)]

    def sample(name: str, noise: np.ndarray) -> np.ndarray:
        policy = load_policy(bundle_folder, name)
        rows = [policy(np.repeat(drawn[index : index + 1], samples, axis=0), noise[index]) for index in range(states)]
        return ((np.stack(rows) - action_centre) / action_scale).reshape(states, samples, size)

    reference, again, matched = (sample("teacher", noise) for noise in noises)
    floor = np.array([sliced_wasserstein(x, y, projections) for x, y in zip(reference, again, strict=True)])
    # even the teacher's own second sample misses a little of a mode, by chance
    own = [mode_coverage(x, y) for x, y in zip(reference, again, strict=True)]
    own_coverage = [value for value in own if value is not None]
    students = [name for name in bundle.content.policies if name != "teacher"]
    names = students + [f"ddim_k{bundle.policy(name).steps}" for name in students]
    results: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(names):
        actions = sample(name, noises[2])
        distances = np.array([sliced_wasserstein(x, y, projections) for x, y in zip(reference, actions, strict=True)])
        kept = [mode_coverage(x, y) for x, y in zip(reference, actions, strict=True)]
        coverage = [value for value in kept if value is not None]
        tv, tv_low = tv_lower_bound(reference, actions, (drawn - centre) / scale, np.random.default_rng(seed))
        results[name] = {
            "sliced_wasserstein": float(distances.mean()),
            "sliced_wasserstein_interval": list(bootstrap_interval(distances, rng)),
            "ratio_to_floor": float(distances.mean() / floor.mean()),
            "mmd": float(np.mean([squared_mmd(x, y) for x, y in zip(reference, actions, strict=True)])),
            "tv_lower": tv,
            "tv_lower_95": tv_low,
            "mode_coverage": float(np.mean(coverage)) if coverage else None,
            "mode_coverage_interval": list(bootstrap_interval(np.array(coverage), rng)) if coverage else None,
            "two_mode_states": len(coverage),
            "matched_noise_rmse": float(np.sqrt(np.mean((actions - matched) ** 2))),
        }
        report("fidelity", index + 1, len(names), f"{name}: {results[name]['ratio_to_floor']:.2f} times the floor")
    for name in names:
        baseline = results[f"ddim_k{name.rsplit('k', 1)[1]}"]["sliced_wasserstein"]
        results[name]["ratio_to_ddim"] = results[name]["sliced_wasserstein"] / baseline
    return {
        "seed": seed,
        "bundle": str(bundle_folder),
        "states": kind,
        "count": states,
        "samples": samples,
        "floor": {
            "sliced_wasserstein": float(floor.mean()),
            "interval": list(bootstrap_interval(floor, rng)),
            "mode_coverage": float(np.mean(own_coverage)) if own_coverage else None,
        },
        "policies": {name: results[name] for name in students},
        "baselines": {name: results[name] for name in names if name not in students},
    }
