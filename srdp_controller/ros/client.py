"""Talks to a running controller: sets and reads its parameters, for machines without ``ros2``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from tyro.conf import Positional

from srdp_controller.errors import SrdpError

CONTROLLER = "/srdp_controller"


def _call(node: Node, kind: Any, service: str, request: Any, timeout_s: float) -> Any:
    client = node.create_client(kind, f"{CONTROLLER}/{service}")
    try:
        if not client.wait_for_service(timeout_s):
            raise SrdpError(f"no {CONTROLLER} answers within {timeout_s:.0f} s; is it running, on this ROS_DOMAIN_ID?")
        future = client.call_async(request)
        # on the node's own executor where it has one: the global one would take the node away from it
        rclpy.spin_until_future_complete(node, future, node.executor, timeout_s)
        if future.result() is None:
            raise SrdpError(f"{CONTROLLER} did not answer within {timeout_s:.0f} s")
        return future.result()
    finally:
        node.destroy_client(client)


def set_parameters(node: Node, changes: Mapping[str, Any], timeout_s: float) -> None:
    """Set the controller's parameters together, through the node's service: one swap, not one for each.

    Raises:
        SrdpError: no controller answers, or it refuses; the message is its reason.
    """
    messages = [Parameter(name, value=value).to_parameter_msg() for name, value in changes.items()]
    request = SetParametersAtomically.Request(parameters=messages)
    result = _call(node, SetParametersAtomically, "set_parameters_atomically", request, timeout_s).result
    if not result.successful:
        raise SrdpError(result.reason)


def get_parameters(node: Node, names: list[str], timeout_s: float) -> dict[str, Any]:
    """The controller's parameters.

    Raises:
        SrdpError: no controller answers.
    """
    values = _call(node, GetParameters, "get_parameters", GetParameters.Request(names=names), timeout_s).values
    return {name: parameter_value_to_python(value) for name, value in zip(names, values, strict=True)}


def swap(
    engine: Positional[str] = "", *, model: Path | None = None, provider: str = "", timeout: float = 10.0
) -> dict[str, Any]:
    """Swap the running controller's engine, bundle or provider.

    Args:
        engine: a policy of the bundle
        model: folder of another bundle for the same robot
        provider: cpu, cuda, tensorrt or tensorrt_rtx
        timeout: of an answer [s]

    Raises:
        SrdpError: nothing to swap, no controller answers, or it refuses; the message is its reason.
    """
    wished = {"engine": engine, "model_dir": str(model.resolve()) if model else "", "provider": provider}
    changes = {name: value for name, value in wished.items() if value}
    if not changes:
        raise SrdpError("swap what? Give an engine, --model or --provider")
    rclpy.init()
    node = Node("srdp_swap")
    try:
        set_parameters(node, changes, timeout)
        time.sleep(1.5)  # the engine is prepared in the background; a refusal sets the parameters back
        now = get_parameters(node, list(changes), timeout)
    finally:
        node.destroy_node()
        rclpy.shutdown()
    asked, kept = (", ".join(f"{name} {value}" for name, value in which.items()) for which in (changes, now))
    if now != changes:
        raise SrdpError(f"the controller refused {asked} and goes on with {kept}; its log says why")
    message = f"{CONTROLLER} drives with {asked}"
    print(message)
    return {"seed": None, **changes, "message": message}
