"""LEAPP folders, a YAML file beside ONNX graphs (what Isaac ROS Deploy loads): a bundle's policy as one; one to import.

A student is one graph: terms of the observation and a Gaussian draw in, a chunk for each action group out, in SI units.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import tyro
import yaml
from onnx import TensorProto, helper, numpy_helper

from srdp_controller.engines.bundle import LoadedBundle, PolicyEntry, load_bundle
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.provenance import versions
from srdp_controller.simulation.scenario import slug
from srdp_controller.spec import ActionComponent, ActionGroup, ObservationComponent, PolicySpec, TopicSource

FORMAT = "1.3"  # LEAPP's "leapp config version"
MODEL = "policy"
NOISE = "initial_noise"  # what Isaac ROS Deploy's publisher of noise looks for
PAST, PAST_OUT = "past_observations", "past_observations_out"
TOLERANCE = 1e-5  # of an action's scale: the same graph between other inputs and outputs
TRIED = 8  # observations

# a message's field -> LEAPP's kind, and the elements that a term of it has (none: those that are observed, by name)
INPUT_KINDS = (
    (r"position\[(.+)\]", "state/joint/position", ""),
    (r"velocity\[(.+)\]", "state/joint/velocity", ""),
    (r"effort\[(.+)\]", "state/joint/effort", ""),
    (r"(?:pose\.)*position\.(.)", "state/body/position", "xyz"),
    (r"(?:pose\.)*orientation\.(.)", "state/body/rotation", "xyzw"),
    (r"angular_velocity\.(.)", "state/body/angular_velocity", "xyz"),
    (r"(?:twist\.)*linear\.(.)", "state/body/linear_velocity", "xyz"),
)
GAINS = ("kp", "kd")  # kinds of outputs that are no action
OUTPUT_KINDS = {
    "joint_position": "target/joint/position",
    "joint_velocity": "target/joint/velocity",
    "joint_effort": "target/joint/effort",
}


class Term(NamedTuple):
    """An input: its kind, the names of its elements, and which sensor of the spec each fills (-1: none)."""

    name: str
    kind: str
    elements: list[str]
    sensors: list[int]
    facts: dict[str, Any]


# --- export --------------------------------------------------------------------------------------


def export_leapp(
    bundle: Annotated[Path, tyro.conf.Positional], *, policy: str, output: Path, name: str = ""
) -> dict[str, Any]:
    """Write a policy of a bundle as a LEAPP folder, whole or not at all, and check that it answers the same.

    Args:
        bundle: bundle folder, e.g. models/pushing
        policy: which, e.g. student_k2
        output: folder for NAME.yaml, policy.onnx and NAME_initial_values.safetensors; what is there is replaced
        name: of the pipeline (default: the task's)

    Raises:
        SrdpError: no such policy, or it observes what no LEAPP runtime tells it.
    """
    loaded = load_bundle(bundle)
    entry, spec, title = loaded.policy(policy), loaded.spec, name or slug(loaded.content.task)
    if entry.guided or spec.history_columns() or spec.prefix_columns():
        raise SrdpError(
            f"{bundle}: {policy} observes what the controller itself commanded (command_history, action_prefix, or the "
            "rest of a chunk), which no LEAPP runtime tells it; export a policy of sensors and their history"
        )
    depth = _depth(spec)
    terms = input_terms(spec)
    data = leapp_graph(loaded, entry, terms, depth).SerializeToString()
    staging = output.with_name(output.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    write_file(staging / f"{MODEL}.onnx", data)
    feedback: dict[str, Any] = {f"{MODEL}/{PAST_OUT}": [f"{MODEL}/{PAST}"]} if depth else {}
    pipeline: dict[str, Any] = {
        "data_flow": {},
        "feedback_flow": feedback,
        "inputs": {MODEL: [*(term.name for term in terms), NOISE]},
        "outputs": {MODEL: [_chunk(group) for group in spec.action_groups]},
        "configs": {"frequency": spec.control_rate_hz},
    }
    if depth:
        from safetensors.numpy import save

        # what is not known yet, for which the graph takes the first observation
        nothing = np.full((1, depth, len(spec.sensor_indices())), np.nan, np.float32)
        pipeline["initial_values"] = f"{title}_initial_values.safetensors"
        write_file(staging / pipeline["initial_values"], save({f"{MODEL}/{PAST}": nothing}))
    model = {
        "inputs": _inputs(terms, entry, depth, spec),
        "outputs": _outputs(spec, depth),
        "parameters": {
            "model_path": f"{MODEL}.onnx",
            "md5sum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "sha256sum": hashlib.sha256(data).hexdigest(),
            "backend": "onnx",
        },
    }
    described = {
        "models": {MODEL: model},
        "pipeline": pipeline,
        "semantic": {"scene": {"dt": spec.step_s}},  # where Isaac ROS Deploy looks for the time between a chunk's steps
        "system information": {"leapp config version": FORMAT, "bundle_sha256": loaded.identity, **versions()},
    }
    text = yaml.safe_dump(described, sort_keys=False, width=120, default_flow_style=None)
    write_file(staging / f"{title}.yaml", text.encode())
    worst = _difference(staging / f"{MODEL}.onnx", loaded, policy, terms, depth)
    if worst > TOLERANCE:
        raise SrdpError(f"{bundle}: {policy} answers otherwise as a LEAPP graph, by {worst:.2g} scales of an action")
    shutil.rmtree(output, ignore_errors=True)
    staging.rename(output)
    path = output / f"{title}.yaml"
    print(f"{path}: {len(terms)} terms and {NOISE} in, {len(spec.action_groups)} chunks of {spec.horizon} out")
    print(f"call it at {spec.control_rate_hz:g} Hz; neither limits nor abstention go with it (docs/leapp.md)")
    return {
        "seed": 0,
        "leapp": str(path),
        "max_difference": worst,
        "inputs": model["inputs"],
        "outputs": model["outputs"],
    }


def input_terms(spec: PolicySpec) -> list[Term]:
    """The sensors of a spec by topic and kind; those of which LEAPP knows no kind, as they are, in a last term."""
    found: dict[tuple[str, str], Term] = {}
    rest: list[ObservationComponent] = []
    sensors = [spec.observation[index] for index in spec.sensor_indices()]
    for place, component in enumerate(sensors):
        source, (kind, elements, element) = component.source, _kind_of(component)
        if not kind or not isinstance(source, TopicSource):
            rest.append(component)
            continue
        name = "_".join([*re.findall(r"\w+", source.topic), kind.rpartition("/")[2]])
        facts = {"topic": source.topic, "message_type": source.type, "frame": source.frame}
        term = found.setdefault((source.topic, kind), Term(name, kind, list(elements), [-1] * len(elements), facts))
        if elements:
            term.sensors[elements.index(element)] = place
        else:
            term.elements.append(element)
            term.sensors.append(place)
    terms = list(found.values())
    if rest:
        units = {"units": [component.unit for component in rest]}
        names = [component.name for component in rest]
        terms.append(Term("observation_terms", "", names, [sensors.index(component) for component in rest], units))
    return terms


def _depth(spec: PolicySpec) -> int:
    """Steps of the longest history.

    Raises:
        SrdpError: a history is not whole steps old.
    """
    ages = [age / spec.step_s for _, _, age in spec.observation_history_columns()]
    if any(abs(age - round(age)) > 1e-3 for age in ages):
        raise SrdpError(
            f"histories must be whole control steps old; they are {', '.join(f'{age:.3g}' for age in ages)}"
        )
    return max((round(age) for age in ages), default=0)


def leapp_graph(bundle: LoadedBundle, entry: PolicyEntry, terms: list[Term], depth: int) -> onnx.ModelProto:
    """A bundle's graph between LEAPP's inputs (terms, noise, past observations) and outputs (a chunk a group)."""
    spec, model = bundle.spec, onnx.load_from_string(bundle.read(entry))
    before: list[Any] = []
    after: list[Any] = []

    def constant(name: str, values: Any) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), f"leapp_{name}"))
        return f"leapp_{name}"

    def node(kind: str, inputs: list[str], name: str, **how: Any) -> str:
        nodes = after if inputs[0] == "action" else before
        nodes.append(helper.make_node(kind, inputs, [name], **how))
        return name

    # the sensors in the spec's order, now and before, one after another
    columns = {sensor: place for place, sensor in enumerate(s for term in terms for s in term.sensors) if sensor >= 0}
    sensors = len(columns)
    sensed = node("Concat", [term.name for term in terms], "leapp_sensed", axis=1)
    seen = node("Gather", [sensed, constant("columns", [columns[s] for s in range(sensors)])], "leapp_now", axis=1)
    if depth:
        now = node("Unsqueeze", [seen, constant("one", [1])], "leapp_now_step")
        unknown = node("IsNaN", [PAST], "leapp_unknown")
        known = node("Where", [unknown, now, PAST], "leapp_known")
        steps = node("Concat", [now, known], "leapp_steps", axis=1)
        bounds = [constant("first", [0]), constant("depth", [depth]), constant("steps_axis", [1])]
        node("Slice", [steps, *bounds], PAST_OUT)
        seen = node("Flatten", [steps], "leapp_seen", axis=1)
    places = {index: place for place, index in enumerate(spec.sensor_indices())}
    ages = {index: (of, round(age / spec.step_s)) for index, of, age in spec.observation_history_columns()}
    order = [
        ages[index][1] * sensors + places[ages[index][0]] if index in ages else places[index]
        for index in range(spec.obs_dim)
    ]
    node("Gather", [seen, constant("order", order)], "observation", axis=1)
    node("Identity", [NOISE], "noise")
    for group, part in spec.group_slices():
        chosen = constant(f"group_{group.name}", list(range(part.start, part.stop)))
        node("Gather", ["action", chosen], _chunk(group), axis=2)

    def values(name: str, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [values(term.name, [1, len(term.elements)]) for term in terms]
    inputs.append(values(NOISE, [1, *entry.noise_shape]))
    outputs = [values(_chunk(group), [1, spec.horizon, len(group.components)]) for group in spec.action_groups]
    if depth:
        inputs.append(values(PAST, [1, depth, sensors]))
        outputs.append(values(PAST_OUT, [1, depth, sensors]))
    graph = helper.make_graph(
        [*before, *model.graph.node, *after], MODEL, inputs, outputs, list(model.graph.initializer)
    )
    made = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    made.functions.extend(model.functions)
    onnx.checker.check_model(made)
    return made


def _tensor(name: str, shape: list[int], **facts: Any) -> dict[str, Any]:
    told = {key: value for key, value in facts.items() if value not in ("", None, [])}
    return {"name": name, "dtype": "float32", "shape": shape, "type": "tensor", **told}


def _inputs(terms: list[Term], entry: PolicyEntry, depth: int, spec: PolicySpec) -> list[dict[str, Any]]:
    kinds = [term.kind for term in terms]
    described = []
    for term in terms:
        named = not any(element.isdigit() for element in term.elements)  # joints that the message only numbers
        described.append(
            _tensor(
                term.name,
                [1, len(term.elements)],
                kind=term.kind,
                element_names=[[], term.elements] if named else [],
                # by default a kind is one source
                source=term.name if term.kind and kinds.count(term.kind) > 1 else "",
                **term.facts,
            )
        )
    described.append(_tensor(NOISE, [1, *entry.noise_shape]))
    if depth:
        described.append(_tensor(PAST, [1, depth, len(spec.sensor_indices())]))
    return described


def _outputs(spec: PolicySpec, depth: int) -> list[dict[str, Any]]:
    described = []
    for group in spec.action_groups:
        one = group.components
        described.append(
            _tensor(
                _chunk(group),
                [1, spec.horizon, len(one)],
                kind=_output_kind(group),
                element_names=[[], [], [_element(spec, group, action) for action in one]],
                temporal_period_ms=1e3 * spec.step_s,
                units=[action.unit for action in one],
                lower=[action.lower for action in one],
                upper=[action.upper for action in one],
            )
        )
    return [*described, *([_tensor(PAST_OUT, [1, depth, len(spec.sensor_indices())])] if depth else [])]


def _chunk(group: ActionGroup) -> str:
    """The output's name: like no value inside the bundle's graph, and without LEAPP's separator."""
    return re.sub(r"\W+", "_", group.name) + "_chunk"


def _output_kind(group: ActionGroup) -> str:
    if group.kind == "twist" and all(action.field.startswith("twist.linear.") for action in group.components):
        return "target/body/linear_velocity"
    return OUTPUT_KINDS.get(group.kind, "")


def _element(spec: PolicySpec, group: ActionGroup, action: ActionComponent) -> str:
    """The joint that a component commands, or the axis, where the spec says it; its name otherwise."""
    if group.kind == "twist":
        return action.field.rpartition(".")[2] if _output_kind(group) else action.name
    fields = [action.field]
    if action.measured_by is not None:
        source = spec.observation[spec.observation_index(action.measured_by)].source
        fields.append(getattr(source, "field", ""))
    joints = [match[1] for field in fields if (match := re.search(r"\[(.*\D.*)\]$", field))]
    return joints[0] if joints else action.name


def _difference(model: Path, bundle: LoadedBundle, policy: str, terms: list[Term], depth: int) -> float:
    """Largest difference of the chunks from the bundle's own, in scales, in calls one after another."""
    spec, rng = bundle.spec, np.random.default_rng(0)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (centre, scale), action_scale = spec.observation_normalisation(), spec.action_normalisation()[1]
    sensors, history = spec.sensor_indices(), spec.observation_history_columns()
    policies = BatchedPolicy(bundle, policy)
    past = {PAST: np.full((1, depth, len(sensors)), np.nan, np.float32)} if depth else {}
    states: list[np.ndarray] = []
    worst = 0.0
    for _ in range(TRIED):
        state = (centre + scale * rng.standard_normal(spec.obs_dim)).astype(np.float32)
        for index, of, age in history:
            ago = round(age / spec.step_s)
            state[index] = states[max(0, len(states) - ago)][of] if states else state[of]
        states.append(state)
        noise = rng.standard_normal((1, *policies.noise_shape)).astype(np.float32)
        sensed = {
            term.name: np.array([[0.0 if s < 0 else state[sensors[s]] for s in term.sensors]], np.float32)
            for term in terms
        }
        answer = dict(
            zip(
                [output.name for output in session.get_outputs()],
                session.run(None, {**sensed, NOISE: noise, **past}),
                strict=True,
            )
        )
        if depth:
            past[PAST] = answer.pop(PAST_OUT)
        found = np.concatenate([answer[_chunk(group)] for group in spec.action_groups], axis=2)
        worst = max(worst, float((np.abs(found - policies(state[None], noise)) / action_scale).max()))
    return worst


# --- import --------------------------------------------------------------------------------------


class LeappPolicy(NamedTuple):
    """One graph of a LEAPP folder: its file, the inputs that make up the observation, the outputs that are actions."""

    model: Path
    inputs: list[str]
    elements: dict[str, list[str]]  # of the inputs that name theirs
    noise: str  # empty: it takes none
    outputs: list[str]


def read_leapp(path: Path) -> LeappPolicy:
    """What ``srdp import`` takes of a LEAPP description.

    Raises:
        SrdpError: it is none, or more than one ONNX graph without state.
    """
    try:
        described = yaml.safe_load(path.read_text())
        models, pipeline = described["models"], described["pipeline"]
        if len(models) != 1:
            raise SrdpError(f"{path}: {len(models)} models ({', '.join(models)}); a bundle's policy is one graph")
        (name, model), *_ = models.items()
        parameters = model["parameters"]
        if parameters["backend"] != "onnx":
            raise SrdpError(f"{path}: backend {parameters['backend']!r}; export it with an ONNX backend")
        state = [target for targets in (pipeline.get("feedback_flow") or {}).values() for target in targets]
        if state:
            raise SrdpError(
                f"{path}: it keeps state between two calls ({', '.join(state)}), a bundle's policy does not"
            )
        given, told = pipeline["inputs"][name], {one["name"]: one for one in model["outputs"]}
        outputs = [one for one in pipeline["outputs"][name] if told[one].get("kind") not in GAINS]
        names = {one["name"]: (one.get("element_names") or [[]])[-1] for one in model["inputs"]}
        file = path.parent / parameters["model_path"]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise SrdpError(f"{path}: no LEAPP description ({type(error).__name__}: {error})") from None
    if digest != parameters["sha256sum"]:
        raise SrdpError(f"{file}: its SHA-256 is not the one of {path.name}")
    inputs = [one for one in given if one != NOISE]
    elements = {one: names[one] for one in inputs if names[one]}
    return LeappPolicy(file, inputs, elements, NOISE if NOISE in given else "", outputs)


def check_elements(policy: LeappPolicy, sizes: list[int], spec: PolicySpec) -> None:
    """The joints and axes that a description's inputs name are those that the spec has there.

    Raises:
        SrdpError: they are others, or in another order.
    """
    begin = 0
    for name, size in zip(policy.inputs, sizes, strict=True):
        there, begin = spec.observation[begin : begin + size], begin + size
        found = [element_of(component) for component in there]
        wanted = policy.elements.get(name)
        if wanted and all(found) and found != wanted:
            raise SrdpError(
                f"{policy.model}: its input {name} is {', '.join(wanted)}; the spec observes {', '.join(found)} there"
            )


def element_of(component: ObservationComponent) -> str:
    """The joint or axis that a component reads; empty where LEAPP has no kind for it."""
    return _kind_of(component)[2]


def _kind_of(component: ObservationComponent) -> tuple[str, str, str]:
    """Kind, the elements of such a term (empty: those that are observed) and which of them a component is."""
    source = component.source
    for pattern, kind, elements in INPUT_KINDS if isinstance(source, TopicSource) else ():
        match = re.fullmatch(pattern, getattr(source, "field", ""))
        if match is not None:
            return kind, elements, match[1]
    return "", "", ""
