"""Half-precision variant of an exported graph; inputs and outputs stay float32.

Precision lives in the graph and never in a builder's flag, so that ONNX Runtime, TensorRT 10 and 11 and
TensorRT-RTX all run the same numbers.
"""

from __future__ import annotations

import onnx

from srdp_controller.errors import EngineError

PRECISIONS = ("fp32", "fp16")


def convert(graph: bytes, precision: str) -> bytes:
    """ONNX bytes of ``graph`` in another precision; ``fp16``: weights and arithmetic in half precision.

    Raises:
        EngineError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"precision {precision!r} is unknown; choose one of: {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return graph
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True, disable_shape_infer=True)
    return bytes(model.SerializeToString())
