"""A bundle's policy in PyTorch eager: what most people run, as the baseline of ``srdp bench``.

The exported graph is walked once and turned into a list of torch calls (SiLU as one call), so the very
same weights and operations run, one torch operation after the other, under ``inference_mode``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.errors import EngineError

Call = tuple[Callable[..., Tensor], tuple[str, ...], str]


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _gemm(a: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.nn.functional.linear(a, weight, bias)


def _reshape(a: Tensor, shape: Tensor) -> Tensor:
    return a.reshape(shape.tolist())


def _gather(a: Tensor, index: Tensor) -> Tensor:
    return a[int(index)]


_SIMPLE: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "Gemm": _gemm,
    "Clip": torch.clamp,
    "Reshape": _reshape,
    "Gather": _gather,
    "Identity": lambda a: a,
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
            calls.append((_loop(_attributes(node)["body"], constants), (inputs[0], inputs[2]), node.output[0]))
        elif node.op_type in _SIMPLE:
            calls.append((_SIMPLE[node.op_type], inputs, node.output[0]))
        else:
            raise EngineError(f"PyTorch baseline: the graph's {node.op_type} is not known here")
    return calls


def _loop(body: Any, constants: dict[str, Tensor]) -> Callable[..., Tensor]:
    step, _, state = (value.name for value in body.input)
    answer = body.output[1].name
    calls: list[Call] = []
    values = constants

    def run(trips: Tensor, a: Tensor) -> Tensor:
        if not calls:
            calls.extend(call for call in _calls(body, constants) if call[2] != body.output[0].name)
        for index in range(int(trips)):
            values[step], values[state] = torch.tensor(index), a
            for function, inputs, output in calls:
                values[output] = function(*[values[name] for name in inputs])
            a = values[answer]
        return a

    return run


class TorchEngine:
    """``engines.engine.Engine`` on PyTorch eager."""

    def __init__(self, bundle: LoadedBundle, name: str) -> None:
        import onnx

        entry = bundle.policy(name)
        spec = bundle.spec
        self.name, self.provider, self.evaluations = name, "torch_eager", entry.evaluations
        graph = onnx.load_from_string(bundle.read(entry)).graph
        self._values: dict[str, Tensor] = {}
        self._calls = _calls(graph, self._values)
        self.observation = np.zeros((1, spec.obs_dim), np.float32)
        self.noise = np.zeros((1, *entry.noise_shape), np.float32)
        self.action = np.zeros((1, spec.horizon, spec.act_dim), np.float32)
        self.latent = np.zeros((1, entry.latent_dim), np.float32)
        self.teacher_latent = np.zeros((1, entry.latent_dim), np.float32)
        # views of the buffers: what the caller writes is what the graph reads
        self._values["observation"] = torch.from_numpy(self.observation)
        self._values["noise"] = torch.from_numpy(self.noise)
        self._outputs = [(key, torch.from_numpy(getattr(self, key))) for key in ("action", "latent", "teacher_latent")]

    @torch.inference_mode()
    def run(self) -> None:
        """Evaluate the policy once on the buffers."""
        values = self._values
        for function, inputs, output in self._calls:
            values[output] = function(*[values[name] for name in inputs])
        for key, buffer in self._outputs:
            buffer.copy_(values[key])

    def cancel(self) -> None:
        """A run under way is not cancelled; it is short."""


def load_torch_engine(bundle: LoadedBundle, name: str, provider: str, warmup: int = 20) -> TorchEngine:
    """Like ``load_engine``, whatever the provider."""
    torch.set_num_threads(1)
    engine = TorchEngine(bundle, name)
    engine.observation[0] = bundle.spec.observation_normalisation()[0]
    for _ in range(warmup if engine.evaluations <= 16 else 2):
        engine.run()
    return engine
