"""What the students are compared with: few-step samplers on the bundle's own teacher, and policies trained without it.

Plain DDIM, DPM-Solver++ and DDIM with a warm start are made of the teacher's ONNX graph: the same weights and run time.
Where a sampler takes its first step decides how good it is with few steps: at t = T nothing is left of the signal
and one step from there predicts noise. Each is therefore started at the level that brings its actions nearest to
the teacher's on calibration states, which no evaluation uses.

The others (``offline.baselines``) are graphs that ``srdp experiment direct-policies`` leaves in a folder, by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from srdp_controller.certify.sample_distances import directions, sliced_wasserstein
from srdp_controller.engines.bundle import LoadedBundle, PolicyEntry
from srdp_controller.errors import SrdpError, missing_extra
from srdp_controller.evaluation.policies import Policy, bundled, without_latent
from srdp_controller.evaluation.states import visited_states
from srdp_controller.files import write_json
from srdp_controller.offline.baselines import POLICIES
from srdp_controller.progress import Progress
from srdp_controller.provenance import describe_run
from srdp_controller.simulation.scenario import slug
from srdp_controller.tasks.task import Task

CALIBRATION_SEED = 990_000_000  # of the worlds in which starting levels are chosen; no evaluation draws them
CALIBRATION_EPISODES, CALIBRATION_STATES, SAMPLES, PROJECTIONS = 20, 32, 32, 64
EARLIEST = 0.6  # of the teacher's levels: where the search ends
STRIDE = 5  # levels between those that are tried first


def _session(graph: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
    (action,) = session.run(
        ["action"], {"observation": observation.astype(np.float32), "noise": noise.astype(np.float32)}
    )
    return np.asarray(action)


def _of_whole_chunks(bundle: LoadedBundle, sampler: str) -> PolicyEntry:
    """The teacher, for a sampler that feeds its answer back in."""
    entry = bundle.policy("teacher")
    if entry.noise_shape[1] != bundle.spec.horizon:
        raise SrdpError(
            f"{sampler}: the teacher of {bundle.folder} samples {entry.noise_shape[1]} steps and gives "
            f"{bundle.spec.horizon}; choose ddim"
        )
    return entry


def ddim(bundle: LoadedBundle, steps: int, first_level: int) -> Policy:
    """The teacher with ``steps`` deterministic steps from level ``first_level`` (Song et al., 2021)."""
    import onnx

    from srdp_controller.offline.export.teacher_graph import skip_steps

    entry = bundle.policy("teacher")
    session = _session(skip_steps(onnx.load_from_string(bundle.read(entry)), steps, first_level))
    return Policy(f"ddim_k{steps}", entry.noise_shape, without_latent(lambda o, n: _run(session, o, n)))


def dpm(bundle: LoadedBundle, steps: int, first_level: int) -> Policy:
    """The teacher with ``steps`` steps of DPM-Solver++ (Lu et al., 2022), second order, from ``diffusers``.

    Clean estimates are clipped as in plain DDIM, without which one step from pure noise blows up.
    """
    import onnx

    try:
        import torch
        from diffusers import DPMSolverMultistepScheduler
    except ModuleNotFoundError as error:
        raise missing_extra("train", error) from None
    from srdp_controller.offline.export.teacher_graph import clean_estimate, levels, read_process

    entry = _of_whole_chunks(bundle, "dpm")
    graph = bundle.read(entry)
    alpha_bar, _ = read_process(onnx.load_from_string(graph))
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=entry.steps,
        trained_betas=(1.0 - alpha_bar[1:] / alpha_bar[:-1]).tolist(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="sample",
        lower_order_final=True,
    )
    timesteps = [level - 1 for level in levels(steps, first_level)]  # diffusers counts from 0
    estimates = [_session(clean_estimate(onnx.load_from_string(graph), t + 1)) for t in timesteps]
    centre, scale = bundle.spec.action_normalisation()

    def actions(observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        scheduler.set_timesteps(timesteps=timesteps)
        a = torch.from_numpy(noise.astype(np.float32))
        for t, session in zip(scheduler.timesteps, estimates, strict=True):
            clean = (_run(session, observation, a.numpy()) - centre) / scale
            a = scheduler.step(torch.from_numpy(clean)[:, None], t, a).prev_sample
        return a[:, 0].numpy() * scale + centre  # type: ignore[no-any-return]

    return Policy(f"dpm_k{steps}", entry.noise_shape, without_latent(actions))


def warm(bundle: LoadedBundle, steps: int, first_level: int) -> Policy:
    """DDIM that starts from the rest of the chunk in force, noised to ``first_level`` (as STEP and RNR-DP do).

    Where nothing is in force, at an episode's beginning, it is the teacher with all its steps. A lower level keeps more
    of the last chunk and needs fewer steps, and corrects less of it.
    """
    import onnx

    from srdp_controller.offline.export.teacher_graph import read_process, skip_steps

    entry = _of_whole_chunks(bundle, "warm")
    graph = bundle.read(entry)
    alpha_bar, _ = read_process(onnx.load_from_string(graph))
    session, fresh = _session(skip_steps(onnx.load_from_string(graph), steps, first_level)), bundled(bundle, "teacher")
    signal, spread = alpha_bar[first_level] ** 0.5, (1.0 - alpha_bar[first_level]) ** 0.5
    centre, scale = bundle.spec.action_normalisation()

    def actions(observation: np.ndarray, noise: np.ndarray, previous: np.ndarray, weights: np.ndarray) -> np.ndarray:
        going_on = weights.any(axis=1)
        chunks = np.empty_like(previous)
        if not going_on.all():
            chunks[~going_on] = fresh.actions(observation[~going_on], noise[~going_on])
        if going_on.any():
            begun = signal * ((previous - centre) / scale)[:, None] + spread * noise
            chunks[going_on] = _run(session, observation[going_on], begun[going_on])
        return chunks

    return Policy(f"warm_k{steps}", entry.noise_shape, without_latent(actions), guided=True)


SAMPLERS: dict[str, Callable[[LoadedBundle, int, int], Policy]] = {"ddim": ddim, "dpm": dpm, "warm": warm}
NAME = re.compile(rf"({'|'.join(SAMPLERS)})_k(\d+)(?:@(\d+))?")


def trained_folder(bundle: LoadedBundle, folder: Path | None = None) -> Path:
    """Where the policies that were trained without the bundle's teacher lie: ``folder``, or runs/TASK/baselines."""
    return folder or Path("runs") / slug(bundle.content.task) / "baselines"


