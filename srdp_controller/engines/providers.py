"""Which engine runs a policy: ONNX Runtime on a processor or GPU, or TensorRT's own run time."""

from __future__ import annotations

import contextlib
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import onnxruntime

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.engine import Engine
from srdp_controller.engines.onnx_engine import CUDA_GRAPH, PROVIDERS, OnnxEngine
from srdp_controller.errors import EngineError

NATIVE = ("tensorrt", "tensorrt_rtx")  # preferred to ONNX Runtime's providers of these names where installed
# what ONNX Runtime's providers load; onnxruntime-gpu names them as available without it
LIBRARIES = {"tensorrt": "nvinfer", "tensorrt_rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class EngineOptions:
    """What an operator may say about engines beside the provider."""

    cache: str = ""  # folder of built TensorRT engines; empty: beside the bundle
    precision: str = "fp32"  # of TensorRT engines; others than fp32 must have been built before
    fall_back: bool = False  # use the CPU where the provider cannot be used
    candidates: int = 1  # chunks that one run samples


DEFAULT = EngineOptions()


def usable_providers() -> list[str]:
    """Providers that are installed here; whether there is a GPU shows when an engine is loaded."""
    available = onnxruntime.get_available_providers()
    return [
        name
        for name, full in PROVIDERS.items()
        if (name in NATIVE and find_spec(name))
        or (full in available and (name not in LIBRARIES or find_library(LIBRARIES[name])))
    ]


def create_engine(bundle: LoadedBundle, name: str, provider: str, options: EngineOptions = DEFAULT) -> Engine:
    """The engine of a policy on a provider, not warmed up.

    Raises:
        BundleError, EngineError: with the reason; never another provider unless ``options.fall_back``.
    """
    try:
        here = onnxruntime.get_available_providers()
        if provider in NATIVE and (find_spec(provider) or PROVIDERS[provider] not in here):
            from srdp_controller.engines.tensorrt_engine import TensorRtEngine

            if options.candidates > 1:
                raise EngineError(
                    f"engine {name}: {provider} engines are built for one chunk a run, sampling.candidates asks for "
                    f"{options.candidates}; set it to 1, or use cpu or cuda"
                )
            return TensorRtEngine(bundle, name, provider, options.precision, options.cache)
        if options.precision != "fp32":
            raise EngineError(f"precision {options.precision} is for tensorrt and tensorrt_rtx; provider is {provider}")
        return _captured_where_possible(bundle, name, provider, options.candidates)
    except EngineError:
        if not options.fall_back or provider == "cpu" or provider not in PROVIDERS:
            raise
        return OnnxEngine(bundle, name, "cpu", candidates=options.candidates)


def _captured_where_possible(bundle: LoadedBundle, name: str, provider: str, candidates: int) -> OnnxEngine:
    """An engine that replays a CUDA graph; whether one can be captured shows in the first run at the latest."""
    if provider in CUDA_GRAPH:
        # the device's memory, the session and the capture raise types of their own
        with contextlib.suppress(Exception):
            engine = OnnxEngine(bundle, name, provider, candidates=candidates)
            if engine.captured:
                engine.run()
            return engine
    return OnnxEngine(bundle, name, provider, cuda_graph=False, candidates=candidates)


def load_engine(
    bundle: LoadedBundle, name: str, provider: str, options: EngineOptions = DEFAULT, warmup: int = 20
) -> Engine:
    """Load, verify and warm up a policy; what it answers must be finite.

    Raises:
        BundleError, EngineError: with the reason.
    """
    engine = create_engine(bundle, name, provider, options)
    centre, _ = bundle.spec.observation_normalisation()
    engine.observation[:] = centre
    for _ in range(warmup if engine.evaluations <= 16 else max(2, warmup // 10)):
        engine.run()
    if not np.isfinite(engine.action).all():
        raise EngineError(f"engine {name}: answers NaN or infinity to a nominal observation; rebuild the bundle")
    return engine
