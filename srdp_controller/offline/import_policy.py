"""``srdp import``: any policy of one graph, observation in and action out, as a bundle that the node drives.

It is an ONNX file, a LEAPP description of one, or a module of PyTorch, which is exported first.

It is not distilled, and nothing tells when it is off its data: it stands in the bundle as ``teacher``, the policy that
is never abstained from. One that outlasts the period plans ahead of the loop.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

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
from srdp_controller.errors import SrdpError, missing_extra
from srdp_controller.files import write_file
from srdp_controller.offline.leapp import check_elements, read_leapp
from srdp_controller.provenance import versions
from srdp_controller.spec import PolicySpec, load_spec

NAME, PREFIX = "teacher", "policy_"
TOLERANCE = 1e-4  # of an action's scale, or of 1 where that is more: the same graph, run twice
OLDEST_OPSET = 13
TRIED = 8  # observations


class Policy(NamedTuple):
    """A model, its inputs that make up the observation one after another, its noise, and its outputs side by side."""

    model: onnx.ModelProto
    file: Path
    observed: list[Any]
    noise: Any | None
    acted: list[Any]


def import_policy(
    model: tyro.conf.Positional[str],
    *,
    spec: Path,
    output: Path,
    normalised: bool = False,
    input: str = "",  # noqa: A002
    action: str = "",
) -> dict[str, Any]:
    """Make a bundle of a policy from elsewhere, whole or not at all, and check that it answers what the model answers.

    Args:
        model: ONNX file with one float32 input (B, obs_dim) and an output of horizon * act_dim numbers; the YAML file
            of a LEAPP folder; or module:function (path/to/file.py:function), which makes such a module of PyTorch of
            the spec
        spec: what it observes and commands (YAML or JSON), in the order of its input and output
        output: bundle folder; what is there is replaced
        normalised: its input is (observation - centre) / scale of the spec, and its output likewise; without it both
            are in SI units
        input: which input is the observation (default: its only one; of a LEAPP policy all, one after another)
        action: which output is the action (default: the first; of a LEAPP policy all but kp and kd, side by side)

    Raises:
        SrdpError: no such model, one with other inputs, or whose sizes are not the spec's.
    """
    described = load_spec(spec)
    if described.sensor_indices() != list(range(described.obs_dim)):
        raise SrdpError(f"{spec}: an imported policy observes sensors only, no histories and no prefix")
    with tempfile.TemporaryDirectory() as scratch:
        policy = open_policy(model, described, Path(scratch), input, action)
        return _import(Path(model).name, policy, described, output, normalised)


def _import(model: str, policy: Policy, described: PolicySpec, output: Path, normalised: bool) -> dict[str, Any]:
    staging = output.with_name(output.name + ".tmp")
    data = wrapped(policy, described, normalised).SerializeToString()
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
        noise_shape=_noise_shape(policy, described),
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
            provenance={"imported": model, "model": sha256(policy.file.read_bytes()), "versions": versions()},
        ),
    )
    worst = _difference(policy, staging, described, normalised)
    if worst > TOLERANCE:
        raise SrdpError(f"{model}: in the bundle it answers otherwise, by {worst:.2g} scales of an action")
    shutil.rmtree(output, ignore_errors=True)
    staging.rename(output)
    identity = load_bundle(output).identity
    print(f"bundle {output}, SHA-256 {identity}; start it with engine:={NAME}")
    return {"seed": 0, "bundle": str(output), "bundle_sha256": identity, "max_difference": worst}


def open_policy(name: str, spec: PolicySpec, scratch: Path, input: str = "", action: str = "") -> Policy:  # noqa: A002
    """The model that ``import_policy`` was given, with what of it is observation, noise and action.

    Raises:
        SrdpError: no such model, or one with other inputs.
    """
    file, noise, described = Path(name), "", None
    observed, acted = ([one] if one else [] for one in (input, action))
    if ":" in name and not file.exists():
        try:
            from srdp_controller.offline.export.module import export_module
        except ModuleNotFoundError as error:
            raise missing_extra("train", error) from None
        file = export_module(name, spec, scratch / "module.onnx")
    elif file.suffix in (".yaml", ".yml"):
        described = read_leapp(file)
        file, noise = described.model, described.noise
        observed, acted = observed or described.inputs, acted or described.outputs
    read = _read(file)
    weights = {one.name for one in read.graph.initializer}
    inputs = {one.name: one for one in read.graph.input if one.name not in weights and one.name != noise}
    outputs = {one.name: one for one in read.graph.output}
    if set(inputs) != set(observed or inputs) or not inputs or (len(inputs) > 1 and described is None):
        raise SrdpError(f"{file}: expected one input, the observation; it has {', '.join(inputs) or 'none'}")
    unknown = [one for one in acted if one not in outputs]
    if unknown:
        raise SrdpError(f"{file}: no output {unknown[0]!r}; it has {', '.join(outputs)}")
    policy = Policy(
        read,
        file,
        [inputs[one] for one in observed or inputs],
        next((one for one in read.graph.input if noise and one.name == noise), None),
        [outputs[one] for one in acted or list(outputs)[:1]],
    )
    if described is not None and not input:
        check_elements(described, [_count(one) for one in policy.observed], spec)
    for what, some in (("input", policy.observed), ("output", policy.acted)):
        for one in some:
            if one.type.tensor_type.elem_type != TensorProto.FLOAT:
                raise SrdpError(f"{file}: {what} {one.name} is not float32")
    return policy


def _read(model: Path) -> onnx.ModelProto:
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
    return read


def _sizes(described: Any) -> list[int]:
    """Its dimensions; 0 where one is open."""
    return [one.dim_value for one in described.type.tensor_type.shape.dim]


def _count(described: Any) -> int:
    """Numbers of one row; an open size counts as 1."""
    return int(np.prod([size for size in _sizes(described)[1:] if size]))


def _noise_shape(policy: Policy, spec: PolicySpec) -> tuple[int, int, int]:
    if policy.noise is None:
        return (1, spec.horizon, spec.act_dim)
    sizes = _sizes(policy.noise)[1:]
    if len(sizes) != 3 or not all(sizes):
        raise SrdpError(f"{policy.file}: its noise is {sizes}; expected draws, steps, numbers of an action")
    return sizes[0], sizes[1], sizes[2]


def wrapped(policy: Policy, spec: PolicySpec, normalised: bool) -> onnx.ModelProto:
    """The model between a bundle's inputs and outputs: raw SI units, a noise that may be unused, latents of zeros.

    Raises:
        SrdpError: as of ``import_policy``.
    """
    read, model, observed, acted = policy.model, policy.file, policy.observed, policy.acted
    if sum(map(_count, observed)) != spec.obs_dim:
        shown = ", ".join(f"{one.name} {_sizes(one)}" for one in observed)
        raise SrdpError(f"{model}: its input is {shown}, the spec observes {spec.obs_dim} numbers")
    known = all(all(_sizes(one)[1:]) and len(_sizes(one)) > 1 for one in acted)
    if known and sum(map(_count, acted)) != spec.horizon * spec.act_dim:
        shown = ", ".join(f"{one.name} {_sizes(one)}" for one in acted)
        raise SrdpError(f"{model}: its output is {shown}, the spec's chunk {spec.horizon} x {spec.act_dim}")
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
    parts = [seen] if len(observed) == 1 else [f"part_{number}" for number in range(len(observed))]
    if len(parts) > 1:
        constant("part_sizes", [_count(one) for one in observed], np.int64)
        nodes.append(helper.make_node("Split", [seen, "part_sizes"], parts, axis=1))
    for number, (part, one) in enumerate(zip(parts, observed, strict=True)):
        shape = constant(f"input_shape_{number}", [-1, *_sizes(one)[1:]], np.int64)
        node("Reshape", [part, shape], PREFIX + one.name)
    if policy.noise is not None:
        node("Identity", ["noise"], PREFIX + policy.noise.name)
    widths = [spec.act_dim] if len(acted) == 1 else [_count(one) // spec.horizon for one in acted]
    after = []
    for number, (one, width) in enumerate(zip(acted, widths, strict=True)):
        shape = constant(f"action_shape_{number}", [-1, spec.horizon, width], np.int64)
        after.append(("Reshape", [PREFIX + one.name, shape], f"chunk_{number}"))
    after.append(("Concat", [f"chunk_{number}" for number in range(len(acted))], "chunk"))
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
        helper.make_node(kind, inputs, [name], **({"axis": 2 * (name == "chunk")} if kind == "Concat" else {}))
        for kind, inputs, name in after
    ]

    def values(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [*nodes, *own.graph.node, *tail],
        "policy",
        [values("observation", ["batch", spec.obs_dim]), values("noise", ["batch", *_noise_shape(policy, spec)])],
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


def _difference(policy: Policy, folder: Path, spec: PolicySpec, normalised: bool) -> float:
    """Largest difference of the bundle's actions from the model's own, in scales."""
    import onnxruntime

    rng = np.random.default_rng(0)
    centre, scale = spec.observation_normalisation()
    states = (centre + scale * rng.standard_normal((TRIED, spec.obs_dim))).astype(np.float32)
    noise = rng.standard_normal((TRIED, 1, *_noise_shape(policy, spec))).astype(np.float32)
    given = ((states - centre) / scale if normalised else states).astype(np.float32)
    action_centre, action_scale = spec.action_normalisation()
    unit = np.maximum(action_scale, 1.0) if not normalised else action_scale
    ends = np.cumsum([_count(one) for one in policy.observed])[:-1]
    own = []
    try:
        session = onnxruntime.InferenceSession(str(policy.file), providers=["CPUExecutionProvider"])
        for row, drawn in zip(given, noise, strict=True):
            inputs = {
                one.name: part.reshape(1, *(size or -1 for size in _sizes(one)[1:]))
                for one, part in zip(policy.observed, np.split(row, ends), strict=True)
            }
            if policy.noise is not None:
                inputs[policy.noise.name] = drawn
            answers = session.run([one.name for one in policy.acted], inputs)
            own.append(np.concatenate([answer.reshape(spec.horizon, -1) for answer in answers], axis=1))
        bundle = BatchedPolicy(load_bundle(folder), NAME)
        found = np.concatenate([bundle(states[i : i + 1], noise[i]) for i in range(TRIED)])
    except Exception as error:  # onnxruntime raises types of its own
        raise SrdpError(f"{policy.file}: it does not run ({str(error).strip().splitlines()[0]})") from None
    expected = np.stack(own)
    if normalised:
        expected = action_centre + action_scale * expected
    return float((np.abs(found - expected) / unit).max())
