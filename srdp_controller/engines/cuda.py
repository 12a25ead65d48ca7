"""The few CUDA calls that an engine needs, through ``cuda-python``; each failure names the call."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np

from srdp_controller.errors import EngineError


def import_cuda() -> ModuleType:
    """CUDA's run-time API (``cuda.bindings.runtime``, ``cuda.cudart`` before version 12.6).

    Raises:
        EngineError: cuda-python is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError as error:
            raise EngineError(f"cuda-python cannot be imported ({error}): pip install 'srdp_controller[gpu]'") from None
    return runtime  # type: ignore[no-any-return]


class Cuda:
    """A device's stream, buffers and graphs; ``close`` gives everything back."""

    def __init__(self) -> None:
        self._runtime: Any = import_cuda()
        self._hosts: list[int] = []
        self._devices: list[int] = []
        self._graph: Any = None
        self.stream: Any = None
        count = self._call("cudaGetDeviceCount")
        if count < 1:
            raise EngineError("there is no CUDA device; set provider:=cpu")
        least, greatest = self._call("cudaDeviceGetStreamPriorityRange")
        flags = self._runtime.cudaStreamNonBlocking
        self.stream = self._call("cudaStreamCreateWithPriority", flags, min(least, greatest))

    def _call(self, name: str, *arguments: Any) -> Any:
        """Result of a call, None, one value or a tuple.

        Raises:
            EngineError: CUDA answered with an error.
        """
        try:
            status, *answer = getattr(self._runtime, name)(*arguments)
        except RuntimeError as error:  # the driver's library is missing
            raise EngineError(f"{name}: {error}; is there a GPU and its driver?") from None
        if int(status) != 0:
            raise EngineError(f"{name}: {getattr(status, 'name', status)}; is there a GPU and its driver?")
        if not answer:
            return None
        return answer[0] if len(answer) == 1 else tuple(answer)

    def compute_capability(self) -> str:
        """Of the current device, such as ``8.7``."""
        attribute = self._runtime.cudaDeviceAttr
        device = self._call("cudaGetDevice")
        major = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, device)
        minor = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, device)
        return f"{major}.{minor}"

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Page-locked memory as an array of zeros, which copies to the device without a detour."""
        kind = np.dtype(dtype)
        size = max(1, int(np.prod(shape))) * kind.itemsize
        address = int(self._call("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault))
        self._hosts.append(address)
        array = np.frombuffer((ctypes.c_uint8 * size).from_address(address), kind).reshape(shape)
        array[...] = 0
        return array

    def device_buffer(self, size: int) -> int:
        """Address of device memory."""
        address = int(self._call("cudaMalloc", max(1, size)))
        self._devices.append(address)
        return address

    def upload(self, device: int, array: np.ndarray) -> None:
        """Queue a copy to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, array.ctypes.data, array.nbytes, kind, self.stream)

    def download(self, array: np.ndarray, device: int) -> None:
        """Queue a copy from the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, device, array.nbytes, kind, self.stream)

    def begin_capture(self) -> None:
        """Record what is queued from now on."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)

    def end_capture(self) -> None:
        """Make a graph of what was recorded."""
        graph = self._call("cudaStreamEndCapture", self.stream)
        try:
            self._graph = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self) -> None:
        """End a recording that failed; the stream is usable again."""
        try:
            self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", self.stream))
        except EngineError:
            self._runtime.cudaGetLastError()

    def launch(self) -> None:
        """Queue the whole graph with one call."""
        self._call("cudaGraphLaunch", self._graph, self.stream)

    def synchronise(self) -> None:
        """Wait for everything that is queued."""
        self._call("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        """Free everything; arrays made here must not be used afterwards."""
        runtime = self._runtime
        if self._graph is not None:
            runtime.cudaGraphExecDestroy(self._graph)
        for address in self._devices:
            runtime.cudaFree(address)
        for address in self._hosts:
            runtime.cudaFreeHost(address)
        if self.stream is not None:
            runtime.cudaStreamDestroy(self.stream)
        self._graph, self._devices, self._hosts, self.stream = None, [], [], None
