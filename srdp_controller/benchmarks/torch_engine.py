"""A bundle's policy in PyTorch eager: what most people run, as the baseline of ``srdp bench``.

The exported graph is walked once and turned into a list of torch calls (SiLU as one call), so the very
same weights and operations run, one torch operation after the other, under ``inference_mode``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srdp_controller.benchmarks.latency_floor import attributes_of
from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.providers import DEFAULT, EngineOptions
from srdp_controller.errors import EngineError

Call = tuple[Callable[..., Tensor], tuple[str, ...], str]  # function, names of its inputs, name of its output


def _gemm(transposed: bool, alpha: float, beta: float) -> Callable[..., Tensor]:
    if transposed and alpha == beta == 1.0:
        return torch.nn.functional.linear

    def call(a: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = weight.t() if transposed else weight
        return alpha * (a @ weight) if bias is None else torch.addmm(bias, a, weight, beta=beta, alpha=alpha)

    return call


_SIMPLE: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Clip": torch.clamp,
    "Identity": lambda a: a,
    "Cast": torch.Tensor.float,  # of weights that are stored in half precision
}


def _calls(graph: Any, constants: dict[str, Tensor]) -> list[Call]:
    """The graph's nodes as torch calls, a sigmoid and its product as one SiLU."""
    from onnx import numpy_helper

    for initializer in graph.initializer:
        constants[initializer.name] = torch.from_numpy(np.array(numpy_helper.to_array(initializer)))
    sigmoids = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Sigmoid"}
    calls: list[Call] = []
    for node in graph.node:
        inputs = tuple(name for name in node.input if name)
        if node.op_type == "Sigmoid":
            continue
        if node.op_type == "Mul" and sigmoids.get(inputs[1]) == inputs[0]:
            calls.append((torch.nn.functional.silu, inputs[:1], node.output[0]))
        elif node.op_type == "Loop":
            body = attributes_of(node)["body"]
            calls.append((_loop(body, constants, int(constants[inputs[0]])), (inputs[2], "condition"), node.output[0]))
        elif node.op_type == "Gemm":
            how = attributes_of(node)
            function = _gemm(bool(how.get("transB", 0)), how.get("alpha", 1.0), how.get("beta", 1.0))
            calls.append((function, inputs, node.output[0]))
        elif node.op_type == "Reshape":
            calls.append((partial(torch.reshape, shape=constants[inputs[1]].tolist()), inputs[:1], node.output[0]))
        elif node.op_type == "Gather" and inputs[1] in constants:
            index = int(constants[inputs[1]])
            calls.append((partial(torch.select, dim=0, index=index), inputs[:1], node.output[0]))
        elif node.op_type == "Gather":
            calls.append((lambda a, index: a[int(index)], inputs, node.output[0]))
        elif node.op_type in _SIMPLE:
            calls.append((_SIMPLE[node.op_type], inputs, node.output[0]))
        else:
            raise EngineError(f"PyTorch baseline: the graph's {node.op_type} is not known here")
    return calls


def _execute(calls: list[Call], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add to ``values`` what the calls compute."""
    for function, inputs, output in calls:
        values[output] = function(*[values[name] for name in inputs])
    return values


def _loop(body: Any, constants: dict[str, Tensor], trips: int) -> Callable[..., Tensor]:
    """An exported teacher's loop: a_T (B, A) and condition (B, width) to a_0."""
    index, _, state = (value.name for value in body.input)
    done, answer = (value.name for value in body.output)
    calls = [call for call in _calls(body, constants) if call[2] != done]

    def run(a: Tensor, condition: Tensor) -> Tensor:
        for step in range(trips):
            a = _execute(calls, {**constants, index: torch.tensor(step), state: a, "condition": condition})[answer]
        return a

    return run


class TorchGraph:
    """An exported graph in PyTorch: observation (B, obs_dim) and noise to action, latent and teacher latent."""

    def __init__(self, graph: bytes) -> None:
        import onnx

        self._constants: dict[str, Tensor] = {}
        self._calls = _calls(onnx.load_from_string(graph).graph, self._constants)

    def __call__(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the graph."""
        values = _execute(self._calls, {**self._constants, "observation": observation, "noise": noise})
        return values["action"], values["latent"], values["teacher_latent"]


class TorchEngine:
    """``engines.engine.Engine`` on PyTorch eager."""

    def __init__(self, bundle: LoadedBundle, name: str) -> None:
        entry = bundle.policy(name)
        self.name, self.provider, self.evaluations = name, "torch_eager", entry.evaluations
        self._graph = TorchGraph(bundle.read(entry))
        self.observation, self.noise, self.action, self.latent, self.teacher_latent = (
            np.zeros(shape, np.float32) for shape in bundle.shapes(name).values()
        )
        # views of the buffers: what the caller writes is what the graph reads
        self._inputs = torch.from_numpy(self.observation), torch.from_numpy(self.noise)
        self._outputs = [torch.from_numpy(buffer) for buffer in (self.action, self.latent, self.teacher_latent)]

    @torch.inference_mode()
    def run(self) -> None:
        """Evaluate the policy once on the buffers."""
        for buffer, value in zip(self._outputs, self._graph(*self._inputs), strict=True):
            buffer.copy_(value)

    def cancel(self) -> None:
        """A run under way is not cancelled; it is short."""


def load_torch_engine(
    bundle: LoadedBundle, name: str, provider: str, options: EngineOptions = DEFAULT, warmup: int = 20
) -> TorchEngine:
    """Like ``load_engine``, whatever the provider and its options."""
    torch.set_num_threads(1)
    engine = TorchEngine(bundle, name)
    engine.observation[0] = bundle.spec.observation_normalisation()[0]
    for _ in range(warmup if engine.evaluations <= 16 else 2):
        engine.run()
    return engine
