"""ONNX Runtime engine: one intra-op thread, no spinning, I/O binding on preallocated buffers."""

from __future__ import annotations

import contextlib
import functools
import io

import numpy as np
import onnxruntime

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.errors import EngineError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}
# a short graph is replayed as one CUDA graph: nothing is launched node by node
CUDA_GRAPH = {"cuda": "enable_cuda_graph", "tensorrt": "trt_cuda_graph_enable", "tensorrt_rtx": "enable_cuda_graph"}
# fp32 means fp32: by default the provider rounds what it multiplies to 10 bits (TF32)
SETTINGS = {"cuda": {"use_tf32": "0"}}
DEVICE = "cuda"
INPUTS = ("observation", "noise", "previous", "weights")  # the last two of guided policies only
LONG_EVALUATIONS, LONG_BYTES = 16, 16 * 2**20
onnxruntime.set_default_logger_severity(3)


def session_options() -> onnxruntime.SessionOptions:
    """ONNX Runtime's settings for one short evaluation at a time, as they measured best (docs/engines.md).

    One thread that computes and never spins, since these layers are too small to share.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@functools.cache
def _find_cuda() -> None:
    """Load CUDA's libraries where pip put them, in which ONNX Runtime does not look by itself."""
    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21
    # prints what it misses; a session that lacks it says so
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        if preload is not None:
            preload()


def create_session(graph: bytes, provider: str, where: str, cuda_graph: bool = False) -> onnxruntime.InferenceSession:
    """Session for verified graph bytes on ``provider`` (``cpu``, ``cuda``, ``tensorrt``, ``tensorrt_rtx``).

    Raises:
        EngineError: the provider is unknown or not in this installation, or the graph is refused.
    """
    wanted = PROVIDERS.get(provider)
    if wanted is None:
        raise EngineError(f"provider {provider!r} is unknown; choose one of: {', '.join(PROVIDERS)}")
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        usable = [name for name, full in PROVIDERS.items() if full in available]
        raise EngineError(
            f"provider {provider!r} ({wanted}) is not in this ONNX Runtime {onnxruntime.__version__}; "
            f"here: {', '.join(usable)}. Install onnxruntime-gpu in onnxruntime's place (docs/gpu.md), "
            "or set provider:=cpu"
        )
    if provider in ("cuda", "tensorrt"):
        _find_cuda()
    settings = SETTINGS.get(provider, {}) | ({CUDA_GRAPH[provider]: "1"} if cuda_graph else {})
    try:
        session = onnxruntime.InferenceSession(graph, session_options(), providers=[(wanted, settings)])
    except Exception as error:  # ONNX Runtime raises its own unexported exception types
        raise EngineError(f"{where}: ONNX Runtime refuses the graph: {str(error).splitlines()[0]}") from None
    if session.get_providers()[0] != wanted:
        raise EngineError(
            f"provider {provider!r} was asked for but ONNX Runtime fell back to {session.get_providers()[0]}; is there "
            "a GPU, with its driver and CUDA's libraries? pip install 'srdp_controller[gpu]'"
        )
    return session


