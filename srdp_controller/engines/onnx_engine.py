"""ONNX Runtime engine: one intra-op thread, no spinning, I/O binding on preallocated buffers."""

from __future__ import annotations

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
onnxruntime.set_default_logger_severity(3)


def create_session(graph: bytes, provider: str, where: str) -> onnxruntime.InferenceSession:
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
            f"here: {', '.join(usable)}. Install onnxruntime-gpu, or set provider:=cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[wanted])
    except Exception as error:  # ONNX Runtime raises its own unexported exception types
        raise EngineError(f"{where}: ONNX Runtime refuses the graph: {str(error).splitlines()[0]}") from None
    if session.get_providers()[0] != wanted:
        raise EngineError(
            f"provider {provider!r} was asked for but ONNX Runtime fell back to {session.get_providers()[0]}"
        )
    return session


class OnnxEngine:
    """A policy of a bundle on ONNX Runtime (see ``engine.Engine``)."""

    def __init__(self, bundle: LoadedBundle, name: str, provider: str = "cpu") -> None:
        entry = bundle.policy(name)
        where = str(bundle.folder / entry.file)
        session = create_session(bundle.read(entry), provider, where)
        self.name = name
        self.provider = provider
        self.evaluations = entry.evaluations
        spec = bundle.spec
        n_noise, horizon, act_dim = entry.noise_shape
        expected = {
            "observation": (1, spec.obs_dim),
            "noise": (1, n_noise, horizon, act_dim),
            "action": (1, spec.horizon, spec.act_dim),
            "latent": (1, entry.latent_dim),
            "teacher_latent": (1, entry.latent_dim),
        }
        for argument in [*session.get_inputs(), *session.get_outputs()]:
            shape = expected.get(argument.name)
            if (
                shape is None
                or len(argument.shape) != len(shape)
                or any(
                    isinstance(size, int) and size != wanted for size, wanted in zip(argument.shape, shape, strict=True)
                )
            ):
                raise EngineError(f"{where}: {argument.name} is {argument.shape}, the bundle's spec says {shape}")
        missing = set(expected) - {argument.name for argument in [*session.get_inputs(), *session.get_outputs()]}
        if missing:
            raise EngineError(f"{where}: the graph lacks {', '.join(sorted(missing))}")
        self.observation, self.noise, self.action, self.latent, self.teacher_latent = (
            np.zeros(shape, dtype=np.float32) for shape in expected.values()
        )
        self._session = session
        self._options = onnxruntime.RunOptions()
        self._binding = session.io_binding()
        self._values = []
        for key in expected:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(getattr(self, key))
            self._values.append(value)
            if key in ("observation", "noise"):
                self._binding.bind_ortvalue_input(key, value)
            else:
                self._binding.bind_ortvalue_output(key, value)

    def run(self) -> None:
        """Evaluate the policy once on the buffers."""
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime raises its own unexported exception types
            cancelled = self._options.terminate
            self._options.terminate = False
            reason = "cancelled" if cancelled else str(error).splitlines()[0]
            raise EngineError(f"engine {self.name}: {reason}") from None

    def cancel(self) -> None:
        """Make a ``run`` under way in another thread stop before its next node."""
        self._options.terminate = True


def load_engine(bundle: LoadedBundle, name: str, provider: str, warmup: int = 20) -> OnnxEngine:
    """Load, verify and warm up a policy; what it answers must be finite.

    Raises:
        BundleError, EngineError: with the reason.
    """
    engine = OnnxEngine(bundle, name, provider)
    centre, _ = bundle.spec.observation_normalisation()
    engine.observation[0] = centre
    for _ in range(warmup if engine.evaluations <= 16 else max(2, warmup // 10)):
        engine.run()
    if not np.isfinite(engine.action).all():
        raise EngineError(f"engine {name}: answers NaN or infinity to a nominal observation; rebuild the bundle")
    return engine


class BatchedPolicy:
    """A policy of a bundle on batches, for evaluation: (B, obs_dim), (B, *noise_shape) -> chunk."""

    def __init__(self, bundle: LoadedBundle, name: str, threads: int = 1) -> None:
        entry = bundle.policy(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(bundle.read(entry), options, providers=["CPUExecutionProvider"])
        self.noise_shape = entry.noise_shape

    def __call__(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Chunk (B, horizon, act_dim), raw SI units."""
        action, _, _ = self.all(observation, noise)
        return action

    def all(self, observation: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chunk, latent and teacher latent."""
        action, latent, teacher_latent = self._session.run(
            ["action", "latent", "teacher_latent"],
            {"observation": observation.astype(np.float32), "noise": noise.astype(np.float32)},
        )
        return action, latent, teacher_latent
