import importlib.util
import json
import shutil

import pytest

from srdp_controller.engines import engine_cache
from srdp_controller.engines.engine_cache import EngineKey
from srdp_controller.engines.onnx_engine import OnnxEngine
from srdp_controller.engines.providers import EngineOptions, create_engine
from srdp_controller.errors import EngineError


@pytest.fixture
def key(bundle):
    return EngineKey("student_k1", bundle.policy("student_k1").sha256, "tensorrt_rtx", "1.7.1", "8.7", "fp32")


def test_what_was_stored_is_found_and_another_key_is_not(tmp_path, key):
    engine_cache.store(tmp_path, key, b"plan", {})
    assert engine_cache.find(tmp_path, key) == b"plan"
    for name, other in (("version", "1.8.0"), ("compute_capability", "8.9"), ("precision", "fp16")):
        assert engine_cache.find(tmp_path, EngineKey(**{**key.__dict__, name: other})) is None


def test_a_damaged_engine_is_refused_by_name(tmp_path, key):
    path = engine_cache.store(tmp_path, key, b"plan", {})
    path.write_bytes(b"plaN")
    with pytest.raises(EngineError, match=r"student_k1-.*engine: damaged"):
        engine_cache.find(tmp_path, key)


def test_an_engine_of_another_graph_under_the_same_name_is_refused(tmp_path, key):
    path = engine_cache.store(tmp_path, key, b"plan", {}).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "graph_sha256": "0" * 64}))
    with pytest.raises(EngineError, match="damaged"):
        engine_cache.find(tmp_path, key)


def test_engines_of_graphs_that_the_bundle_no_longer_has_are_swept_away(tmp_path, bundle, key):
    kept = engine_cache.store(tmp_path, key, b"plan", {})
    gone = engine_cache.store(tmp_path, EngineKey(**{**key.__dict__, "graph_sha256": "0" * 64}), b"plan", {})
    assert engine_cache.delete_outdated(tmp_path, bundle) == [gone]
    assert kept.exists() and len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, key):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"choose another folder.*engine_cache"):
        engine_cache.store(tmp_path / "file" / "folder", key, b"plan", {})


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_a_flavour_that_is_not_installed_says_where_it_comes_from(bundle):
    with pytest.raises(EngineError, match=r"tensorrt cannot be imported.*JetPack"):
        create_engine(bundle, "student_k1", "tensorrt")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt_rtx"])
@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here")
def test_a_provider_that_cannot_be_used_falls_back_only_when_told_to(bundle, provider, tmp_path):
    with pytest.raises(EngineError):
        create_engine(bundle, "student_k1", provider, EngineOptions(cache=str(tmp_path)))
    engine = create_engine(bundle, "student_k1", provider, EngineOptions(cache=str(tmp_path), fall_back=True))
    assert isinstance(engine, OnnxEngine) and engine.provider == "cpu"


def test_half_precision_is_refused_where_it_means_nothing(bundle):
    with pytest.raises(EngineError, match="precision fp16 is for tensorrt"):
        create_engine(bundle, "student_k1", "cpu", EngineOptions(precision="fp16"))
