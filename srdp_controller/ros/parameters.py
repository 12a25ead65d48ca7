"""Declares a node's parameters from its YAML file: type, default, range, description, read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from srdp_controller.errors import SrdpError
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


def load_schema(name: str) -> dict[str, dict[str, Any]]:
    """Schema of ``config/NAME``: parameter -> type, default, range, one_of, read_only, description."""
    schema: dict[str, dict[str, Any]] = yaml.safe_load(Path(find_resource(f"config/{name}")).read_text())
    return schema


def declare(node: Node, schema: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Declare all parameters and return their values.

    Raises:
        SrdpError: a value given at the start has the wrong type or is out of range.
    """
    values = {}
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
        default = Parameter(name, kind, entry["default"])
        try:
            value = node.declare_parameter(name, default.value if entry["default"] != [] else kind, descriptor).value
        except Exception as error:  # rclpy raises several types for a wrong override
            raise SrdpError(f"parameter {name}: {error}; {expectation(entry)}") from None
        values[name] = [] if value is None else value
        choices = entry.get("one_of")
        if choices and value not in choices:
            raise SrdpError(f"parameter {name}: {value!r} is not one of: {', '.join(choices)}")
    return values


def expectation(entry: dict[str, Any]) -> str:
    """What a parameter accepts, in words."""
    text = f"expected {entry['type']}"
    if "range" in entry:
        text += f" in [{entry['range'][0]}, {entry['range'][1]}]"
    return text


def refuse(reason: str) -> SetParametersResult:
    """Answer to a parameter that is not accepted."""
    return SetParametersResult(successful=False, reason=reason)
