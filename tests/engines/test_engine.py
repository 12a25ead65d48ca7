import threading

import numpy as np
import pytest

from srdp_controller.control.abstention import latent_distance
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.engines.onnx_engine import BatchedPolicy, OnnxEngine
from srdp_controller.engines.providers import EngineOptions, load_engine
from srdp_controller.errors import BundleError, EngineError
from srdp_controller.offline.export.verify import verify_bundle

POLICIES = ["teacher", "student_k1", "student_k2", "student_k4", "student_k8"]


@pytest.mark.parametrize("name", POLICIES)
def test_the_engine_agrees_with_the_batched_session(bundle, name):
    engine = load_engine(bundle, name, "cpu")
    batched = BatchedPolicy(bundle, name)
    rng = np.random.default_rng(0)
    centre, scale = bundle.spec.observation_normalisation()
    observation = (centre + scale * rng.standard_normal((4, len(centre)))).astype(np.float32)
    noise = rng.standard_normal((4, *batched.noise_shape)).astype(np.float32)
    action, latent, teacher_latent = batched.all(observation, noise)
    for row in range(4):
        engine.observation[0], engine.noise[0] = observation[row], noise[row]
        engine.run()
        np.testing.assert_allclose(engine.action[0], action[row], atol=2e-4)
        np.testing.assert_allclose(engine.latent[0], latent[row], atol=1e-4)
        np.testing.assert_allclose(engine.teacher_latent[0], teacher_latent[row], atol=1e-4)


def test_candidates_are_what_single_runs_with_their_noise_would_be_and_share_one_score(bundle):
    single, several = (load_engine(bundle, "student_k1", "cpu", EngineOptions(candidates=n)) for n in (1, 8))
    several.noise[:] = np.random.default_rng(1).standard_normal(several.noise.shape)
    several.run()
    single.observation[0] = several.observation[0]
    for row in range(8):
        single.noise[0] = several.noise[row]
        single.run()
        np.testing.assert_allclose(single.action[0], several.action[row], atol=1e-5)
    assert latent_distance(several) == pytest.approx(latent_distance(single), abs=1e-5)


def test_a_tensorrt_engine_is_for_one_candidate(bundle, monkeypatch):
    monkeypatch.setattr("srdp_controller.engines.providers.find_spec", lambda name: name)  # as if it were installed
    with pytest.raises(EngineError, match=r"sampling\.candidates"):
        load_engine(bundle, "student_k1", "tensorrt", EngineOptions(candidates=2))


def test_every_policy_agrees_with_the_reference_evaluator(model_dir):
    result = verify_bundle(model_dir, samples=1)
    assert set(result["policies"]) == set(POLICIES)
    assert all(entry["cpu"]["passed"] for entry in result["policies"].values())


def test_the_same_noise_gives_the_same_action_and_other_noise_another(bundle):
    engine = load_engine(bundle, "student_k1", "cpu")
    engine.noise[:] = 0.3
    engine.run()
    first = engine.action.copy()
    engine.run()
    assert np.array_equal(first, engine.action)
    engine.noise[:] = -0.7
    engine.run()
    assert not np.allclose(first, engine.action)


def test_an_unknown_policy_lists_those_there_are(bundle):
    with pytest.raises(BundleError, match="student_k8"):
        load_engine(bundle, "student_k3", "cpu")


@pytest.mark.parametrize(("provider", "text"), [("tpu", "is unknown"), ("tensorrt", "cannot be imported")])
def test_a_provider_that_is_not_there_is_an_error(bundle, provider, text):
    with pytest.raises(EngineError, match=text):
        load_engine(bundle, "student_k1", provider)


def test_a_graph_of_another_observation_size_is_refused(bundle):
    spec = bundle.spec.model_copy(update={"observation": bundle.spec.observation[:-1]})
    other = LoadedBundle(bundle.folder, bundle.content.model_copy(update={"spec": spec}), bundle.raw)
    with pytest.raises(EngineError, match=r"observation is .*spec says \(1, 7\)"):
        OnnxEngine(other, "student_k1")


def test_a_run_can_be_cancelled_from_another_thread_and_repeated_after(bundle):
    engine = load_engine(bundle, "teacher", "cpu")
    outcomes = []

    def work():
        for _ in range(400):
            try:
                engine.run()
            except EngineError as error:
                outcomes.append(str(error))
                return

    thread = threading.Thread(target=work)
    thread.start()
    engine.cancel()
    thread.join(30)
    assert outcomes and "cancelled" in outcomes[0]
    engine.run()
    assert np.isfinite(engine.action).all()


