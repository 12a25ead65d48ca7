"""The same networks as people run them without this project: PyTorch, torch.compile, diffusers' samplers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from srdp_controller.benchmarks.torch_engine import Step, TorchGraph
from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.errors import EngineError
from srdp_controller.offline.export.teacher_graph import TABLE, read_process
from srdp_controller.policy.student import Student, fresh_trunk
from srdp_controller.policy.teacher import SrdpTeacher

Run = Callable[[], None]
TIME_FEATURES = 32
# the ways of torch.compile that are tried; the best one counts
COMPILE_MODES = ("default", "max-autotune", "default, frozen weights", "max-autotune, frozen weights")


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
    return SrdpTeacher(
        bundle.spec.obs_dim,
        first[1],
        trunk[:-1],
        trunk[-1],
        [first[0], *head[:-1]],
        TIME_FEATURES,
        "cosine",
        bundle.policy("teacher").steps,
    ).eval()


def torch_eager(graph: bytes, observation: np.ndarray, noise: np.ndarray) -> Run:
    """The exported graph's operations in PyTorch, one after the other: constants folded, no module's overhead."""
    policy = TorchGraph(graph)
    inputs = torch.from_numpy(observation), torch.from_numpy(noise)

    def run() -> None:
        with torch.inference_mode():
            policy(*inputs)

    return run


class _Compilable(torch.nn.Module):
    """The graph as a module, so that its weights are parameters, which freezing can fold and pack."""

    def __init__(self, graph: bytes) -> None:
        super().__init__()
        self._graph = TorchGraph(graph)
        self._names = tuple(self._graph.constants)
        for number, value in enumerate(self._graph.constants.values()):
            self.register_parameter(f"constant{number}", torch.nn.Parameter(value, requires_grad=False))

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        constants = {name: getattr(self, f"constant{number}") for number, name in enumerate(self._names)}
        return self._graph.evaluate(constants, observation, noise)


def torch_compiled(graph: bytes, observation: np.ndarray, noise: np.ndarray, mode: str) -> Run:
    """``torch.compile`` in one of ``COMPILE_MODES``; compiles before it returns (needs a C++ compiler)."""
    name, _, frozen = mode.partition(", ")
    torch._dynamo.config.recompile_limit = 64  # every policy and mode compiles the same method once
    with torch._inductor.config.patch(freezing=bool(frozen)), torch.no_grad():
        compiled = torch.compile(_Compilable(graph).eval(), mode=name, fullgraph=True, dynamic=False)
        inputs = torch.from_numpy(observation), torch.from_numpy(noise)
        for _ in range(3):
            compiled(*inputs)

    def run() -> None:
        with torch.inference_mode(), torch._inductor.config.patch(freezing=bool(frozen)):
            compiled(*inputs)

    return run


class _TeacherNetwork:
    """The exported teacher's network alone: condition of an observation, prediction at a step."""

    def __init__(self, graph: bytes) -> None:
        import onnx

        model = onnx.load_from_string(graph)
        self.alpha_bar, self.prediction = read_process(model)
        self.steps = len(self.alpha_bar) - 1
        loop = next(node for node in model.graph.node if node.op_type == "Loop")
        body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
        self._whole = TorchGraph(graph)
        constants = dict(self._whole.constants)
        # a step that answers with what the network predicts: clean = 0 a + 1 predicted, next = clean
        constants[TABLE] = torch.tensor([[0.0, -1.0, 1.0, 0.0]]).repeat(self.steps, 1)
        self._step = Step(body, constants)

    def condition(self, observation: Tensor) -> Tensor:
        """Share of the observation in the first layer (B, width)."""
        return self._whole.until("condition", observation)

    def predict(self, a: Tensor, t: int, condition: Tensor) -> Tensor:
        """Prediction (B, A) at timestep t, 1 .. T."""
        return self._step(self.steps - t, a, condition)


def diffusers_sampler(graph: bytes, observation: np.ndarray, noise: np.ndarray, kind: str, steps: int) -> Run:
    """The teacher's network with diffusers' DDIM (``ddim``) or DPM-Solver++ (``dpm``), ``steps`` evaluations."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    network = _TeacherNetwork(graph)
    betas = (1.0 - network.alpha_bar[1:] / network.alpha_bar[:-1]).tolist()
    common = {
        "num_train_timesteps": network.steps,
        "trained_betas": betas,
        "prediction_type": "epsilon" if network.prediction == "epsilon" else "v_prediction",
        "timestep_spacing": "trailing",
    }
    scheduler = (
        DDIMScheduler(clip_sample=True, set_alpha_to_one=True, **common)
        if kind == "ddim"
        else DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2, **common)
    )
    state, draw = torch.from_numpy(observation), torch.from_numpy(noise).reshape(len(noise), -1)

    def run() -> None:
        with torch.inference_mode():
            scheduler.set_timesteps(steps)
            condition = network.condition(state)
            a = draw
            for t in scheduler.timesteps:
                a = scheduler.step(network.predict(a, int(t) + 1, condition), t, a).prev_sample

    return run
