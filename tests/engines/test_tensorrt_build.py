"""TensorRT-RTX engines are built ahead of time, on a machine without a GPU."""

import json

import pytest

from srdp_controller.cli import main
from srdp_controller.engines import engine_cache
from srdp_controller.engines.tensorrt_build import build, import_flavour, key_of
from srdp_controller.errors import EngineError

POLICIES = ("teacher", "student_k1", "student_k2", "student_k4", "student_k8")


def test_an_unknown_flavour_lists_those_there_are():
    with pytest.raises(EngineError, match="tensorrt, tensorrt_rtx"):
        import_flavour("tensorflow")


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_builds_for_a_gpu_that_is_not_here(rtx, bundle, name):
    built = build(bundle.read(bundle.policy(name)), "tensorrt_rtx", "8.9", name)
    assert len(built.plan) > 100_000


def test_the_command_fills_the_cache_in_both_precisions(rtx, model_dir, bundle, tmp_path):
    words = ["--flavour", "tensorrt_rtx", "--compute-capability", "8.9", "--precision", "fp32", "fp16"]
    cache, record = str(tmp_path / "engines"), tmp_path / "build.json"
    status = main(
        ["build-engine", str(model_dir), *words, "--policy", "student_k1", "--cache", cache, "--json", str(record)]
    )
    assert status == 0
    engines = json.loads(record.read_text())["engines"]
    assert [entry["precision"] for entry in engines] == ["fp32", "fp16"]
    for entry in engines:
        key = key_of(bundle, "student_k1", "tensorrt_rtx", "8.9", entry["precision"])
        plan = engine_cache.find(tmp_path / "engines", key)
        assert plan is not None and len(plan) == entry["bytes"]


def test_a_gpu_that_it_cannot_build_for_is_named_with_those_it_can(rtx, bundle):
    with pytest.raises(EngineError, match=r"--compute-capability 3\.0: tensorrt_rtx knows .*8\.9"):
        build(bundle.read(bundle.policy("student_k1")), "tensorrt_rtx", "3.0", "student_k1")


def test_a_graph_that_is_none_is_refused_with_the_reason(rtx):
    with pytest.raises(EngineError, match="refuses the graph"):
        build(b"not a graph", "tensorrt_rtx", "8.9", "student_k1.onnx")
