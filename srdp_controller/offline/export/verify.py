"""Checks a bundle where it is: hashes, and each engine against an evaluation of its own.

The reference runs the same graph node by node in numpy (onnx's reference evaluator), so a robot without
torch can tell whether its run times compute what was exported. PyTorch against the graph is part of the export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.engines.engine import Engine
from srdp_controller.engines.providers import EngineOptions, create_engine, usable_providers
from srdp_controller.errors import EngineError, SrdpError

# largest difference of an action [SI; of its scale where that is above 1] or latent; half precision: three digits
TOLERANCES = {"fp32": 5e-4, "fp16": 2e-2}
FEW = 16  # evaluations of the network an action; of more, one action is compared: numpy takes 10 s for 100 of a U-Net


def _create(provider: str, options: EngineOptions, bundle: LoadedBundle, name: str) -> Engine:
    return create_engine(bundle, name, provider, options)


def verify_bundle(
    folder: str | Path,
    samples: int = 8,
    providers: list[str] | None = None,
    options: EngineOptions | None = None,
    others: Mapping[str, Callable[[LoadedBundle, str], Engine]] | None = None,
) -> dict[str, Any]:
    """Verify hashes, and every policy's engines at ``samples`` states; keys as in the JSON contract, and ``left_out``.

    ``providers`` must work where they are named; by default those that can be used here are checked, and
    ``others``, by name.

    Raises:
        SrdpError: damaged bundle, a named provider cannot be used, or the ``onnx`` package is not installed.
    """
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError:
        raise SrdpError("verify needs the onnx package: pip install 'srdp_controller[sim]'") from None
    options = options or EngineOptions()
    tolerance = TOLERANCES[options.precision]
    bundle = load_bundle(folder)
    bundle.calibration()
    centre, scale = bundle.spec.observation_normalisation()
    units = (np.maximum(1.0, bundle.spec.action_normalisation()[1]), 1.0)
    policies: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, entry in bundle.content.policies.items():
        rng = np.random.default_rng(0)
        count = samples if entry.evaluations <= FEW else 1
        states = (centre + scale * rng.standard_normal((count, len(centre)))).astype(np.float32)
        noise = rng.standard_normal((count, *entry.noise_shape)).astype(np.float32)
        guidance = {  # nothing to go on from, as in the engines' own buffers
            key: np.zeros(shape, np.float32)
            for key, shape in bundle.shapes(name).items()
            if key in ("previous", "weights")
        }
        reference = ReferenceEvaluator(onnx.load_from_string(bundle.read(entry)))
        with np.errstate(over="ignore"):  # its sigmoid overflows on the way to zero
            wanted = [
                reference.run(
                    ["action", "latent"], {"observation": states[i : i + 1], "noise": noise[i : i + 1], **guidance}
                )
                for i in range(count)
            ]
        policies[name] = {}
        loaders: dict[str, Callable[[LoadedBundle, str], Engine]] = {
            provider: partial(_create, provider, options) for provider in providers or usable_providers()
        }
        for provider, load in {**loaders, **(others or {})}.items():
            try:
                engine = load(bundle, name)
            except EngineError as error:
                if providers:
                    raise
                left_out[provider] = str(error)
                continue
            worst = 0.0
            for i in range(count):
                engine.observation[0], engine.noise[0] = states[i], noise[i]
                engine.run()
                for found, expected, unit in zip((engine.action, engine.latent), wanted[i], units, strict=True):
                    worst = max(worst, float((np.abs(found - expected) / unit).max()))
            policies[name][provider] = {"max_abs_error": worst, "tolerance": tolerance, "passed": worst <= tolerance}
    return {"policies": policies, "hashes_ok": True, "left_out": left_out}
