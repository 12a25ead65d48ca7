"""Builds TensorRT engines: one code path for ``tensorrt`` (10.3 to 11) and ``tensorrt_rtx``.

Networks are strongly typed, so that precision is a matter of the graph alone (``precision.convert``).
TensorRT-RTX builds ahead of time for any GPU, without one; TensorRT builds for the GPU that it finds.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.engine_cache import EngineKey
from srdp_controller.errors import EngineError

WORKSPACE_BYTES = 256 * 2**20
SOURCES = {  # flavour -> where it comes from
    "tensorrt": "it comes with JetPack, or from NVIDIA's own packages",
    "tensorrt_rtx": "pip install 'srdp_controller[gpu]'",
}


def import_flavour(flavour: str) -> ModuleType:
    """The Python module of a flavour.

    Raises:
        EngineError: unknown, or not installed; the message says where it comes from.
    """
    if flavour not in SOURCES:
        raise EngineError(f"flavour {flavour!r} is unknown; choose one of: {', '.join(SOURCES)}")
    try:
        return importlib.import_module(flavour)
    except ImportError as error:
        raise EngineError(f"{flavour} cannot be imported ({error}): {SOURCES[flavour]}") from None


class Messages:
    """Collects what TensorRT says, because its calls only answer "failed"."""

    def __init__(self, module: Any) -> None:
        severities = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)
        lines = self.lines = list[str]()

        class Logger(module.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in severities:
                    lines.append(message)

        self.logger = Logger()

    def last(self) -> str:
        """The last error's first line."""
        return self.lines[-1].splitlines()[0] if self.lines else "TensorRT gave no reason"


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine and how long it took [s]."""

    plan: bytes
    seconds: float


def build(graph: bytes, flavour: str, compute_capability: str, where: str) -> BuiltEngine:
    """Build an engine of batch one from an ONNX graph.

    ``compute_capability`` such as ``8.7`` is the GPU to build for; empty: the one in this machine.

    Raises:
        EngineError: no such flavour, the graph is refused, or the GPU cannot be built for.
    """
    module: Any = import_flavour(flavour)
    messages = Messages(module)
    started = time.monotonic()
    builder = module.Builder(messages.logger)
    if builder is None:
        raise EngineError(f"{where}: {flavour}: {messages.last()}")
    # TensorRT 10 has to be told; later every network is strongly typed
    strongly_typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = module.OnnxParser(network, messages.logger)
    if not parser.parse(graph):
        errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise EngineError(f"{where}: {flavour} refuses the graph: {errors[0] if errors else messages.last()}")
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        tensor.shape = (1, *tuple(tensor.shape)[1:])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if hasattr(module.BuilderFlag, "TF32"):  # fp32 means fp32: for one row it would save nothing
        config.clear_flag(module.BuilderFlag.TF32)
    if compute_capability:
        _target(module, config, flavour, compute_capability)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{where}: {flavour} cannot build it: {messages.last()}")
    return BuiltEngine(bytes(plan), time.monotonic() - started)


def _target(module: Any, config: Any, flavour: str, compute_capability: str) -> None:
    kinds = getattr(module, "ComputeCapability", None)
    if kinds is None or flavour == "tensorrt":
        raise EngineError(
            f"{flavour} builds for the GPU of the machine it runs on; run build-engine there, without "
            "--compute-capability, or use the flavour tensorrt_rtx"
        )
    kind = getattr(kinds, f"SM{compute_capability.replace('.', '')}", None)
    if kind is None:
        known = sorted(name[2:-1] + "." + name[-1] for name in kinds.__members__ if name.startswith("SM"))
        raise EngineError(f"--compute-capability {compute_capability}: {flavour} knows {', '.join(known)}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(kind, 0)


def key_of(bundle: LoadedBundle, policy: str, flavour: str, compute_capability: str, precision: str) -> EngineKey:
    """Key of a policy's engine with the installed version of a flavour."""
    version = str(import_flavour(flavour).__version__)
    return EngineKey(policy, bundle.policy(policy).sha256, flavour, version, compute_capability, precision)
