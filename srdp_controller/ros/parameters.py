"""A node's parameters: declared from a YAML file (type, default, range, choices), and those that swap the engine."""

from __future__ import annotations

import difflib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from srdp_controller.control.deployment import DeploymentRequest, DeploymentSlot
from srdp_controller.engines.bundle import load_bundle
from srdp_controller.errors import SrdpError, cause_of
from srdp_controller.resources import find_resource

_TYPES = {
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "double": Parameter.Type.DOUBLE,
    "string": Parameter.Type.STRING,
    "int_array": Parameter.Type.INTEGER_ARRAY,
    "double_array": Parameter.Type.DOUBLE_ARRAY,
    "string_array": Parameter.Type.STRING_ARRAY,
}
OTHERS = ("use_sim_time", "qos_overrides.", "start_type_description_service")  # rclpy's own
Schema = dict[str, dict[str, Any]]


def load_schema(name: str) -> Schema:
    """Schema of ``config/NAME``: parameter -> type, default, range, one_of, read_only, description."""
    schema: Schema = yaml.safe_load(Path(find_resource(f"config/{name}")).read_text())
    return schema


def declare(node: Node, schema: Schema) -> dict[str, Any]:
    """Declare all parameters and return their values.

    Raises:
        SrdpError: values given at the start have the wrong type or are out of range; all of them are named.
    """
    values, problems = {}, []
    for name, entry in schema.items():
        kind = _TYPES[entry["type"]]
        descriptor = ParameterDescriptor(
            description=entry["description"], read_only=entry.get("read_only", False), type=kind.value
        )
        if "range" in entry:
            low, high = entry["range"]
            if entry["type"] == "int":
                descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        try:
            default = kind if entry["default"] == [] else Parameter(name, kind, entry["default"]).value
            value = node.declare_parameter(name, default, descriptor).value
        except Exception as error:  # rclpy raises several types for a wrong override
            expected = f"expected {entry['type']}" + (f" in {entry['range']}" if "range" in entry else "")
            problems.append(f"parameter {name}: {error}; {expected}")
            continue
        values[name] = [] if value is None else value
        wrong = not_a_choice(name, entry, value)
        problems += [wrong] if wrong else []
    if problems:
        raise SrdpError("\n".join(problems))
    for name in sorted(set(getattr(node, "_parameter_overrides", {})) - set(schema)):
        if not name.startswith(OTHERS):
            near = difflib.get_close_matches(name, schema, 1)
            node.get_logger().warning(
                f"parameter {name} is not one of this node's{f'; did you mean {near[0]}?' if near else ''}"
            )
    return values


def not_a_choice(name: str, entry: dict[str, Any], value: Any) -> str:
    """What is wrong with a value of a parameter that has choices; empty where nothing is."""
    choices = entry.get("one_of")
    return (
        f"parameter {name}: {value!r} is not one of: {', '.join(choices)}" if choices and value not in choices else ""
    )


def bundle_folder(model_dir: str) -> Path:
    """The folder that a ``model_dir`` parameter stands for; empty: the shipped bundle."""
    return Path(model_dir) if model_dir else find_resource("models/pushing")


class DeploymentParameters:
    """The parameters of a ``DeploymentRequest``: setting one asks for a swap, and what they say is what drives.

    An accepted change is prepared in the background; where that fails, ``follow`` sets the parameters back.
    """

    FIELDS: ClassVar = {  # by parameter
        "engine": "engine",
        "model_dir": "model_dir",
        "provider": "provider",
        "sampling.candidates": "candidates",
    }

    def __init__(self, node: Node, schema: Schema) -> None:
        self._node, self._schema = node, schema
        self._lock = threading.RLock()
        self._following = False
        self.slot: DeploymentSlot | None = None  # of the loop; None while nothing is configured
        node.add_on_set_parameters_callback(self._on_set)

    def request(self) -> DeploymentRequest:
        """What the parameters say."""
        return DeploymentRequest(**{field: self._node.get_parameter(name).value for name, field in self.FIELDS.items()})

    def follow(self) -> str:
        """Set the parameters to what drives, unless a change is under way; returns why the last change failed."""
        slot = self.slot
        if slot is None:
            return ""
        with self._lock:
            refusal, slot.refusal = slot.refusal, ""
            driving = slot.current.request
            if not slot.busy and self.request() != driving:
                self._following = True
                try:
                    self._node.set_parameters(
                        [Parameter(name, value=getattr(driving, field)) for name, field in self.FIELDS.items()]
                    )
                finally:
                    self._following = False
        return f"swap refused: {refusal}; {driving.engine} goes on" if refusal else ""

    def _on_set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        with self._lock:
            try:
                if not self._following:
                    self._accept({item.name: item.value for item in parameters if item.name in self.FIELDS})
            except Exception as error:  # whatever it is, the parameter keeps what drives
                return SetParametersResult(successful=False, reason=cause_of(error))
        return SetParametersResult(successful=True)

    def _accept(self, changes: dict[str, Any]) -> None:
        if not changes:
            return
        problems = [not_a_choice(name, self._schema[name], value) for name, value in changes.items()]
        if any(problems):
            raise SrdpError("; ".join(filter(None, problems)))
        request = replace(self.request(), **{self.FIELDS[name]: value for name, value in changes.items()})
        load_bundle(bundle_folder(request.model_dir)).policy(request.engine)
        if self.slot is not None:
            self.slot.request(request)
