"""Bundles whose engines misbehave on cue, for ``srdp bench faults``: real graphs, valid hashes, real failures.

The cue is an observation: while one component lies beyond a value, the edited policy answers NaN, fails inside the
runtime, or takes long. Nothing in the controller knows of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from srdp_controller.benchmarks.still_robot import Cue
from srdp_controller.engines.bundle import Bundle, load_bundle, sha256, write_bundle
from srdp_controller.files import write_file

Misbehaviour = Literal["nan", "fail", "slow"]
SLOW_STEPS = 400_000  # about a quarter of a second; a hung engine takes twenty times as many


def _edit(graph: bytes, cue: Cue, kind: Misbehaviour, steps: int) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    nodes, constants = model.graph.node, model.graph.initializer

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), f"fault_{name}"))
        return f"fault_{name}"

    for node in nodes:  # what was the action is now the healthy action
        for index, output in enumerate(node.output):
            if output == "action":
                node.output[index] = "fault_healthy"
        for index, name in enumerate(node.input):
            if name == "action":
                node.input[index] = "fault_healthy"
    at, beyond = constant("index", np.array(cue.index, np.int64)), constant("cue", np.array(cue.between, np.float32))
    nodes.extend(
        [
            helper.make_node("Gather", ["observation", at], ["fault_cue_each"], axis=1),
            helper.make_node("ReduceMax", ["fault_cue_each"], ["fault_cue_value"], keepdims=0),
            helper.make_node(
                "Greater" if cue.value > cue.between else "Less", ["fault_cue_value", beyond], ["fault_on"]
            ),
        ]
    )
    zero = constant("zero", np.array(0.0, np.float32))
    if kind == "nan":
        bad = constant("nan", np.array(np.nan, np.float32))
        nodes.append(helper.make_node("Where", ["fault_on", bad, zero], ["fault_added"]))
    elif kind == "fail":
        far, near = constant("far", np.array(7, np.int64)), constant("near", np.array(0, np.int64))
        one = constant("one", np.zeros(1, np.float32))
        nodes.append(helper.make_node("Where", ["fault_on", far, near], ["fault_place"]))
        nodes.append(helper.make_node("Gather", [one, "fault_place"], ["fault_added"], axis=0))
    else:
        many, none = constant("many", np.array(steps, np.int64)), constant("none", np.array(0, np.int64))
        nodes.append(helper.make_node("Where", ["fault_on", many, none], ["fault_trips"]))
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["fault_go"], ["fault_go_out"]),
                helper.make_node("Mul", ["fault_x", "fault_x"], ["fault_y"]),
            ],
            "fault_delay",
            [
                helper.make_tensor_value_info("fault_i", TensorProto.INT64, []),
                helper.make_tensor_value_info("fault_go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("fault_x", TensorProto.FLOAT, []),
            ],
            [
                helper.make_tensor_value_info("fault_go_out", TensorProto.BOOL, []),
                helper.make_tensor_value_info("fault_y", TensorProto.FLOAT, []),
            ],
        )
        nodes.append(
            helper.make_node(
                "Loop", ["fault_trips", constant("true", np.array(True)), zero], ["fault_added"], body=body
            )
        )
    nodes.append(helper.make_node("Add", ["fault_healthy", "fault_added"], ["action"]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def misbehaving_bundle(source: Path, target: Path, policy: str, cue: Cue, kind: Misbehaviour, steps: int) -> Path:
    """A copy of a bundle in which one policy misbehaves on cue; returns its folder."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("results"))
    bundle = load_bundle(target)
    entry = bundle.policy(policy)
    graph = _edit(bundle.read(entry), cue, kind, steps)
    write_file(target / entry.file, graph)
    policies = {**bundle.content.policies, policy: entry.model_copy(update={"sha256": sha256(graph)})}
    write_bundle(target, Bundle.model_validate({**bundle.content.model_dump(), "policies": policies}))
    return target
