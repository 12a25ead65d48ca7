"""An ONNX policy from elsewhere answers in a bundle what it answers alone."""

import sys

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from srdp_controller import cli
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.engines.providers import load_engine
from srdp_controller.tasks.pushing.spec import pushing_spec

SPEC = pushing_spec()
NUMBERS = SPEC.horizon * SPEC.act_dim
RNG = np.random.default_rng(0)
WEIGHTS = (0.01 * RNG.standard_normal((SPEC.obs_dim, NUMBERS))).astype(np.float32)


def model(
    path, inputs=(("state", ["batch", SPEC.obs_dim]),), output=("batch", NUMBERS), opset=17, kind=TensorProto.FLOAT
):
    """action = tanh(state W)."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [inputs[0][0] if inputs else "weights", "weights"], ["product"]),
            helper.make_node("Tanh", ["product"], ["tanh"]),
            helper.make_node("Reshape", ["tanh", "shape"], ["act"]),
        ],
        "actor",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("act", TensorProto.FLOAT, list(output))],
        [
            numpy_helper.from_array(WEIGHTS, "weights"),
            numpy_helper.from_array(np.array([-1, *output[1:]], np.int64), "shape"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC.model_dump(mode="json", exclude_none=True)))
    return tmp_path


def srdp(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out + said.err


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("output", [("batch", NUMBERS), ("batch", SPEC.horizon, SPEC.act_dim)])
def test_it_answers_what_the_model_answers(normalised, output, place, capsys):
    model("actor.onnx", output=output)
    flags = ["--normalised"] if normalised else []
    status, said = srdp(capsys, "import", "actor.onnx", "--spec", "spec.yaml", "--output", "models/mine", *flags)
    assert status == 0 and "start it with engine:=teacher" in said
    engine = load_engine(load_bundle(place / "models" / "mine"), "teacher", "cpu")
    centre, scale = SPEC.observation_normalisation()
    state = (centre + scale * RNG.standard_normal(SPEC.obs_dim)).astype(np.float32)
    engine.observation[0] = state
    engine.noise[:] = RNG.standard_normal(engine.noise.shape)
    engine.run()
    expected = np.tanh(((state - centre) / scale if normalised else state) @ WEIGHTS).reshape(
        SPEC.horizon, SPEC.act_dim
    )
    if normalised:
        action_centre, action_scale = SPEC.action_normalisation()
        expected = action_centre + action_scale * expected
    assert engine.action[0] == pytest.approx(expected, abs=1e-5)
    assert not engine.latent.any()
    assert srdp(capsys, "verify", "models/mine")[0] == 0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"inputs": (("state", ["batch", 3]),)}, "the spec observes 8 numbers"),
        (
            {"inputs": (("state", ["batch", SPEC.obs_dim]), ("t", ["batch"]))},
            "expected one input, the observation",
        ),
        ({"output": ("batch", 7)}, "the spec's chunk"),
        ({"opset": 11}, "opset 11; export it with 13 or later"),
        ({"kind": TensorProto.DOUBLE}, "is not float32"),
    ],
)
def test_another_model_is_refused_by_name_and_nothing_is_left(how, message, place, capsys):
    model("actor.onnx", **how)
    status, said = srdp(capsys, "import", "actor.onnx", "--spec", "spec.yaml", "--output", "models/mine")
    assert status == 2 and message in said
    assert not (place / "models" / "mine").exists()


def test_what_is_no_model_is_refused(place, capsys):
    (place / "actor.onnx").write_bytes(b"hello")
    status, said = srdp(capsys, "import", "actor.onnx", "--spec", "spec.yaml", "--output", "models/mine")
    assert status == 2 and "actor.onnx: no ONNX model" in said


@pytest.mark.parametrize("normalised", [False, True])
def test_a_module_of_pytorch_is_exported_first(normalised, place, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "regressor", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch = pytest.importorskip("torch", reason="modules need torch: make setup-train")
    (place / "regressor.py").write_text(
        "import torch\n"
        "class Regressor(torch.nn.Module):\n"
        "    def __init__(self, spec):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.layer = torch.nn.Linear(spec.obs_dim, spec.horizon * spec.act_dim)\n"
        "    def forward(self, observation):\n"
        "        return torch.tanh(self.layer(observation))\n"
        "def number(spec): return 3\n"
    )
    flags = ["--spec", "spec.yaml", "--output", "models/mine", *(["--normalised"] if normalised else [])]
    status = cli.main(["import", "regressor.py:Regressor", *flags])
    assert status == 0, capsys.readouterr().err
    capsys.readouterr()  # torch's loggers complain of streams that pytest has closed
    import regressor

    bundle = load_bundle(place / "models" / "mine")
    engine = load_engine(bundle, "teacher", "cpu")
    centre, scale = SPEC.observation_normalisation()
    engine.observation[0] = centre + scale * RNG.standard_normal(SPEC.obs_dim)
    engine.run()
    with torch.no_grad():
        state = torch.from_numpy((engine.observation - centre) / scale if normalised else engine.observation.copy())
        expected = regressor.Regressor(SPEC)(state).numpy().reshape(1, SPEC.horizon, SPEC.act_dim)
    if normalised:
        action_centre, action_scale = SPEC.action_normalisation()
        expected = action_centre + action_scale * expected
    assert engine.action == pytest.approx(expected, abs=1e-5)
    if normalised:  # one refusal is enough of each
        return
    status, said = srdp(capsys, "import", "regressor.py:number", *flags)
    assert status == 2 and "returned int, expected a torch.nn.Module" in said
    status, said = srdp(capsys, "import", "nowhere.py:Regressor", *flags)
    assert status == 2 and "no file nowhere.py" in said
