"""Exports teacher and students as ONNX graphs of the bundle contract (torch; off line only).

Normalisation, noise schedule and the timesteps' share of the first layer are constants of the graph, folded
into its matrices where the student allows it, and the trunk is evaluated once per action. A student's K steps
are unrolled; the teacher's T steps are an ONNX ``Loop``, because each unrolled step would keep its own packed
copy of the weights.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from srdp_controller.engines.bundle import corrector_shapes
from srdp_controller.offline.export.folded_student import FoldedStudentGraph, can_fold
from srdp_controller.offline.export.inpainting import InpaintingGraph, traced
from srdp_controller.offline.export.teacher_graph import STEPS, step_table
from srdp_controller.policy.corrector import Corrector
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import SrdpNetwork
from srdp_controller.policy.samplers import CLIP
from srdp_controller.policy.student import Student
from srdp_controller.spec import PolicySpec

OPSET = 18
LEAST_HALF = 1024  # numbers, below which half the space saves nothing
IR_VERSION = 10


class _Scaling(nn.Module):
    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        centre, scale = spec.observation_normalisation()
        self.register_buffer("centre", torch.from_numpy(centre))
        self.register_buffer("inverse_scale", torch.from_numpy(1.0 / scale))
        action_centre, action_scale = spec.action_normalisation()
        self.register_buffer("action_centre", torch.from_numpy(action_centre))
        self.register_buffer("action_scale", torch.from_numpy(action_scale))
        self.horizon, self.act_dim = spec.horizon, spec.act_dim

    def observation(self, raw: Tensor) -> Tensor:
        return (raw - self.centre) * self.inverse_scale  # type: ignore[operator]

    def action(self, normalised: Tensor) -> Tensor:
        chunk = normalised.reshape(-1, self.horizon, self.act_dim)
        return chunk * self.action_scale + self.action_centre  # type: ignore[operator]


class StudentGraph(nn.Module):
    """Observation and noise to action, aligned latent and teacher latent, all in raw SI units."""

    def __init__(self, student: Student, teacher: DiffusionTeacher, spec: PolicySpec) -> None:
        super().__init__()
        self.student, self.teacher, self.scaling = student, teacher, _Scaling(spec)
        with torch.no_grad():
            self.register_buffer("constants", student.time_biases())

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The contract's inputs (B, obs_dim), (B, *noise_shape) and outputs."""
        student = self.student
        normalised = self.scaling.observation(observation)
        if student.timed:
            latent, context = student.latent(normalised), student.context(normalised)
        else:
            latent = student.trunk(normalised)
            context = student.context_of_latent(latent, normalised)
        if student.draws == 1:
            a = noise.reshape(noise.shape[0], -1)
        else:
            draws = noise.reshape(noise.shape[0], student.draws, -1)
            a = draws[:, 0]
        for k in range(student.steps, 0, -1):
            clean = student.predict(a, context, self.constants[k])  # type: ignore[index]
            fresh = draws[:, student.steps - k + 1] if student.draws > 1 and k > 1 else None
            a = student.step(a, clean, k, fresh)
        a = student.with_prefix(a, context)
        chunk = a if student.whole else a[:, student.given]
        action = self.scaling.action(chunk.clamp(-CLIP, CLIP))
        return action, student.alignment(latent), self.teacher.latent(normalised)


class _SamplerGraph(nn.Module):
    def __init__(self, network: nn.Module, sample: Callable[[Any, Tensor, Tensor], Tensor], spec: PolicySpec) -> None:
        super().__init__()
        self.network, self.sample, self.scaling = network, sample, _Scaling(spec)

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        chunk = self.sample(self.network, self.scaling.observation(observation), noise.flatten(2))
        return self.scaling.action(chunk.clamp(-CLIP, CLIP))


class _TeacherStart(nn.Module):
    def __init__(self, teacher: DiffusionTeacher, spec: PolicySpec) -> None:
        super().__init__()
        self.teacher, self.scaling = teacher, _Scaling(spec)

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normalised = self.scaling.observation(observation)
        if isinstance(self.teacher, SrdpNetwork) and not self.teacher.timed:
            latent = self.teacher.trunk(normalised)
            context = self.teacher.context_of_latent(latent, normalised)
        else:
            latent, context = self.teacher.latent(normalised), self.teacher.context(normalised)
        return noise.reshape(noise.shape[0], -1), context, latent


