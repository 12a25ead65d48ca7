"""Few-step samplers without distillation, on the bundle's own teacher: plain DDIM and DPM-Solver++.

Both are made of the teacher's ONNX graph, so the baselines run on the same weights and the same
runtime as the teacher itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from srdp_controller.engines.bundle import LoadedBundle, PolicyEntry
from srdp_controller.errors import SrdpError


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise SrdpError("ddim_kN and dpm_kN need the onnx package: pip install 'srdp_controller[sim]'") from None
    return onnx


def _teacher(bundle: LoadedBundle, name: str, steps: int) -> PolicyEntry:
    entry = bundle.policy("teacher")
    if not 1 <= steps <= entry.steps:
        raise SrdpError(f"{name}_k{steps}: the teacher has {entry.steps} steps")
    return entry


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class DdimBaseline:
    """Batched policy: (B, obs_dim), (B, 1, horizon, act_dim) -> chunk (B, horizon, act_dim)."""

    def __init__(self, bundle: LoadedBundle, steps: int) -> None:
        onnx = _onnx()
        from srdp_controller.offline.export.teacher_graph import skip_steps

        entry = _teacher(bundle, "ddim", steps)
        model = skip_steps(onnx.load_from_string(bundle.read(entry)), steps)
        self._session = _session(model.SerializeToString())
        self.noise_shape = entry.noise_shape

    def __call__(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Chunk (B, horizon, act_dim), raw SI units."""
        (action,) = self._session.run(
            ["action"], {"observation": observation.astype(np.float32), "noise": noise.astype(np.float32)}
        )
        return np.asarray(action)


class DpmSolverBaseline:
    """DPM-Solver++ (Lu et al., 2022), second order, K steps, from ``diffusers``; a batched policy as above.

    Clean estimates are clipped as in plain DDIM, without which one step from pure noise blows up.
    """

    def __init__(self, bundle: LoadedBundle, steps: int) -> None:
        onnx = _onnx()
        try:
            from diffusers import DPMSolverMultistepScheduler
        except ImportError:
            raise SrdpError("dpm_kN needs diffusers and torch: pip install 'srdp_controller[train]'") from None
        from srdp_controller.offline.export.teacher_graph import clean_estimate, read_process

        entry = _teacher(bundle, "dpm", steps)
        graph = bundle.read(entry)
        alpha_bar, _ = read_process(onnx.load_from_string(graph))
        betas = 1.0 - alpha_bar[1:] / alpha_bar[:-1]
        self._scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=entry.steps,
            trained_betas=betas.tolist(),
            algorithm_type="dpmsolver++",
            solver_order=2,
            prediction_type="sample",
            timestep_spacing="trailing",
            lower_order_final=True,
        )
        self._steps = steps
        self._scheduler.set_timesteps(steps)
        self._estimates = {}
        for t in self._scheduler.timesteps.tolist():
            model = clean_estimate(onnx.load_from_string(graph), t + 1)  # diffusers counts from 0
            self._estimates[t] = _session(model.SerializeToString())
        self._centre, self._scale = bundle.spec.action_normalisation()
        self.noise_shape = entry.noise_shape

    def __call__(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Chunk (B, horizon, act_dim), raw SI units."""
        import torch

        self._scheduler.set_timesteps(self._steps)
        observation = observation.astype(np.float32)
        a = torch.from_numpy(noise.astype(np.float32))
        for t in self._scheduler.timesteps:
            session = self._estimates[int(t)]
            (clean,) = session.run(["action"], {"observation": observation, "noise": a.numpy()})
            normalised = torch.from_numpy((clean - self._centre) / self._scale)[:, None]
            a = self._scheduler.step(normalised, t, a).prev_sample
        action: np.ndarray = a[:, 0].numpy() * self._scale + self._centre
        return action
