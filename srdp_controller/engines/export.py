"""Exports teacher and students as ONNX graphs of the bundle contract (torch; off line only).

Normalisation, noise schedule and the timesteps' share of the first layer are constants of the graph,
and the trunk is evaluated once per action. A student's K steps are unrolled; the teacher's T steps
are an ONNX ``Loop``, because each unrolled step would keep its own packed copy of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from srdp_controller.engines.teacher_graph import STEPS, step_table
from srdp_controller.policy.samplers import CLIP
from srdp_controller.policy.student import Student
from srdp_controller.policy.teacher import SrdpTeacher
from srdp_controller.spec import PolicySpec

OPSET = 18
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

    def __init__(self, student: Student, teacher: SrdpTeacher, spec: PolicySpec) -> None:
        super().__init__()
        self.student, self.teacher_trunk, self.scaling = student, teacher.trunk, _Scaling(spec)
        with torch.no_grad():
            # the first layer's own bias and the timestep's share, as constants
            self.register_buffer("biases", student.time_biases() + student.head.from_action.bias)

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The contract's inputs (B, obs_dim), (B, 1, horizon, act_dim) and outputs."""
        student = self.student
        normalised = self.scaling.observation(observation)
        latent = student.trunk(normalised)
        condition = student.head.condition(latent)
        a = noise.reshape(noise.shape[0], -1)
        for k in range(student.steps, 0, -1):
            first = nn.functional.linear(a, student.head.from_action.weight) + (condition + self.biases[k])  # type: ignore[index]
            a = student.step(a, student.head.layers(first), k)
        action = self.scaling.action(a.clamp(-CLIP, CLIP))
        return action, student.alignment(latent), self.teacher_trunk(normalised)


class _TeacherStart(nn.Module):
    def __init__(self, teacher: SrdpTeacher, spec: PolicySpec) -> None:
        super().__init__()
        self.trunk, self.head, self.scaling = teacher.trunk, teacher.head, _Scaling(spec)

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latent = self.trunk(self.scaling.observation(observation))
        return noise.reshape(noise.shape[0], -1), self.head.condition(latent), latent


class _TeacherStep(nn.Module):
    """One deterministic step of eq. 6; row i of the tables is timestep T - i."""

    def __init__(self, teacher: SrdpTeacher) -> None:
        super().__init__()
        self.head = teacher.head
        steps = teacher.diffusion_steps
        t = torch.arange(steps, 0, -1)
        with torch.no_grad():
            self.register_buffer("bias", teacher.head.time_bias(t) + teacher.head.from_action.bias)
        alpha_bar = teacher.alpha_bar[::-1]
        self.register_buffer("table", torch.from_numpy(step_table(alpha_bar[:-1], alpha_bar[1:])))

    def forward(self, i: Tensor, a: Tensor, condition: Tensor) -> Tensor:
        row = self.table[i]  # type: ignore[index]
        first = nn.functional.linear(a, self.head.from_action.weight) + (condition + self.bias[i])  # type: ignore[index]
        epsilon = self.head.layers(first)
        clean = (a * row[0] - epsilon * row[1]).clamp(-CLIP, CLIP)
        return clean * row[2] + a * row[3]


def _to_onnx(
    module: nn.Module, example: tuple[Any, ...], inputs: list[str], outputs: list[str], dynamic: dict[str, Any] | None
) -> onnx.ModelProto:
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


def _finish(model: onnx.ModelProto) -> bytes:
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


def export_student(student: Student, teacher: SrdpTeacher, spec: PolicySpec) -> bytes:
    """ONNX bytes of a student, batch dimension free."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    example = (torch.zeros(2, spec.obs_dim), torch.zeros(2, 1, spec.horizon, spec.act_dim))
    model = _to_onnx(
        StudentGraph(student, teacher, spec),
        example,
        ["observation", "noise"],
        ["action", "latent", "teacher_latent"],
        {"observation": {0: batch}, "noise": {0: batch}},
    )
    return _finish(model)


def export_teacher(teacher: SrdpTeacher, spec: PolicySpec) -> bytes:
    """ONNX bytes of the teacher: start, ``Loop`` over T steps, denormalisation."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    action = spec.horizon * spec.act_dim
    hidden = teacher.head.from_latent.out_features
    start = _to_onnx(
        _TeacherStart(teacher, spec),
        (torch.zeros(2, spec.obs_dim), torch.zeros(2, 1, spec.horizon, spec.act_dim)),
        ["observation", "noise"],
        ["a_T", "condition", "latent"],
        {"observation": {0: batch}, "noise": {0: batch}},
    )
    step = _to_onnx(
        _TeacherStep(teacher),
        (torch.tensor(0), torch.zeros(2, action), torch.zeros(2, hidden)),
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
            helper.make_node(
                "Reshape",
                ["clipped", constant("shape", np.array([-1, spec.horizon, spec.act_dim], np.int64))],
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
