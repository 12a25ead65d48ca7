"""A student as a LEAPP folder answers what it answers in the bundle, also for LEAPP's own runtime; and back."""

import hashlib
import json
import re

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from srdp_controller import cli
from srdp_controller.engines.bundle import Bundle, FileEntry, PolicyEntry, load_bundle, write_bundle
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.engines.providers import load_engine
from srdp_controller.files import write_file
from srdp_controller.offline.leapp import input_terms
from srdp_controller.spec import PolicySpec

RNG = np.random.default_rng(0)
JOINTS, DRAWN = ("elbow", "shoulder"), 5  # steps of the noise: more than the chunk has
ARRAY = "std_msgs/msg/Float64MultiArray"


def arm_spec(history=0):
    """Positions of two joints, a pose's height, a number of no kind; joint velocities and a gripper."""

    def seen(name, unit, topic, message, field):
        source = {"kind": "topic", "topic": topic, "type": message, "field": field}
        return {"name": name, "unit": unit, "source": source, "lower": -9, "upper": 9, "centre": 0.1, "scale": 2.0}

    joints = [
        seen(f"{joint}_angle", "rad", "/joint_states", "sensor_msgs/msg/JointState", f"position[{joint}]")
        for joint in JOINTS
    ]
    observation = [
        joints[0],
        seen("height", "m", "/object_pose", "geometry_msgs/msg/PoseStamped", "pose.position.z"),
        seen("temperature", "K", "/numbers", ARRAY, "data[3]"),
        joints[1],
    ]
    moves = [
        {"name": f"{joint}_velocity", "unit": "rad/s", "field": f"data[{place}]", "lower": -2, "upper": 2}
        | {"measured_by": f"{joint}_angle"}
        for place, joint in enumerate(JOINTS)
    ]
    grip = [{"name": "grip", "unit": "1", "field": "data[0]", "lower": -1, "upper": 1}]
    groups = [
        {"name": "arm", "kind": "joint_velocity", "on_hold": "zero", "components": moves},
        {"name": "action", "kind": "gripper", "on_hold": "last", "components": grip},  # as the graph's own output
    ]
    for group in groups:
        group["output"] = {"topic": f"~/{group['name']}", "type": ARRAY}
    spec = {"task": "arm", "observation": observation, "action_groups": groups, "horizon": 4, "control_rate_hz": 20.0}
    return PolicySpec.model_validate(spec).extended(history)