class OnnxEngine:
    """A policy of a bundle on ONNX Runtime (see ``engine.Engine``).

    On a GPU a short graph is captured as a CUDA graph unless ``cuda_graph`` is false; one that cannot be captured is
    refused here or in the first run (``providers.create_engine`` then runs it node by node). One run samples
    ``candidates`` chunks.
    """

    observation: np.ndarray
    noise: np.ndarray
    action: np.ndarray
    latent: np.ndarray
    teacher_latent: np.ndarray

    def __init__(
        self, bundle: LoadedBundle, name: str, provider: str = "cpu", cuda_graph: bool = True, candidates: int = 1
    ) -> None:
        entry = bundle.policy(name)
        shapes = {key: (candidates, *shape[1:]) for key, shape in bundle.shapes(name).items()}
        graph, where = bundle.read(entry), str(bundle.folder / entry.file)
        # a run worth cancelling between two nodes, for which ONNX Runtime takes 25 us more (measured)
        is_long = entry.evaluations > LONG_EVALUATIONS or len(graph) > LONG_BYTES
        self.captured = cuda_graph and provider in CUDA_GRAPH and not is_long
        self.name, self.provider, self.evaluations = name, provider, entry.evaluations
        self._session = session = create_session(graph, provider, where, self.captured)
        found = {argument.name: argument.shape for argument in [*session.get_inputs(), *session.get_outputs()]}
        for key, shape in shapes.items():
            if key not in found:
                raise EngineError(f"{where}: the graph lacks {key}; it has {', '.join(found)}")
            # a size that is not fixed, such as the batch's, has a name
            fixed = {place: size for place, size in enumerate(found[key]) if isinstance(size, int)}
            if len(found[key]) != len(shape) or any(shape[place] != size for place, size in fixed.items()):
                raise EngineError(f"{where}: {key} is {found[key]}, the bundle's spec says {shape}")
        if len(found) > len(shapes):
            raise EngineError(f"{where}: the graph has {', '.join(found)}; expected {', '.join(shapes)}")
        for key, shape in shapes.items():
            setattr(self, key, np.zeros(shape, dtype=np.float32))
        self._options = onnxruntime.RunOptions() if is_long else None
        self._cancelled = False
        self._binding = session.io_binding()
        self._values: dict[str, onnxruntime.OrtValue] = {}
        # a CUDA graph reads and writes the device's memory, always in the same place
        place = (DEVICE, 0) if self.captured else ()
        for key in shapes:
            self._values[key] = value = onnxruntime.OrtValue.ortvalue_from_numpy(getattr(self, key), *place)
            bind = self._binding.bind_ortvalue_input if key in INPUTS else self._binding.bind_ortvalue_output
            bind(key, value)
        # to a GPU an input is copied when it is bound, not when the graph runs
        self._rebound = [key for key in shapes if key in INPUTS] if provider != "cpu" and not self.captured else []

    def run(self) -> None:
        """Evaluate the policy once on the buffers."""
        try:
            if self.captured:
                self._replay()
            else:
                for key in self._rebound:
                    self._binding.bind_ortvalue_input(key, self._values[key])
                self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime raises its own unexported exception types
            reason = "cancelled" if self._cancelled else str(error).splitlines()[0]
            self._forget_cancel()
            raise EngineError(f"engine {self.name}: {reason}") from None
        if self._cancelled:
            self._forget_cancel()
            raise EngineError(f"engine {self.name}: cancelled")

    def _replay(self) -> None:
        values = self._values
        for key, value in values.items():
            if key in INPUTS:
                value.update_inplace(getattr(self, key))
        self._session.run_with_iobinding(self._binding)
        for key, value in values.items():
            if key not in INPUTS:
                np.copyto(getattr(self, key), value.numpy())

    def cancel(self) -> None:
        """Make a ``run`` under way in another thread raise: a long one before its next node, a short one at its end."""
        self._cancelled = True
        if self._options is not None:
            self._options.terminate = True

    def _forget_cancel(self) -> None:
        self._cancelled = False
        if self._options is not None:
            self._options.terminate = False


class BatchedPolicy:
    """A policy of a bundle on batches, for evaluation: (B, obs_dim), (B, *noise_shape) -> chunk.

    A guided policy takes ``previous`` (B, horizon, act_dim) and ``weights`` (B, horizon) after them.
    """

    def __init__(self, bundle: LoadedBundle, name: str, threads: int = 1) -> None:
        entry = bundle.policy(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(bundle.read(entry), options, providers=["CPUExecutionProvider"])
        self.noise_shape = entry.noise_shape
        self._inputs = INPUTS if entry.guided else INPUTS[:2]

    def __call__(self, observation: np.ndarray, noise: np.ndarray, *guidance: np.ndarray) -> np.ndarray:
        """Chunk (B, horizon, act_dim), raw SI units."""
        action, _, _ = self.all(observation, noise, *guidance)
        return action

    def all(
        self, observation: np.ndarray, noise: np.ndarray, *guidance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chunk, latent and teacher latent."""
        given = zip(self._inputs, (observation, noise, *guidance), strict=True)
        action, latent, teacher_latent = self._session.run(
            ["action", "latent", "teacher_latent"], {key: values.astype(np.float32) for key, values in given}
        )
        return action, latent, teacher_latent
