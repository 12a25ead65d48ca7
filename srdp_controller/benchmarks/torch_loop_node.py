"""The controller with its policy in PyTorch eager: a baseline of ``srdp bench loop``, nothing to deploy."""

from __future__ import annotations

import sys

from srdp_controller.benchmarks.torch_engine import load_torch_engine
from srdp_controller.ros.controller_node import ControllerNode, light_executor, run_node


class TorchControllerNode(ControllerNode):
    """``ControllerNode`` with another engine underneath."""

    load = staticmethod(load_torch_engine)


if __name__ == "__main__":
    sys.exit(run_node(TorchControllerNode, light_executor, None))
