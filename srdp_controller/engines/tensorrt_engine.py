"""Runs a TensorRT or TensorRT-RTX engine: page-locked buffers, one CUDA graph for copies and network."""

from __future__ import annotations

from typing import Any

import numpy as np

from srdp_controller.engines import engine_cache
from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.cuda import Cuda
from srdp_controller.engines.tensorrt_build import Messages, build, import_flavour, key_of
from srdp_controller.errors import EngineError


def find_or_build(bundle: LoadedBundle, name: str, flavour: str, capability: str, precision: str, cache: str) -> bytes:
    """The cached engine of a policy, built now where there is none.

    Raises:
        EngineError: it is damaged, or cannot be built or kept.
    """
    folder = engine_cache.cache_folder(bundle, cache)
    key = key_of(bundle, name, flavour, capability, precision)
    plan = engine_cache.find(folder, key)
    if plan is None:
        if precision != "fp32":  # converting needs packages that a robot lacks
            raise EngineError(
                f"{folder / key.file_name}: not there; build it with `srdp build-engine {bundle.folder} "
                f"--flavour {flavour} --precision {precision}`"
            )
        entry = bundle.policy(name)
        built = build(bundle.read(entry), flavour, "", str(bundle.folder / entry.file))
        engine_cache.store(folder, key, built.plan, {"build_s": built.seconds})
        plan = built.plan
    return plan


class TensorRtEngine:
    """A policy of a bundle on TensorRT (see ``engine.Engine``); one thread at a time.

    The buffers that the controller fills are page-locked, and a CUDA graph holds both copies and the
    network, so that an evaluation is one launch and one wait. Where a network cannot be captured (a loop
    whose trip count is computed on the device) its parts are queued one by one.
    """

    def __init__(self, bundle: LoadedBundle, name: str, flavour: str, precision: str = "fp32", cache: str = "") -> None:
        self.name, self.provider, self.evaluations = name, flavour, bundle.policy(name).evaluations
        self._cancelled = False
        if bundle.policy(name).guided:
            raise EngineError(f"engine {name}: guided by the chunk in force, which {flavour} is not made for; use cpu")
        module: Any = import_flavour(flavour)
        self._cuda = cuda = Cuda()
        try:
            plan = find_or_build(bundle, name, flavour, cuda.compute_capability(), precision, cache)
            messages = Messages(module)
            self._runtime = module.Runtime(messages.logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(f"engine {name}: {flavour} refuses its own cached engine: {messages.last()}")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"engine {name}: {flavour} cannot run it: {messages.last()}")
            self._buffers: list[tuple[np.ndarray, int]] = []  # on the host and on the device; two inputs, three outputs
            for key, shape in bundle.shapes(name).items():
                self._require_shape(name, key, shape)
                array = cuda.host_array(shape, np.float32)
                device = cuda.device_buffer(array.nbytes)
                self._context.set_tensor_address(key, device)
                self._buffers.append((array, device))
            self.observation, self.noise, self.action, self.latent, self.teacher_latent = (
                array for array, _ in self._buffers
            )
            self._queue()  # once before it is recorded: first use may allocate
            cuda.synchronise()
            self.captured = self._capture()
        except BaseException:
            cuda.close()
            raise

    def _require_shape(self, name: str, key: str, shape: tuple[int, ...]) -> None:
        names = {self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)}
        if key not in names:
            raise EngineError(f"engine {name}: lacks {key}; it has {', '.join(sorted(names))}")
        found = tuple(self._engine.get_tensor_shape(key))
        if found != shape:
            raise EngineError(f"engine {name}: {key} is {found}, the bundle's spec says {shape}; rebuild it")

    def _queue(self) -> None:
        cuda = self._cuda
        for array, device in self._buffers[:2]:
            cuda.upload(device, array)
        if not self._context.execute_async_v3(int(cuda.stream)):
            raise EngineError(f"engine {self.name}: {self.provider} could not run it")
        for array, device in self._buffers[2:]:
            cuda.download(array, device)

    def _capture(self) -> bool:
        try:
            self._cuda.begin_capture()
            self._queue()
            self._cuda.end_capture()
        except EngineError:
            self._cuda.abandon_capture()
            self._queue()
            self._cuda.synchronise()
            return False
        return True

    def run(self) -> None:
        """Evaluate the policy once on the buffers."""
        if self.captured:
            self._cuda.launch()
        else:
            self._queue()
        self._cuda.synchronise()
        if self._cancelled:
            self._cancelled = False
            raise EngineError(f"engine {self.name}: cancelled")

    def cancel(self) -> None:
        """Make a ``run`` under way in another thread raise when the device is done with it."""
        self._cancelled = True

    def __del__(self) -> None:
        cuda = getattr(self, "_cuda", None)
        if cuda is not None:
            self._context = self._engine = None  # before the memory that they point to
            cuda.close()
