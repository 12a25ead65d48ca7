"""States at which policies are compared: visited in fresh episodes, so that they are held out by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from srdp_controller.certify.sample_distances import two_modes
from srdp_controller.errors import SrdpError
from srdp_controller.evaluation.policies import Policy
from srdp_controller.evaluation.rollout import Driver, rollout
from srdp_controller.progress import Progress
from srdp_controller.simulation.observed import ObservedWorld
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import Task

KINDS = ("test", "shifted", "augmented", "bimodal")
AUGMENTATION = 0.15
BIMODAL_SAMPLES = 64
BIMODAL_CANDIDATES = 12  # visited states for each one that is wanted


def visited_states(
    task: Task, spec: PolicySpec, scenario: str, episodes: int, seed: int, teacher: Policy | None = None
) -> np.ndarray:
    """Observations (n, obs_dim) at every control step along fresh episodes of the task's expert, or of the teacher.

    Of an expert's episodes those in which it succeeds, where it does at all: stuck, it stays longer than a success
    takes, in states that no demonstration need have.

    Raises:
        SrdpError: the task has no world, or neither an expert nor a teacher is there.
    """
    if task.expert(np.random.default_rng(seed)) is None and teacher is not None:
        evaluate, seen = teacher.evaluate, list[np.ndarray]()

        def remembering(observation: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            seen.append(observation)
            return evaluate(observation, noise)

        seeds = [1_000 * seed + episode for episode in range(episodes)]
        values = {"update_rate": 1.0 / spec.step_s}
        rollout(task, scenario, Driver(replace(teacher, evaluate=remembering)), seeds, spec=spec, values=values)
        return np.concatenate(seen)
    observed = ObservedWorld(task.make_world(task.scenario(scenario)), spec)
    world = observed.world
    played: list[tuple[bool, list[np.ndarray]]] = []
    for episode in range(episodes):
        observed.reset(np.random.default_rng([seed, 77, episode]))
        expert = task.require_expert(np.random.default_rng([seed, 78, episode]))
        expert.reset()
        states: list[np.ndarray] = []
        while not world.outcome.finished:
            states.append(observed.observation)
            observed.step([float(value) for value in expert.act(world.truth)])
        played.append((world.outcome.success, states))
    world.close()
    some = any(success for success, _ in played)
    return np.stack([state for success, states in played if success or not some for state in states])


def draw_states(
    task: Task,
    spec: PolicySpec,
    kind: str,
    count: int,
    seed: int,
    teacher: Policy | None = None,
    augmentation: float = AUGMENTATION,
) -> np.ndarray:
    """``count`` states (count, obs_dim), raw SI, of the given kind (``bimodal`` ones are drawn like ``test``).

    ``shifted`` are visited in the task's scenario of that name; ``augmented`` are disturbed by ``augmentation``
    times each component's scale.

    Raises:
        SrdpError: there is no such kind, or the task lacks what is needed for it.
    """
    if kind not in KINDS:
        raise SrdpError(f"--states {kind}: choose one of: {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, 79])
    scenario = "shifted" if kind == "shifted" else "nominal"
    states = visited_states(task, spec, scenario, max(10, count // 12), seed, teacher)
    states = states[rng.choice(len(states), size=count, replace=len(states) < count)]
    if kind == "augmented":
        _, scale = spec.observation_normalisation()
        noise = augmentation * scale * rng.standard_normal(states.shape)
        states[:, spec.sensor_indices()] += noise[:, spec.sensor_indices()].astype(np.float32)
    return states.astype(np.float32)


def bimodal_states(teacher: Policy, states: np.ndarray, seed: int, progress: Progress) -> np.ndarray:
    """Those states (n, obs_dim) at which a sample of the teacher's chunks has two modes.

    Raises:
        SrdpError: there are fewer than four.
    """
    rng = np.random.default_rng([seed, 84])
    kept = []
    for index, state in enumerate(states):
        noise = rng.standard_normal((BIMODAL_SAMPLES, *teacher.noise_shape)).astype(np.float32)
        chunks = teacher.actions(np.repeat(state[None], BIMODAL_SAMPLES, axis=0), noise)
        if two_modes(chunks.reshape(BIMODAL_SAMPLES, -1)) is not None:
            kept.append(state)
        progress(index + 1, len(states), f"{len(kept)} with two modes")
    if len(kept) < 4:
        raise SrdpError(f"--states bimodal: {len(kept)} of {len(states)} states have two modes; raise --count")
    return np.stack(kept)