def bundle_of(folder, spec):
    """A bundle whose student answers tanh(observation W + noise V)."""

    def weights(name, rows):
        values = 0.3 * RNG.standard_normal((rows, spec.horizon * spec.act_dim))
        return numpy_helper.from_array(values.astype(np.float32), name)

    def shaped(name, sizes):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sizes])

    shape = numpy_helper.from_array(np.array([-1, spec.horizon, spec.act_dim], np.int64), "shape")
    nodes = [
        helper.make_node("Flatten", ["noise"], ["drawn"]),
        helper.make_node("MatMul", ["observation", "W"], ["of_state"]),
        helper.make_node("MatMul", ["drawn", "V"], ["of_noise"]),
        helper.make_node("Add", ["of_state", "of_noise"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["tanh"]),
        helper.make_node("Reshape", ["tanh", "shape"], ["action"]),
        helper.make_node("Identity", ["observation"], ["latent"]),
        helper.make_node("Identity", ["observation"], ["teacher_latent"]),
    ]
    latents = [shaped(name, [spec.obs_dim]) for name in ("latent", "teacher_latent")]
    graph = helper.make_graph(
        nodes,
        "student",
        [shaped("observation", [spec.obs_dim]), shaped("noise", [1, DRAWN, spec.act_dim])],
        [shaped("action", [spec.horizon, spec.act_dim]), *latents],
        [weights("W", spec.obs_dim), weights("V", DRAWN * spec.act_dim), shape],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    calibration = b'{"score": "none", "trajectories": 0, "policies": {}}'
    files = {"student_k1.onnx": data, "calibration.json": calibration}
    for name, content in files.items():
        write_file(folder / name, content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    facts = {"steps": 1, "evaluations": 1, "noise_shape": (1, DRAWN, spec.act_dim), "latent_dim": spec.obs_dim}
    entry = PolicyEntry(file="student_k1.onnx", sha256=digests["student_k1.onnx"], **facts)
    write_bundle(
        folder,
        Bundle(
            schema_version=2,
            task="arm",
            spec=spec,
            policies={"student_k1": entry},
            calibration=FileEntry(file="calibration.json", sha256=digests["calibration.json"]),
            provenance={},
        ),
    )
    return load_bundle(folder)


def srdp(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.fixture
def exported(tmp_path, capsys, request):
    """A bundle, its LEAPP folder's description as read, and where it lies."""
    bundle = bundle_of(tmp_path / "bundle", arm_spec(getattr(request, "param", 0)))
    words = ["export", "leapp", tmp_path / "bundle", "--policy", "student_k1", "--output", tmp_path / "leapp"]
    status, said = srdp(capsys, *words, "--json", tmp_path / "result.json")
    assert status == 0, said
    assert json.loads((tmp_path / "result.json").read_text())["max_difference"] < 1e-5
    path = tmp_path / "leapp" / "arm.yaml"
    return bundle, yaml.safe_load(path.read_text()), path


def test_terms_have_kinds_and_names_of_joints_and_axes(exported):
    _, described, path = exported
    model = described["models"]["policy"]
    told = {one["name"]: (one.get("kind"), one["shape"], one.get("element_names")) for one in model["inputs"]}
    assert told == {
        "joint_states_position": ("state/joint/position", [1, 2], [[], ["elbow", "shoulder"]]),
        "object_pose_position": ("state/body/position", [1, 3], [[], ["x", "y", "z"]]),
        "observation_terms": (None, [1, 1], [[], ["temperature"]]),
        "initial_noise": (None, [1, 1, DRAWN, 3], None),
    }
    arm, gripper = model["outputs"]
    assert (arm["kind"], arm["shape"], arm["element_names"][-1]) == ("target/joint/velocity", [1, 4, 2], list(JOINTS))
    assert "kind" not in gripper and gripper["lower"] == [-1.0]
    assert described["pipeline"]["configs"] == {"frequency": 20.0}
    digest = hashlib.sha256((path.parent / "policy.onnx").read_bytes()).hexdigest()
    assert model["parameters"]["sha256sum"] == digest


@pytest.mark.parametrize("exported", [0, 2], indirect=True)
def test_leapps_own_runtime_gives_what_the_engine_gives(exported):
    leapp = pytest.importorskip("leapp", reason="needs leapp: pip install leapp")
    import torch

    bundle, _, path = exported
    spec, runtime = bundle.spec, leapp.InferenceManager(str(path))
    engine = load_engine(bundle, "student_k1", "cpu")
    seen = []
    for _ in range(4):  # one call after another, as a robot makes them; the history is LEAPP's
        sensors = RNG.standard_normal(len(spec.sensor_indices())).astype(np.float32)
        seen.append(sensors)
        past = [seen[max(0, len(seen) - 1 - ago)] for ago in range(1, 1 + spec.obs_dim // len(sensors) - 1)]
        engine.observation[0] = np.concatenate([sensors, *past])
        engine.noise[:] = RNG.standard_normal(engine.noise.shape)
        given = {
            f"policy/{term.name}": np.array([[7.0 if s < 0 else sensors[s] for s in term.sensors]], np.float32)
            for term in input_terms(spec)
        }
        answer = runtime.run_policy(
            {name: torch.from_numpy(value) for name, value in {**given, "policy/initial_noise": engine.noise}.items()}
        )
        engine.run()
        chunks = [answer["policy/arm_chunk"].numpy(), answer["policy/action_chunk"].numpy()]
        assert np.concatenate(chunks, axis=2) == pytest.approx(engine.action, abs=1e-5)


@pytest.mark.parametrize("exported", [2], indirect=True)
def test_a_history_is_state_that_begins_unknown(exported):
    _, described, path = exported
    assert described["pipeline"]["feedback_flow"] == {"policy/past_observations_out": ["policy/past_observations"]}
    assert "past_observations" not in described["pipeline"]["inputs"]["policy"]
    values = load_file(path.parent / described["pipeline"]["initial_values"])["policy/past_observations"]
    assert values.shape == (1, 2, 4) and np.isnan(values).all()


def test_a_policy_that_sees_its_own_commands_is_refused(tmp_path, capsys):
    bundle_of(tmp_path / "bundle", arm_spec().extended(commands=1))
    words = ["export", "leapp", tmp_path / "bundle", "--policy", "student_k1", "--output", tmp_path / "leapp"]
    status, said = srdp(capsys, *words)
    assert status == 2 and "which no LEAPP runtime tells it" in said
    assert not (tmp_path / "leapp").exists()


# --- import --------------------------------------------------------------------------------------


def imported_spec(swapped=False):
    """The spec of what the exported graph takes, one input after another."""
    content = arm_spec().model_dump(mode="json")
    elbow, height, temperature, shoulder = content["observation"]

    def axis(letter):
        source = {**height["source"], "field": f"pose.position.{letter}"}
        return {**height, "name": letter, "source": source}

    joints = [shoulder, elbow] if swapped else [elbow, shoulder]
    content["observation"] = [*joints, *map(axis, "xyz"), temperature]
    for place, one in enumerate(content["observation"]):
        one["index"] = place
    return content


def import_leapp(capsys, path, spec, folder):
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return srdp(capsys, "import", path, "--spec", folder / "spec.yaml", "--output", folder / "back")


def test_what_was_exported_can_be_imported_and_takes_its_noise(exported, tmp_path, capsys):
    bundle, _, path = exported
    status, said = import_leapp(capsys, path, imported_spec(), tmp_path)
    assert status == 0, said
    back = load_bundle(tmp_path / "back")
    assert back.policy("teacher").noise_shape == (1, DRAWN, 3)
    state, noise = (
        RNG.standard_normal((1, 6)).astype(np.float32),
        RNG.standard_normal((1, 1, DRAWN, 3)).astype(np.float32),
    )
    first = state[:, [0, 4, 5, 1]]  # elbow, z, temperature, shoulder
    expected = BatchedPolicy(bundle, "student_k1")(first, noise)
    assert BatchedPolicy(back, "teacher")(state, noise) == pytest.approx(expected, abs=1e-5)


def test_joints_in_another_order_are_refused(exported, tmp_path, capsys):
    status, said = import_leapp(capsys, exported[2], imported_spec(swapped=True), tmp_path)
    assert status == 2
    assert "joint_states_position is elbow, shoulder; the spec observes shoulder, elbow there" in said


def test_state_a_changed_graph_and_a_second_model_are_refused(exported, tmp_path, capsys):
    _, described, path = exported
    for change, message in (
        (lambda d: d["pipeline"].update(feedback_flow={"policy/a": ["policy/b"]}), "it keeps state between two calls"),
        (lambda d: d["models"].update(second={}), "2 models"),
        (lambda d: d["models"]["policy"]["parameters"].update(sha256sum="0"), "its SHA-256 is not the one of arm.yaml"),
        (lambda d: d["models"]["policy"]["parameters"].update(backend="jit"), "backend 'jit'"),
        (lambda d: d.pop("pipeline"), "no LEAPP description"),
    ):
        changed = yaml.safe_load(yaml.safe_dump(described))
        change(changed)
        path.write_text(yaml.safe_dump(changed))
        status, said = import_leapp(capsys, path, imported_spec(), tmp_path)
        assert status == 2 and re.search(re.escape(message), said), said


def test_the_graph_is_a_valid_model_of_its_own(exported):
    onnx.checker.check_model(onnx.load(exported[2].parent / "policy.onnx"), full_check=True)
