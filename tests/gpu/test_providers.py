"""Parity of GPU providers with the CPU graph; runs where there is a GPU."""

import numpy as np
import onnxruntime
import pytest

from srdp_controller.engines.onnx_engine import PROVIDERS
from srdp_controller.engines.providers import load_engine, usable_providers

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("name", ["student_k1", "student_k4", "teacher"])
def test_a_gpu_provider_answers_as_the_cpu_does(bundle, needs_gpu, name, provider):
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        pytest.skip(f"{PROVIDERS[provider]} is not in this ONNX Runtime: no GPU here, or install onnxruntime-gpu")
    if provider not in usable_providers():
        pytest.skip(f"{PROVIDERS[provider]} is in this ONNX Runtime, the library that it loads is not installed")
    reference, engine = load_engine(bundle, name, "cpu"), load_engine(bundle, name, provider)
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = rng.standard_normal(reference.noise.shape)
        for each in (reference, engine):
            each.noise[:] = noise
            each.run()
        np.testing.assert_allclose(engine.action, reference.action, atol=2e-3)
