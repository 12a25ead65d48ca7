"""TensorRT's own run time; runs where there is a GPU and one of the flavours."""

import threading
import time

import numpy as np
import pytest

from srdp_controller.engines.engine_cache import cache_folder
from srdp_controller.engines.providers import NATIVE, EngineOptions, load_engine
from srdp_controller.engines.tensorrt_build import import_flavour
from srdp_controller.errors import EngineError

pytestmark = pytest.mark.gpu


@pytest.fixture(params=NATIVE)
def flavour(request, needs_gpu):
    try:
        import_flavour(request.param)
    except EngineError as error:
        pytest.skip(str(error))
    return request.param


@pytest.mark.parametrize("name", ["student_k1", "student_k2", "student_k4", "student_k8", "teacher"])
def test_an_engine_answers_as_the_cpu_does(bundle, flavour, name, tmp_path):
    reference = load_engine(bundle, name, "cpu")
    engine = load_engine(bundle, name, flavour, EngineOptions(cache=str(tmp_path)))
    rng = np.random.default_rng(0)
    centre, scale = bundle.spec.observation_normalisation()
    for _ in range(20):
        observation, noise = centre + scale * rng.standard_normal(len(centre)), rng.standard_normal(engine.noise.shape)
        for each in (reference, engine):
            each.observation[0], each.noise[:] = observation, noise
            each.run()
        np.testing.assert_allclose(engine.action, reference.action, atol=5e-4)
        np.testing.assert_allclose(engine.latent, reference.latent, atol=5e-4)


@pytest.mark.parametrize("name", ["student_k1", "student_k8"])
def test_a_students_evaluation_is_one_cuda_graph(bundle, flavour, name, tmp_path):
    assert load_engine(bundle, name, flavour, EngineOptions(cache=str(tmp_path))).captured


def test_the_second_start_takes_the_cached_engine(bundle, flavour, tmp_path):
    options = EngineOptions(cache=str(tmp_path))
    load_engine(bundle, "student_k4", flavour, options)
    (path,) = tmp_path.glob("*.engine")
    built = path.stat().st_mtime_ns
    load_engine(bundle, "student_k4", flavour, options)
    assert path.stat().st_mtime_ns == built
    assert cache_folder(bundle, str(tmp_path)) == tmp_path


def test_a_cancelled_run_raises_and_the_next_one_answers(bundle, flavour, tmp_path):
    engine = load_engine(bundle, "teacher", flavour, EngineOptions(cache=str(tmp_path)))
    raised = []

    def run():
        try:
            for _ in range(1000):
                engine.run()
        except EngineError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.01)
    engine.cancel()
    thread.join()
    assert raised and "cancelled" in raised[0]
    engine.run()
    assert np.isfinite(engine.action).all()
