"""Bundles whose engines misbehave on cue, for ``srdp bench faults``: real graphs, valid hashes, real failures.

The cue is an observation: while one component lies beyond a value, the edited policy answers NaN, fails inside the
runtime, or takes long. Nothing in the controller knows of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from srdp_controller.benchmarks.still_robot import Cue
from srdp_controller.engines.bundle import Bundle, load_bundle, sha256, write_bundle
from srdp_controller.files import write_file

Misbehaviour = Literal["nan", "fail", "slow"]
SLOW_STEPS = 400_000  # about a quarter of a second; a hung engine takes twenty times as many


# what is added to every action while ``fault_on`` holds, in ONNX's textual syntax
ADDED: dict[Misbehaviour, str] = {
    "nan": """
        fault_nan = Constant <value = float {nan}> ()
        fault_added = Where(fault_on, fault_nan, fault_zero)""",
    "fail": """
        fault_one = Constant <value = float[1] {0.0}> ()
        fault_outside = Constant <value = int64 {7}> ()
        fault_inside = Constant <value = int64 {0}> ()
        fault_place = Where(fault_on, fault_outside, fault_inside)
        fault_added = Gather <axis = 0> (fault_one, fault_place)""",
    "slow": """
        fault_many = Constant <value = int64 {STEPS}> ()
        fault_none = Constant <value = int64 {0}> ()
        fault_true = Constant <value = bool {1}> ()
        fault_trips = Where(fault_on, fault_many, fault_none)
        fault_added = Loop (fault_trips, fault_true, fault_zero) <body = fault_delay
            (int64 fault_i, bool fault_go, float fault_x) => (bool fault_go_out, float fault_y)
            { fault_go_out = Identity(fault_go) fault_y = Mul(fault_x, fault_x) }>""",
}


def _edit(graph: bytes, cue: Cue, kind: Misbehaviour, steps: int) -> bytes:
    import onnx
    from onnx import parser

    model = onnx.load_from_string(graph)
    for node in model.graph.node:  # what was the action is now the healthy action
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == "action":
                    names[place] = "fault_healthy"
    fault = f"""fault (float[b,o] observation, float[b,h,a] fault_healthy) => (float[b,h,a] action) {{
        fault_index = Constant <value = int64 {{{cue.index}}}> ()
        fault_beyond = Constant <value = float {{{cue.between:.9g}}}> ()
        fault_zero = Constant <value = float {{0.0}}> ()
        fault_each = Gather <axis = 1> (observation, fault_index)
        fault_value = ReduceMax <keepdims = 0> (fault_each)
        fault_on = {"Greater" if cue.value > cue.between else "Less"}(fault_value, fault_beyond)
        {ADDED[kind].replace("STEPS", str(steps))}
        action = Add(fault_healthy, fault_added)
    }}"""
    model.graph.node.extend(parser.parse_graph(fault).node)
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
