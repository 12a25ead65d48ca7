"""The same networks as people run them without this project: PyTorch, torch.compile, diffusers' samplers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from srdp_controller.benchmarks.torch_engine import TorchGraph
from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.errors import EngineError
from srdp_controller.policy.student import Student, fresh_trunk
from srdp_controller.policy.teacher import SrdpTeacher

Run = Callable[[], None]
TIME_FEATURES = 32


def torch_modules(bundle: LoadedBundle, name: str, observation: np.ndarray, noise: np.ndarray) -> Run:
    """The policy's own modules, as training code evaluates them, between normalisation and its inverse.

    The network is built anew with the sizes of the bundle's graphs; its weights are random, on which time does
    not depend.

    Raises:
        EngineError: the teacher's graph is not of this project's own network.
    """
    teacher = _network_like(bundle)
    spec = bundle.spec
    centre, scale = (torch.from_numpy(part) for part in spec.observation_normalisation())
    action_centre, action_scale = (torch.from_numpy(part) for part in spec.action_normalisation())
    state, draw = torch.from_numpy(observation), torch.from_numpy(noise).reshape(len(noise), -1)
    student = None
    if name != "teacher":
        student = Student(teacher, bundle.policy(name).steps).eval()
        fresh_trunk(student)

    def run() -> None:
        with torch.inference_mode():
            normalised = (state - centre) / scale
            if student is None:
                a = teacher.sample(normalised, draw)[0]
            else:
                a = student(normalised, draw)[0]
                teacher.latent(normalised)
            a.reshape(len(noise), spec.horizon, spec.act_dim) * action_scale + action_centre

    return run


def _network_like(bundle: LoadedBundle) -> SrdpTeacher:
    """A teacher with the layers of the bundle's, as the names and sizes in its graph tell."""
    import onnx

    model = onnx.load_from_string(bundle.read(bundle.policy("teacher")))
    sizes = {item.name.removeprefix("step_"): tuple(item.dims) for item in model.graph.initializer}

    def widths(prefix: str) -> list[int]:
        keys = [key for key in sizes if key.startswith(prefix) and key.endswith(".weight")]
        return [sizes[key][0] for key in sorted(keys, key=lambda key: int(key.split(".")[-2]))]

    trunk, head = widths("teacher.trunk.layers."), widths("teacher.head.layers.1.")
    if len(trunk) < 2 or len(head) < 1 or "teacher.head.from_action.weight" not in sizes:
        raise EngineError("the teacher's graph is not of this project's own network; its modules are left out")
    first = sizes["teacher.head.from_action.weight"]
    return (
        SrdpTeacher(
            bundle.spec.obs_dim,
            first[1],
            trunk[:-1],
            trunk[-1],
            [first[0], *head[:-1]],
            TIME_FEATURES,
            "cosine",
            bundle.policy("teacher").steps,
        )
        .requires_grad_(False)
        .eval()
    )


def torch_eager(graph: bytes, observation: np.ndarray, noise: np.ndarray) -> Run:
    """The exported graph's operations in PyTorch, one after the other: constants folded, no module's overhead."""
    policy = TorchGraph(graph)
    inputs = torch.from_numpy(observation), torch.from_numpy(noise)

    def run() -> None:
        with torch.inference_mode():
            policy(*inputs)

    return run


def torch_compiled(graph: bytes, observation: np.ndarray, noise: np.ndarray) -> Run:
    """The exported graph under ``torch.compile``, max-autotune; compiles before it returns (needs a C++ compiler)."""
    torch._dynamo.config.recompile_limit = 64  # every policy compiles the same method once
    inputs = torch.from_numpy(observation), torch.from_numpy(noise)
    compiled = torch.compile(TorchGraph(graph), mode="max-autotune", fullgraph=True, dynamic=False)

    def run() -> None:
        with torch.inference_mode():
            compiled(*inputs)

    for _ in range(3):
        run()
    return run


def diffusers_sampler(bundle: LoadedBundle, observation: np.ndarray, noise: np.ndarray, kind: str, steps: int) -> Run:
    """The teacher's modules under diffusers' DDIM (``ddim``) or DPM-Solver++ (``dpm``), ``steps`` evaluations.

    Raises:
        EngineError: as ``torch_modules``.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    teacher = _network_like(bundle)
    common = {
        "num_train_timesteps": teacher.diffusion_steps,
        "trained_betas": (1.0 - teacher.alpha_bar[1:] / teacher.alpha_bar[:-1]).tolist(),
        "prediction_type": "epsilon",
        "timestep_spacing": "trailing",
    }
    scheduler = (
        DDIMScheduler(clip_sample=True, set_alpha_to_one=True, **common)
        if kind == "ddim"
        else DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2, **common)
    )
    state, draw = torch.from_numpy(observation), torch.from_numpy(noise).reshape(len(noise), -1)
    times = teacher.time_features(torch.arange(teacher.diffusion_steps + 1))

    def run() -> None:
        with torch.inference_mode():
            scheduler.set_timesteps(steps)
            context = teacher.context(state)
            a = draw
            for t in scheduler.timesteps:
                a = scheduler.step(teacher.predict(a, context, times[int(t) + 1]), t, a).prev_sample

    return run
