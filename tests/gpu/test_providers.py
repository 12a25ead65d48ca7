"""Parity of GPU providers with the CPU graph; runs where there is a GPU."""

import numpy as np
import onnxruntime
import pytest

from srdp_controller.engines.onnx_engine import PROVIDERS, OnnxEngine
from srdp_controller.engines.providers import EngineOptions, load_engine, usable_providers
from srdp_controller.errors import EngineError

pytestmark = pytest.mark.gpu


def answers_agree(bundle, reference, engine):
    """Both engines' answers to the same random observations and noise."""
    rng = np.random.default_rng(0)
    centre, scale = bundle.spec.observation_normalisation()
    for _ in range(20):
        observation = centre + scale * rng.standard_normal(len(centre))
        noise = rng.standard_normal(reference.noise.shape)
        for each in (reference, engine):
            each.observation[:], each.noise[:] = observation, noise
            each.run()
        np.testing.assert_allclose(engine.action, reference.action, atol=5e-4)
        np.testing.assert_allclose(engine.latent, reference.latent, atol=5e-4)


@pytest.fixture
def cuda(needs_gpu):
    if "cuda" not in usable_providers():
        pytest.skip("CUDAExecutionProvider is not in this ONNX Runtime: install onnxruntime-gpu")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("name", ["student_k1", "student_k4", "teacher"])
def test_a_gpu_provider_answers_as_the_cpu_does(bundle, needs_gpu, name, provider):
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        pytest.skip(f"{PROVIDERS[provider]} is not in this ONNX Runtime: no GPU here, or install onnxruntime-gpu")
    if provider not in usable_providers():
        pytest.skip(f"{PROVIDERS[provider]} is in this ONNX Runtime, the library that it loads is not installed")
    answers_agree(bundle, load_engine(bundle, name, "cpu"), load_engine(bundle, name, provider))


def test_a_student_that_is_not_captured_reads_its_inputs_in_every_run(bundle, cuda):
    engine = OnnxEngine(bundle, "student_k4", "cuda", cuda_graph=False)
    answers_agree(bundle, load_engine(bundle, "student_k4", "cpu"), engine)


@pytest.mark.parametrize("name", ["student_k1", "student_k4"])
def test_candidates_are_the_cpus(bundle, cuda, name):
    options = EngineOptions(candidates=64)
    reference, engine = (load_engine(bundle, name, provider, options) for provider in ("cpu", "cuda"))
    assert engine.captured
    answers_agree(bundle, reference, engine)


@pytest.mark.parametrize("name", ["student_k1", "teacher"])
def test_a_cancelled_run_raises_and_the_next_one_answers(bundle, cuda, name):
    engine = load_engine(bundle, name, "cuda")
    engine.cancel()
    with pytest.raises(EngineError, match="cancelled"):
        engine.run()
    engine.run()
    assert np.isfinite(engine.action).all()
