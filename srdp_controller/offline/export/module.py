"""A module of PyTorch, observation in and action out, as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from srdp_controller.errors import SrdpError
from srdp_controller.offline.export.graphs import OPSET, quiet_exporter
from srdp_controller.spec import PolicySpec
from srdp_controller.tasks.task import load_object


def export_module(name: str, spec: PolicySpec, file: Path) -> Path:
    """The ``torch.nn.Module`` that ``module:function`` makes of the spec, exported to ``file``, batch dimension free.

    It takes observations (B, obs_dim) and gives horizon * act_dim numbers of each.

    Raises:
        SrdpError: there is no such function, it returns something else, or the module cannot be exported.
    """
    made = load_object(name, "srdp import")(spec)
    if not isinstance(made, nn.Module):
        raise SrdpError(f"{name}: returned {type(made).__name__}, expected a torch.nn.Module")
    batch = torch.export.Dim("batch", min=1, max=65536)
    try:
        with quiet_exporter():
            torch.onnx.export(
                made.eval(),
                (torch.zeros(2, spec.obs_dim),),
                str(file),
                dynamo=True,
                input_names=["observation"],
                output_names=["action"],
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises types of its own, and whatever the module raises
        raise SrdpError(f"{name}: PyTorch cannot export it ({str(error).strip().splitlines()[0]})") from None
    return file
