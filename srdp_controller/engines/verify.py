"""Checks a bundle where it is: hashes, and each engine against an independent float64 evaluation.

The reference runs the same graph node by node in numpy (onnx's reference evaluator when installed),
so a robot without torch can tell whether its runtime computes what was exported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.onnx_engine import OnnxEngine
from srdp_controller.errors import SrdpError

TOLERANCE = 5e-4


def verify_bundle(folder: str | Path, samples: int = 8) -> dict[str, Any]:
    """Verify hashes and the CPU engine of every policy; keys as in the JSON contract.

    Raises:
        SrdpError: damaged bundle, or the ``onnx`` package is not installed.
    """
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError:
        raise SrdpError("verify needs the onnx package: pip install 'srdp_controller[sim]'") from None
    bundle = load_bundle(folder)
    bundle.calibration()
    rng = np.random.default_rng(0)
    centre, scale = bundle.spec.observation_normalisation()
    policies: dict[str, Any] = {}
    for name, entry in bundle.content.policies.items():
        engine = OnnxEngine(bundle, name, "cpu")
        reference = ReferenceEvaluator(onnx.load_from_string(bundle.read(entry)))
        worst = 0.0
        for _ in range(samples):
            engine.observation[0] = centre + scale * rng.standard_normal(len(centre)).astype(np.float32)
            engine.noise[:] = rng.standard_normal(engine.noise.shape)
            engine.run()
            action, latent, _ = reference.run(
                ["action", "latent", "teacher_latent"], {"observation": engine.observation, "noise": engine.noise}
            )
            worst = max(worst, float(np.abs(action - engine.action).max()), float(np.abs(latent - engine.latent).max()))
        policies[name] = {"cpu": {"max_abs_error": worst, "tolerance": TOLERANCE, "passed": worst <= TOLERANCE}}
    return {"policies": policies, "hashes_ok": True}