@pytest.mark.parametrize("name", ["teacher", "student_k1", "student_k4"])
def test_the_torch_baseline_computes_what_onnx_runtime_computes(bundle, name):
    pytest.importorskip("torch", reason="the baseline needs torch: make setup-train")
    from srdp_controller.benchmarks.torch_engine import load_torch_engine

    mine, theirs = load_engine(bundle, name, "cpu"), load_torch_engine(bundle, name, "cpu")
    rng = np.random.default_rng(3)
    for _ in range(3):
        for engine in (mine, theirs):
            state = rng.bit_generator.state
            engine.observation[:] = 0.1 * rng.standard_normal(engine.observation.shape)
            engine.noise[:] = rng.standard_normal(engine.noise.shape)
            engine.run()
            rng.bit_generator.state = state
        rng.standard_normal(5)
        np.testing.assert_allclose(theirs.action, mine.action, atol=2e-4)
        np.testing.assert_allclose(theirs.latent, mine.latent, atol=1e-4)
        np.testing.assert_allclose(theirs.teacher_latent, mine.teacher_latent, atol=1e-4)


def test_the_torch_baseline_reads_weights_of_half_precision(shipped_dir):
    pytest.importorskip("torch", reason="the baseline needs torch: make setup-train")
    from srdp_controller.benchmarks.torch_engine import load_torch_engine

    shipped = load_bundle(shipped_dir)
    mine, theirs = load_engine(shipped, "student_k1", "cpu"), load_torch_engine(shipped, "student_k1", "cpu")
    for engine in (mine, theirs):
        engine.observation[:], engine.noise[:] = 0.1, 0.5
        engine.run()
    np.testing.assert_allclose(theirs.action, mine.action, atol=2e-4)
    np.testing.assert_allclose(theirs.teacher_latent, mine.teacher_latent, atol=1e-4)


@pytest.mark.parametrize("name", ["student_k1", "teacher"])
def test_a_cancelled_run_raises_and_the_next_one_answers(bundle, name):
    engine = load_engine(bundle, name, "cpu")
    engine.cancel()
    with pytest.raises(EngineError, match="cancelled"):
        engine.run()
    engine.run()
    assert np.isfinite(engine.action).all()


@pytest.fixture
def captured(monkeypatch):
    """What runs on a GPU, on a processor: the buffers that a CUDA graph would read and write."""
    from srdp_controller.engines import onnx_engine

    original, asked = onnx_engine.create_session, []

    def create_session(graph, provider, where, cuda_graph=False):
        asked.append(cuda_graph)
        if cuda_graph and refused:
            raise EngineError("the graph cannot be captured")
        return original(graph, provider, where)

    refused: list[bool] = []
    monkeypatch.setitem(onnx_engine.CUDA_GRAPH, "cpu", "enable_cuda_graph")
    monkeypatch.setattr(onnx_engine, "DEVICE", "cpu")
    monkeypatch.setattr(onnx_engine, "create_session", create_session)
    return asked, refused


@pytest.mark.parametrize("refuse", [False, True])
def test_a_student_is_captured_where_it_can_be_and_answers_the_same(bundle, captured, refuse, monkeypatch):
    asked, refused = captured
    refused += [True] * refuse
    engine = load_engine(bundle, "student_k4", "cpu")
    assert asked == ([True, False] if refuse else [True]) and engine.captured is not refuse
    assert load_engine(bundle, "teacher", "cpu").captured is False
    monkeypatch.undo()
    plain = load_engine(bundle, "student_k4", "cpu")
    rng = np.random.default_rng(0)
    for _ in range(3):
        noise, shift = rng.standard_normal(plain.noise.shape), rng.standard_normal(plain.observation.shape) * 0.01
        for each in (plain, engine):
            each.noise[:] = noise
            each.observation[:] += shift
            each.run()
        np.testing.assert_array_equal(engine.action, plain.action)
        np.testing.assert_array_equal(engine.latent, plain.latent)


def test_a_graph_whose_capture_fails_in_the_first_run_runs_node_by_node(bundle, captured, monkeypatch):
    def fail(self):
        raise EngineError("not permitted when stream is capturing")

    replay = OnnxEngine.run
    monkeypatch.setattr(OnnxEngine, "run", lambda self: fail(self) if self.captured else replay(self))
    engine = load_engine(bundle, "student_k1", "cpu")
    assert not engine.captured and np.isfinite(engine.action).all()
