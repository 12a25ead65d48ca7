"""``srdp import``: any ONNX policy of one graph, observation in and action out, as a bundle that the node drives.

It is not distilled, and nothing tells when it is off its data: it stands in the bundle as ``teacher``, the policy that
is never abstained from. One that outlasts the period plans ahead of the loop.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tyro
from onnx import TensorProto, compose, helper, numpy_helper

from srdp_controller.engines.bundle import (
    SCHEMA_VERSION,
    Bundle,
    Calibration,
    FileEntry,
    PolicyEntry,
    load_bundle,
    sha256,
    write_bundle,
)
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.provenance import versions
from srdp_controller.spec import PolicySpec, load_spec

NAME, PREFIX = "teacher", "policy_"
TOLERANCE = 1e-4  # of an action's scale, or of 1 where that is more: the same graph, run twice
OLDEST_OPSET = 13
TRIED = 8  # observations


def import_policy(
    model: tyro.conf.Positional[Path],
    *,
    spec: Path,
    output: Path,
    normalised: bool = False,
    input: str = "",  # noqa: A002
    action: str = "",
) -> dict[str, Any]:
    """Make a bundle of an ONNX policy, whole or not at all, and check that it answers what the model answers.

    Args:
        model: ONNX file with one float32 input (B, obs_dim) and an output of horizon * act_dim numbers
        spec: what it observes and commands (YAML or JSON), in the order of its input and output
        output: bundle folder; what is there is replaced
        normalised: its input is (observation - centre) / scale of the spec, and its output likewise; without it both
            are in SI units
        input: which input is the observation (default: its only one)
        action: which output is the action (default: the first)

    Raises:
        SrdpError: no such model, one with other inputs, or whose sizes are not the spec's.
    """
    described = load_spec(spec)
    if described.sensor_indices() != list(range(described.obs_dim)):
        raise SrdpError(f"{spec}: an imported policy observes sensors only, no histories and no prefix")
    graph = wrapped(model, described, normalised, input, action)
    data = graph.SerializeToString()
    staging = output.with_name(output.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    write_file(staging / f"{NAME}.onnx", data)
    calibration = Calibration(score="none: nothing was calibrated", trajectories=0, policies={})
    raw = calibration.model_dump_json(indent=1).encode()
    write_file(staging / "calibration.json", raw)
    entry = PolicyEntry(
        file=f"{NAME}.onnx",
        sha256=sha256(data),
        steps=1,
        evaluations=1,
        noise_shape=(1, described.horizon, described.act_dim),
        latent_dim=1,
    )
    write_bundle(
        staging,
        Bundle(
            schema_version=SCHEMA_VERSION,
            task=described.task,
            spec=described,
            policies={NAME: entry},
            calibration=FileEntry(file="calibration.json", sha256=sha256(raw)),
            provenance={"imported": model.name, "model": sha256(model.read_bytes()), "versions": versions()},
        ),
    )
    worst = _difference(model, staging, described, normalised, input, action)
    if worst > TOLERANCE:
        raise SrdpError(f"{model}: in the bundle it answers otherwise, by {worst:.2g} scales of an action")
    shutil.rmtree(output, ignore_errors=True)
    staging.rename(output)
    identity = load_bundle(output).identity
    print(f"bundle {output}, SHA-256 {identity}; start it with engine:={NAME}")
    return {"seed": 0, "bundle": str(output), "bundle_sha256": identity, "max_difference": worst}


def _read(model: Path, input: str, action: str) -> tuple[onnx.ModelProto, Any, Any]:  # noqa: A002
    """The model, its observation's and its action's description."""
    try:
        read = onnx.load(str(model), load_external_data=False)
        onnx.checker.check_model(read)
    except Exception as error:  # protobuf, and onnx's checker, raise types of their own
        raise SrdpError(f"{model}: no ONNX model ({str(error).strip().splitlines()[0]})") from None
    if any(one.external_data for one in read.graph.initializer):
        raise SrdpError(f"{model}: its weights are in a second file; export it as one (save_as_external_data=False)")
    opset = next((one.version for one in read.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise SrdpError(f"{model}: opset {opset}; export it with {OLDEST_OPSET} or later (onnx.version_converter)")
    weights = {one.name for one in read.graph.initializer}
    inputs = [one for one in read.graph.input if one.name not in weights]
    chosen = [one for one in inputs if one.name == input] if input else inputs
    if len(chosen) != 1 or len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise SrdpError(f"{model}: expected one input, the observation; it has {names or 'none'}")
    outputs = [one for one in read.graph.output if one.name == action] if action else list(read.graph.output)[:1]
    if not outputs:
        names = ", ".join(one.name for one in read.graph.output)
        raise SrdpError(f"{model}: no output {action!r}; it has {names}")
    for what, one in (("input", chosen[0]), ("output", outputs[0])):
        if one.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise SrdpError(f"{model}: {what} {one.name} is not float32")
    return read, chosen[0], outputs[0]


def _sizes(described: Any) -> list[int]:
    """Its dimensions; 0 where one is open."""
    return [one.dim_value for one in described.type.tensor_type.shape.dim]


def wrapped(model: Path, spec: PolicySpec, normalised: bool, input: str = "", action: str = "") -> onnx.ModelProto:  # noqa: A002
    """The model between a bundle's inputs and outputs: raw SI units, a noise that it does not use, latents of zeros.

    Raises:
        SrdpError: as of ``import_policy``.
    """
    read, observed, acted = _read(model, input, action)
    sizes, numbers = _sizes(observed), spec.horizon * spec.act_dim
    inner = [size for size in sizes[1:] if size]
    if int(np.prod(inner)) != spec.obs_dim:
        raise SrdpError(f"{model}: its input {observed.name} is {sizes}, the spec observes {spec.obs_dim} numbers")
    answer = [size for size in _sizes(acted)[1:] if size]
    if answer and len(answer) == len(_sizes(acted)) - 1 and int(np.prod(answer)) != numbers:
        raise SrdpError(
            f"{model}: its output {acted.name} is {_sizes(acted)}, the spec's chunk {spec.horizon} x {spec.act_dim}"
        )
    own = compose.add_prefix(read, PREFIX)
    nodes, constants = [], []

    def constant(name: str, values: Any, kind: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def node(kind: str, inputs: list[str], name: str, **how: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], **how))
        return name

    seen = "observation"
    if normalised:
        centre, scale = spec.observation_normalisation()
        seen = node("Sub", [seen, constant("observation_centre", centre, np.float32)], "centred")
        seen = node("Div", [seen, constant("observation_scale", scale, np.float32)], "scaled")
    node("Reshape", [seen, constant("input_shape", [-1, *sizes[1:]], np.int64)], PREFIX + observed.name)
    shape = constant("action_shape", [-1, spec.horizon, spec.act_dim], np.int64)
    after = [("Reshape", [PREFIX + acted.name, shape], "chunk")]
    if normalised:
        centre, scale = spec.action_normalisation()
        after.append(("Mul", ["chunk", constant("action_scale", scale, np.float32)], "wide"))
        after.append(("Add", ["wide", constant("action_centre", centre, np.float32)], "action"))
    else:
        after.append(("Identity", ["chunk"], "action"))
    begin, end = constant("first", [0], np.int64), constant("second", [1], np.int64)
    after += [
        ("Shape", ["observation"], "observation_shape"),
        ("Slice", ["observation_shape", begin, end], "batch"),
        ("Concat", ["batch", end], "latent_shape"),
        ("ConstantOfShape", ["latent_shape"], "latent"),
        ("ConstantOfShape", ["latent_shape"], "teacher_latent"),
    ]
    tail = [
        helper.make_node(kind, inputs, [name], **({"axis": 0} if kind == "Concat" else {}))
        for kind, inputs, name in after
    ]

    def values(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [*nodes, *own.graph.node, *tail],
        "policy",
        [values("observation", ["batch", spec.obs_dim]), values("noise", ["batch", 1, spec.horizon, spec.act_dim])],
        [
            values("action", ["batch", spec.horizon, spec.act_dim]),
            values("latent", ["batch", 1]),
            values("teacher_latent", ["batch", 1]),
        ],
        [*own.graph.initializer, *constants],
    )
    made = helper.make_model(graph, opset_imports=list(own.opset_import), ir_version=min(own.ir_version, 10))
    made.functions.extend(own.functions)
    return made


def _difference(model: Path, folder: Path, spec: PolicySpec, normalised: bool, input: str, action: str) -> float:  # noqa: A002
    """Largest difference of the bundle's actions from the model's own, in scales."""
    import onnxruntime

    _, observed, acted = _read(model, input, action)
    rng = np.random.default_rng(0)
    centre, scale = spec.observation_normalisation()
    states = (centre + scale * rng.standard_normal((TRIED, spec.obs_dim))).astype(np.float32)
    given = ((states - centre) / scale if normalised else states).astype(np.float32)
    action_centre, action_scale = spec.action_normalisation()
    unit = np.maximum(action_scale, 1.0) if not normalised else action_scale
    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        shape = [size or -1 for size in _sizes(observed)[1:]]
        own = np.concatenate(
            [session.run([acted.name], {observed.name: row.reshape(1, *shape)})[0].reshape(1, -1) for row in given]
        )
        bundle = load_bundle(folder)
        noise = rng.standard_normal((TRIED, 1, spec.horizon, spec.act_dim)).astype(np.float32)
        found = np.concatenate([BatchedPolicy(bundle, NAME)(states[i : i + 1], noise[i : i + 1]) for i in range(TRIED)])
    except Exception as error:  # onnxruntime raises types of its own
        raise SrdpError(f"{model}: it does not run ({str(error).strip().splitlines()[0]})") from None
    expected = own.reshape(-1, spec.horizon, spec.act_dim)
    if normalised:
        expected = action_centre + action_scale * expected
    return float((np.abs(found - expected) / unit).max())
