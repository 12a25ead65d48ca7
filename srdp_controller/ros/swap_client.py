"""``srdp swap``: sets the running controller's ``engine`` parameter, for machines without ``ros2``."""

from __future__ import annotations

import time

import rclpy
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from srdp_controller.errors import SrdpError

CONTROLLER = "/srdp_controller"


def set_engine(node: Node, engine: str, timeout_s: float) -> None:
    """Set the parameter through the node's service.

    Raises:
        SrdpError: no controller answers, or it refuses the engine; the message is its reason.
    """
    client = node.create_client(SetParameters, f"{CONTROLLER}/set_parameters")
    if not client.wait_for_service(timeout_s):
        raise SrdpError(f"no {CONTROLLER} answers within {timeout_s:.0f} s; is it running, on this ROS_DOMAIN_ID?")
    request = SetParameters.Request(parameters=[Parameter("engine", value=engine).to_parameter_msg()])
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=timeout_s)
    response = future.result()
    if response is None:
        raise SrdpError(f"{CONTROLLER} did not answer within {timeout_s:.0f} s")
    if not response.results[0].successful:
        raise SrdpError(response.results[0].reason)


def get_engine(node: Node, timeout_s: float) -> str:
    """The controller's ``engine`` parameter."""
    client = node.create_client(GetParameters, f"{CONTROLLER}/get_parameters")
    client.wait_for_service(timeout_s)
    future = client.call_async(GetParameters.Request(names=["engine"]))
    rclpy.spin_until_future_complete(node, future, timeout_sec=timeout_s)
    response = future.result()
    if response is None or response.values[0].type != ParameterType.PARAMETER_STRING:
        raise SrdpError(f"{CONTROLLER} did not answer within {timeout_s:.0f} s")
    return str(response.values[0].string_value)


def request_swap(engine: str, timeout_s: float) -> str:
    """Swap the engine from a short-lived node; returns what to tell the operator."""
    rclpy.init()
    node = Node("srdp_swap")
    try:
        set_engine(node, engine, timeout_s)
        time.sleep(1.0)  # the engine is prepared in the background; a refusal sets the parameter back
        now = get_engine(node, timeout_s)
        if now != engine:
            raise SrdpError(f"the controller refused {engine} and goes on with {now}; its log says why")
        return f"{CONTROLLER} drives with {engine}"
    finally:
        node.destroy_node()
        rclpy.shutdown()
