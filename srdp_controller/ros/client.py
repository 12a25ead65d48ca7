"""Talks to a running controller: sets and reads its parameters, for machines without ``ros2``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter
from tyro.conf import Positional

from srdp_controller.errors import SrdpError

CONTROLLER = "/srdp_controller"


def _answer(node: Node, future: Any, timeout_s: float) -> Any:
    # on the node's own executor where it has one: the global one would take the node away from it
    rclpy.spin_until_future_complete(node, future, node.executor, timeout_s)
    return future.result()


def set_parameters(node: Node, changes: dict[str, str], timeout_s: float) -> None:
    """Set string parameters together, through the node's service: one swap, not one for each.

    Raises:
        SrdpError: no controller answers, or it refuses; the message is its reason.
    """
    client = node.create_client(SetParametersAtomically, f"{CONTROLLER}/set_parameters_atomically")
    if not client.wait_for_service(timeout_s):
        raise SrdpError(f"no {CONTROLLER} answers within {timeout_s:.0f} s; is it running, on this ROS_DOMAIN_ID?")
    messages = [Parameter(name, value=value).to_parameter_msg() for name, value in changes.items()]
    future = client.call_async(SetParametersAtomically.Request(parameters=messages))
    response = _answer(node, future, timeout_s)
    if response is None:
        raise SrdpError(f"{CONTROLLER} did not answer within {timeout_s:.0f} s")
    if not response.result.successful:
        raise SrdpError(response.result.reason)


def get_parameters(node: Node, names: list[str], timeout_s: float) -> dict[str, str]:
    """The controller's string parameters.

    Raises:
        SrdpError: no controller answers.
    """
    client = node.create_client(GetParameters, f"{CONTROLLER}/get_parameters")
    client.wait_for_service(timeout_s)
    future = client.call_async(GetParameters.Request(names=names))
    response = _answer(node, future, timeout_s)
    if response is None or any(value.type != ParameterType.PARAMETER_STRING for value in response.values):
        raise SrdpError(f"{CONTROLLER} did not answer within {timeout_s:.0f} s")
    return {name: str(value.string_value) for name, value in zip(names, response.values, strict=True)}


def request_swap(changes: dict[str, str], timeout_s: float) -> str:
    """Swap engine, bundle (``model_dir``) or provider from a short-lived node; returns what to tell the operator."""
    rclpy.init()
    node = Node("srdp_swap")
    try:
        set_parameters(node, changes, timeout_s)
        time.sleep(1.5)  # the engine is prepared in the background; a refusal sets the parameters back
        now = get_parameters(node, list(changes), timeout_s)
        wished = ", ".join(f"{name} {value}" for name, value in changes.items())
        if now != changes:
            kept = ", ".join(f"{name} {value}" for name, value in now.items())
            raise SrdpError(f"the controller refused {wished} and goes on with {kept}; its log says why")
        return f"{CONTROLLER} drives with {wished}"
    finally:
        node.destroy_node()
        rclpy.shutdown()


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
    message = request_swap(changes, timeout)
    print(message)
    return {"seed": None, **changes, "message": message}