def trained_graph(bundle: LoadedBundle, name: str, folder: Path | None = None) -> Path:
    """File of one of ``offline.baselines``; ``folder`` as in ``trained_folder``.

    Raises:
        SrdpError: it was not trained yet.
    """
    path = trained_folder(bundle, folder) / f"{name}.onnx"
    if not path.is_file():
        raise SrdpError(
            f"{path}: not there; `srdp experiment direct-policies RECIPE --policies {name}` makes it "
            "(where it lies in another folder, name that with --baselines)"
        )
    return path


def trained(bundle: LoadedBundle, name: str, folder: Path | None = None) -> Policy:
    """One of ``offline.baselines`` for the bundle's robot; ``folder`` as in ``trained_folder``.

    Raises:
        SrdpError: it was not trained yet, or for another robot.
    """
    import onnx

    path, spec = trained_graph(bundle, name, folder), bundle.spec
    session = _session(onnx.load(path))
    observation, noise = (argument.shape for argument in session.get_inputs())
    if [observation[1], *noise[2:]] != [spec.obs_dim, spec.horizon, spec.act_dim]:
        raise SrdpError(
            f"{path}: takes observations of {observation[1]} values and noise of {noise[1:]}; the bundle's spec has "
            f"{spec.obs_dim}, chunks of {[spec.horizon, spec.act_dim]}: train it with the bundle's own recipe"
        )
    return Policy(name, tuple(noise[1:]), without_latent(lambda o, n: _run(session, o, n)))


def load_policy(bundle: LoadedBundle, name: str, folder: Path | None = None) -> Policy:
    """A policy by name.

    One of the bundle; ``ddim_kN@LEVEL``, ``dpm_kN@LEVEL``, ``warm_kN@LEVEL``, its teacher with N steps from that level;
    or one of ``offline.baselines`` in ``folder`` (see ``trained_folder``).

    Raises:
        SrdpError: there is no such policy, or a package is missing.
    """
    if name in POLICIES:
        return trained(bundle, name, folder)
    match = NAME.fullmatch(name)
    if match is None:
        return bundled(bundle, name)
    sampler, steps, total = match.group(1), int(match.group(2)), bundle.policy("teacher").steps
    level = int(match.group(3) or total)
    if not 1 <= steps <= level <= total:
        raise SrdpError(f"{name}: expected 1 <= steps <= starting level <= {total}, the teacher's steps")
    return SAMPLERS[sampler](bundle, steps, level)