class _TeacherStep(nn.Module):
    """One deterministic step of eq. 6; row i of the tables is timestep T - i."""

    def __init__(self, teacher: DiffusionTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        t = torch.arange(teacher.diffusion_steps, 0, -1)
        with torch.no_grad():
            self.register_buffer("bias", teacher.time_features(t))
        alpha_bar = teacher.alpha_bar[::-1]
        table = step_table(alpha_bar[:-1], alpha_bar[1:], teacher.process.prediction)
        self.register_buffer("table", torch.from_numpy(table))

    def forward(self, i: Tensor, a: Tensor, condition: Tensor) -> Tensor:
        row = self.table[i]  # type: ignore[index]
        predicted = self.teacher.predict(a, condition, self.bias[i])  # type: ignore[index]
        process = self.teacher.process
        estimate = a * row[0] - predicted * row[1]
        clean = estimate.clamp(-process.clip, process.clip)
        following = clean * row[2] + a * row[3]
        if process.keeps_noise:  # row[2] is for the noise that the clipped estimate leaves; this is the rest of it
            signal = 1.0 / row[0] if process.prediction == "epsilon" else row[0]
            following = following + (clean - estimate) * (row[3] * signal)
        return self.teacher.with_prefix(following, condition)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """In it PyTorch's exporter says nothing of packages that it could have used, nor of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _to_onnx(
    module: nn.Module, example: tuple[Any, ...], inputs: list[str], outputs: list[str], dynamic: Any
) -> onnx.ModelProto:
    with quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _store_in_half(model: onnx.ModelProto) -> None:
    """Keep weights that float16 holds exactly as float16; the graph begins with making float32 of them."""
    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or math.prod(initializer.dims) < LEAST_HALF:
            continue
        weights, name = numpy_helper.to_array(initializer), initializer.name
        with np.errstate(over="ignore"):
            half = weights.astype(np.float16)
        if np.array_equal(half.astype(np.float32), weights):
            initializer.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _finish(model: onnx.ModelProto) -> bytes:
    _store_in_half(model)
    del model.metadata_props[:]
    model.producer_version = ""  # the same weights make the same bytes with every build of torch
    for graph in [model.graph]:
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del graph.value_info[:]
        del graph.metadata_props[:]
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def noise_shape(policy: Student | DiffusionTeacher, spec: PolicySpec) -> tuple[int, int, int]:
    """Gaussian draws of one action (n_noise, steps, act_dim): whole chunks of the network, which may be longer."""
    draws = policy.draws if isinstance(policy, Student) else 1
    return draws, policy.action_dim // spec.act_dim, spec.act_dim


def export_student(student: Student, teacher: DiffusionTeacher, spec: PolicySpec) -> bytes:
    """ONNX bytes of a student, batch dimension free."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    example = (torch.zeros(2, spec.obs_dim), torch.zeros(2, *noise_shape(student, spec)))
    graph = FoldedStudentGraph if can_fold(student) else StudentGraph
    model = _to_onnx(
        graph(student, teacher, spec),
        example,
        ["observation", "noise"],
        ["action", "latent", "teacher_latent"],
        {"observation": {0: batch}, "noise": {0: batch}},
    )
    return _finish(model)


def export_sampler(
    network: nn.Module, sample: Callable[[Any, Tensor, Tensor], Tensor], draws: int, spec: PolicySpec
) -> bytes:
    """ONNX bytes of a policy without a latent, batch dimension free.

    ``sample`` takes ``network``, normalised observations (B, obs_dim) and noise (B, draws, A), and gives chunks (B, A).
    """
    batch = torch.export.Dim("batch", min=1, max=65536)
    model = _to_onnx(
        _SamplerGraph(network, sample, spec),
        (torch.zeros(2, spec.obs_dim), torch.zeros(2, draws, spec.horizon, spec.act_dim)),
        ["observation", "noise"],
        ["action"],
        {"observation": {0: batch}, "noise": {0: batch}},
    )
    return _finish(model)


def export_inpainting(teacher: DiffusionTeacher, spec: PolicySpec, steps: int, largest_weight: float) -> bytes:
    """ONNX bytes of the teacher with ``steps`` steps that go on from the chunk in force (``inpainting``)."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    chunk = (spec.horizon, spec.act_dim)
    rows = 1 + spec.obs_dim * spec.horizon * spec.act_dim  # like no other size, or the batch would be taken for that
    example = (
        torch.zeros(rows, spec.obs_dim),
        torch.zeros(rows, 1, *chunk),
        torch.zeros(rows, *chunk),
        torch.zeros(rows, spec.horizon),
    )
    model = _to_onnx(
        traced(InpaintingGraph(teacher, spec, steps, largest_weight), example),
        example,
        ["observation", "noise", "previous", "weights"],
        ["action", "latent", "teacher_latent"],
        tuple({0: batch} for _ in example),
    )
    return _finish(model)


def export_teacher(teacher: DiffusionTeacher, spec: PolicySpec) -> bytes:
    """ONNX bytes of the teacher: start, ``Loop`` over T steps, denormalisation."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    action = teacher.action_dim
    with torch.no_grad():
        width = teacher.context(torch.zeros(2, spec.obs_dim)).shape[1]
    start = _to_onnx(
        _TeacherStart(teacher, spec),
        (torch.zeros(2, spec.obs_dim), torch.zeros(2, *noise_shape(teacher, spec))),
        ["observation", "noise"],
        ["a_T", "condition", "latent"],
        {"observation": {0: batch}, "noise": {0: batch}},
    )
    step = _to_onnx(
        _TeacherStep(teacher),
        (torch.tensor(0), torch.zeros(2, action), torch.zeros(2, width)),
        ["i", "a", "condition"],
        ["a_next"],
        {"i": None, "a": {0: batch}, "condition": {0: batch}},
    )
    onnx_graph = start.graph
    # names inside the step must not meet those of the start, but for what it takes from outside
    renamed = {"condition": "condition", "i": "step_i", "a": "step_a", "a_next": "step_a_next"}

    def rename(name: str) -> str:
        return renamed.setdefault(name, f"step_{name}") if name else ""

    for initializer in step.graph.initializer:
        initializer.name = rename(initializer.name)
        onnx_graph.initializer.append(initializer)
    body_nodes = []
    for node in step.graph.node:
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        node.name = rename(node.name)
        del node.metadata_props[:]
        node.doc_string = ""
        body_nodes.append(node)
    body_nodes.append(helper.make_node("Identity", ["step_continue"], ["step_continue_out"]))
    body = helper.make_graph(
        body_nodes,
        "denoising_step",
        [
            helper.make_tensor_value_info("step_i", TensorProto.INT64, []),
            helper.make_tensor_value_info("step_continue", TensorProto.BOOL, []),
            helper.make_tensor_value_info("step_a", TensorProto.FLOAT, ["batch", action]),
        ],
        [
            helper.make_tensor_value_info("step_continue_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("step_a_next", TensorProto.FLOAT, ["batch", action]),
        ],
    )

    def constant(name: str, value: np.ndarray) -> str:
        onnx_graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    centre, scale = spec.action_normalisation()
    onnx_graph.node.extend(
        [
            helper.make_node(
                "Loop",
                [constant(STEPS, np.array(teacher.diffusion_steps, np.int64)), constant("go", np.array(True)), "a_T"],
                ["a_0"],
                body=body,
            ),
            helper.make_node(
                "Clip",
                ["a_0", constant("low", np.array(-CLIP, np.float32)), constant("high", np.array(CLIP, np.float32))],
                ["clipped"],
            ),
        ]
    )
    sampled = "clipped"
    if not teacher.whole:
        begin, end, _ = teacher.given.indices(action)
        bounds = [constant(f"given_{name}", np.array([at], np.int64)) for name, at in (("from", begin), ("to", end))]
        sampled = "given"
        onnx_graph.node.append(
            helper.make_node("Slice", ["clipped", *bounds, constant("given_axis", np.array([1], np.int64))], [sampled])
        )
    onnx_graph.node.extend(
        [
            helper.make_node(
                "Reshape",
                [sampled, constant("shape", np.array([-1, spec.horizon, spec.act_dim], np.int64))],
                ["chunk"],
            ),
            helper.make_node("Mul", ["chunk", constant("action_scale_", scale)], ["scaled"]),
            helper.make_node("Add", ["scaled", constant("action_centre_", centre)], ["action"]),
            helper.make_node("Identity", ["latent"], ["teacher_latent"]),
        ]
    )
    latent_info = next(output for output in onnx_graph.output if output.name == "latent")
    teacher_latent = onnx.ValueInfoProto()
    teacher_latent.CopyFrom(latent_info)
    teacher_latent.name = "teacher_latent"
    batch_name = latent_info.type.tensor_type.shape.dim[0].dim_param
    outputs = [
        helper.make_tensor_value_info("action", TensorProto.FLOAT, [batch_name, spec.horizon, spec.act_dim]),
        latent_info,
        teacher_latent,
    ]
    kept = [onnx.ValueInfoProto.FromString(output.SerializeToString()) for output in outputs]
    del onnx_graph.output[:]
    onnx_graph.output.extend(kept)
    return _finish(start)


class _CorrectorGraph(nn.Module):
    def __init__(self, corrector: Corrector, spec: PolicySpec) -> None:
        super().__init__()
        self.corrector, self.scaling = corrector, _Scaling(spec)

    def forward(self, observation: Tensor, base_action: Tensor, origin: Tensor, index: Tensor) -> Tensor:
        scaling = self.scaling
        base = (base_action - scaling.action_centre) / scaling.action_scale  # type: ignore[operator]
        now, then = scaling.observation(observation), scaling.observation(origin)
        return self.corrector(now, base, then, index / scaling.horizon) * scaling.action_scale  # type: ignore[operator, no-any-return]


def export_corrector(corrector: Corrector, spec: PolicySpec) -> bytes:
    """ONNX bytes of a correction head, batch dimension free: ``corrector_shapes``, in SI units."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    shapes = corrector_shapes(spec)
    *inputs, output = shapes
    model = _to_onnx(
        _CorrectorGraph(corrector, spec),
        tuple(torch.zeros(2, *shapes[name][1:]) for name in inputs),
        inputs,
        [output],
        {name: {0: batch} for name in inputs},
    )
    return _finish(model)
