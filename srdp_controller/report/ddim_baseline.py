"""Plain DDIM with N steps of the bundle's own teacher: the baseline without distillation.

The teacher graph's loop tables are re-made for the skipped timesteps, so the baseline runs on the same
weights and the same runtime as the teacher itself.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.errors import SrdpError


class DdimBaseline:
    """Batched policy: (B, obs_dim), (B, 1, horizon, act_dim) -> chunk (B, horizon, act_dim)."""

    def __init__(self, bundle: LoadedBundle, steps: int) -> None:
        try:
            import onnx
        except ImportError:
            raise SrdpError("ddim_kN needs the onnx package: pip install 'srdp_controller[sim]'") from None
        from srdp_controller.engines.teacher_graph import skip_steps

        entry = bundle.policy("teacher")
        if not 1 <= steps <= entry.steps:
            raise SrdpError(f"ddim_k{steps}: the teacher has {entry.steps} steps")
        model = skip_steps(onnx.load_from_string(bundle.read(entry)), steps)
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.noise_shape = entry.noise_shape

    def __call__(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Chunk (B, horizon, act_dim), raw SI units."""
        (action,) = self._session.run(
            ["action"], {"observation": observation.astype(np.float32), "noise": noise.astype(np.float32)}
        )
        return np.asarray(action)