def with_level(bundle: LoadedBundle, task: Task, name: str, results: Path, progress: Progress) -> str:
    """``name`` as ``load_policy`` wants it: that of a sampler gets the starting level which suits it best.

    The choice depends on the teacher only and is kept in ``results``/TASK/starting_levels.json.

    Raises:
        SrdpError: the task has no world to draw calibration states from, or the name is a warm start's without level.
    """
    match = NAME.fullmatch(name)
    if match is None or match.group(3):
        return name
    if match.group(1) == "warm":
        raise SrdpError(f"{name}: name the level that it starts from, {name}@LEVEL; it depends on how old a chunk gets")
    path = results / slug(task.name) / "starting_levels.json"
    teacher = bundle.policy("teacher").sha256
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("teacher") != teacher:
        known = {"teacher": teacher, "levels": {}, "sliced_wasserstein": {}}
    if name not in known["levels"]:
        distances = distances_by_level(bundle, task, name, progress)
        level = min(distances, key=lambda level: distances[level])
        known["levels"][name] = level
        known["sliced_wasserstein"][name] = {str(key): round(value, 5) for key, value in distances.items()}
        command = f"srdp eval: starting level of {name}"
        write_json(path, {**describe_run(command, CALIBRATION_SEED), **{key: known[key] for key in sorted(known)}})
    return f"{name}@{known['levels'][name]}"


@dataclass(frozen=True)
class _Calibration:
    """A teacher's chunks (S, n, A), normalised, at calibration states, and the noise for all that is compared."""

    observation: np.ndarray
    noise: np.ndarray
    reference: np.ndarray
    projections: np.ndarray


_CALIBRATIONS: dict[str, _Calibration] = {}  # by the teacher's SHA-256: a teacher of real size takes minutes to ask


def _calibration(bundle: LoadedBundle, task: Task) -> _Calibration:
    key = f"{bundle.policy('teacher').sha256} {task.name}"
    if key not in _CALIBRATIONS:
        spec, teacher = bundle.spec, bundled(bundle, "teacher")
        rng = np.random.default_rng(CALIBRATION_SEED)
        states = visited_states(task, spec, "nominal", CALIBRATION_EPISODES, CALIBRATION_SEED, teacher)
        states = states[rng.choice(len(states), CALIBRATION_STATES, replace=len(states) < CALIBRATION_STATES)]
        observation = np.repeat(states, SAMPLES, axis=0)
        projections = directions(PROJECTIONS, spec.horizon * spec.act_dim, rng)
        shape = (len(observation), *teacher.noise_shape)
        first, second = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        chunks = _normalised(bundle, teacher.actions(observation, first))
        _CALIBRATIONS[key] = _Calibration(observation, second, chunks, projections)
    return _CALIBRATIONS[key]


def _normalised(bundle: LoadedBundle, chunks: np.ndarray) -> np.ndarray:
    centre, scale = bundle.spec.action_normalisation()
    return ((chunks - centre) / scale).reshape(-1, SAMPLES, chunks[0].size)


def distances_by_level(bundle: LoadedBundle, task: Task, name: str, progress: Progress) -> dict[int, float]:
    """Sliced Wasserstein distance, in normalised units, to the teacher by the level to start at.

    Every ``STRIDE``-th level first, then those beside the best of them.
    """
    total, calibration = bundle.policy("teacher").steps, _calibration(bundle, task)
    lowest = max(int(name.rsplit("k", 1)[1]), round(EARLIEST * total))
    coarse, distances = range(total, lowest - 1, -STRIDE), dict[int, float]()
    most = min(len(coarse) + 2 * (STRIDE - 1), total + 1 - lowest)

    def measure(levels: Iterable[int]) -> None:
        for level in levels:
            policy = load_policy(bundle, f"{name}@{level}")
            actions = _normalised(bundle, policy.actions(calibration.observation, calibration.noise))
            pairs = zip(calibration.reference, actions, strict=True)
            distances[level] = float(np.mean([sliced_wasserstein(x, y, calibration.projections) for x, y in pairs]))
            progress(len(distances), most, f"{name} from level {level}: {distances[level]:.4f}")

    measure(coarse)
    best = min(distances, key=lambda level: distances[level])
    measure(range(max(lowest, best - STRIDE + 1), best))
    measure(range(best + 1, min(total, best + STRIDE)))
    return {level: distances[level] for level in sorted(distances)}
