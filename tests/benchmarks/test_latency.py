import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the simulation's packages: make setup")

from srdp_controller.benchmarks.latency import bench_latency, candidates_cost_model, checks, cost_model
from srdp_controller.benchmarks.latency_floor import Floor
from srdp_controller.benchmarks.latency_worker import Turns
from srdp_controller.engines.onnx_engine import session_options
from srdp_controller.errors import EngineError
from srdp_controller.offline.export.precision import PRECISIONS, convert


def test_the_cost_model_finds_a_straight_line_and_says_how_far_off_it_is():
    chain = [{"evaluations": n, "p50": 20.0 + 7.0 * n} for n in (1, 4, 100)]
    model = cost_model(chain)
    assert model["fixed_us"] == pytest.approx(20.0) and model["each_us"] == pytest.approx(7.0)
    assert model["largest_relative_error"] < 1e-9
    chain[1]["p50"] *= 1.5
    assert cost_model(chain)["largest_relative_error"] > 0.1


def test_the_cost_model_of_several_chunks_finds_its_four_terms():
    terms = {"fixed_us": 9.0, "each_us": 6.0, "row_us": 2.5, "drawn_us": 0.5}
    rows = [
        {"evaluations": k, "candidates": n, "p50": 9.0 + (6.0 + 2.5 * n) * k + 0.5 * n}
        for k in (1, 4)
        for n in (1, 4, 16, 64)
    ]
    model = candidates_cost_model(rows)
    assert model.pop("largest_relative_error") < 1e-9
    assert model == pytest.approx(terms)


def measured(p50, p99=None, load=0.1):
    latency = {"p50": p50, "p99": p99 or p50, "p999": p50, "max": p50}
    return {"latency_us": latency, "cold_start_s": load}


def test_the_checks_find_what_is_missed():
    result = {
        "policies": {
            "student_k1": {"floor_us": 10.0, "cpu": measured(23.1, p99=50.0)},
            "teacher": {"floor_us": 400.0, "cpu": measured(1000.0)},
        },
        "baselines": {"torch_eager": {"student_k1": measured(100.0)}},
        "candidates": [{"policy": "student_k1", "candidates": n, "p50": 20.0 + 3.0 * n} for n in (1, 16)],
        "cost_model": {"largest_relative_error": 0.1},
    }
    passed = {row["name"]: row["passed"] for row in checks(result)}
    assert passed == {
        "student_k1: p50 [us] against 1.3 floors and 10 us": False,
        "student_k1: p99 / p50": False,
        "student_k1: load, verify, warm up [s]": True,
        "student_k1: PyTorch eager / ours": True,
        "teacher / student_k1": True,
        "student_k1: 16 chunks / one": True,
        "linear in the evaluations: largest error": True,
    }


def test_the_floor_is_the_graphs_products_in_order(bundle):
    counts = {name: len(Floor(bundle.read(entry)).products) for name, entry in bundle.content.policies.items()}
    assert {name: counts[name] for name in ("student_k1", "student_k8", "teacher")} == {
        "student_k1": 8 + 4,
        "student_k8": 8 + 8 * 4,
        "teacher": 4 + 100 * 4,
    }


def test_turns_measure_every_run_in_every_round():
    calls = {"a": 0, "b": 0}

    def call(name):
        calls[name] += 1
        sum(range(2000))

    turns = Turns({name: (lambda name=name: call(name)) for name in calls}, 3, "test", lambda *arguments: None)
    for name, count in calls.items():
        assert 3 * 3 <= len(turns.times[name]) < count
        assert 0.0 < turns.percentiles(name)["p50"] <= turns.percentiles(name)["max"]


@pytest.mark.parametrize("name", ["student_k1", "student_k8", "teacher"])
def test_half_precision_stays_near_and_keeps_its_interface(bundle, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    graph, rng = bundle.read(bundle.policy(name)), np.random.default_rng(0)
    centre, scale = bundle.spec.observation_normalisation()
    inputs = {
        "observation": (centre + scale * rng.standard_normal((32, len(centre)))).astype(np.float32),
        "noise": rng.standard_normal((32, *bundle.policy(name).noise_shape)).astype(np.float32),
    }
    full, half = (
        onnxruntime.InferenceSession(convert(graph, precision), session_options()).run(["action"], inputs)[0]
        for precision in ("fp32", "fp16")
    )
    assert half.dtype == np.float32
    error = np.abs(half - full).max() / bundle.spec.action_normalisation()[1].max()
    assert 0.0 < error < 0.1


def test_an_unknown_precision_is_refused(bundle):
    with pytest.raises(EngineError, match=", ".join(PRECISIONS)):
        convert(bundle.read(bundle.policy("student_k4")), "fp8")


def test_the_benchmark_measures_every_policy(model_dir, monkeypatch):
    from srdp_controller.benchmarks import latency as module

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)  # without PyTorch's columns
    result = bench_latency(model_dir, rounds=1, no_compile=True)
    json.dumps(result)
    assert set(result["policies"]) == {"teacher", "student_k1", "student_k2", "student_k4", "student_k8"}
    for entry in result["policies"].values():
        assert 0.0 < entry["floor_us"] < entry["cpu"]["latency_us"]["p50"]
        assert 0.0 < entry["cpu"]["cold_start_s"] < 30.0
    assert [row["evaluations"] for row in result["evaluations"]] == [1, 2, 4, 8, 10, 20, 50, 100]
    several = [(row["policy"], row["candidates"]) for row in result["candidates"]]
    assert several == [(f"student_k{k}", n) for k in (1, 2, 4, 8) for n in (1, 4, 16, 64)]
