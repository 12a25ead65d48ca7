"""Half-precision and 8-bit variants of an exported graph; inputs and outputs stay float32.

Precision lives in the graph and never in a builder's flag, so that ONNX Runtime, TensorRT 10 and 11 and
TensorRT-RTX all run the same numbers.
"""

from __future__ import annotations

import onnx

from srdp_controller.errors import EngineError

PRECISIONS = ("fp32", "fp16", "int8")
BLOCK = 64
INT8_ARITHMETIC = 4  # ONNX Runtime's accuracy_level


def convert(graph: bytes, precision: str) -> bytes:
    """ONNX bytes of ``graph`` in another precision.

    ``fp16``: weights and arithmetic in half precision. ``int8``: weights in 8 bits with a scale for each block
    of 64, products in 8-bit integers (ONNX Runtime's MatMulNBits, for processors).

    Raises:
        EngineError: the precision is unknown.
        NotImplementedError: the graph cannot be converted, and why.
    """
    if precision == "fp32":
        return graph
    if precision == "fp16":
        return _half(graph)
    if precision == "int8":
        return _eight_bits(graph)
    raise EngineError(f"precision {precision!r} is unknown; choose one of: {', '.join(PRECISIONS)}")


def _half(graph: bytes) -> bytes:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True, disable_shape_infer=True)
    return bytes(model.SerializeToString())


def _eight_bits(graph: bytes) -> bytes:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(onnx.load_from_string(graph))
    if any(node.op_type == "Loop" for node in model.graph().node):
        raise NotImplementedError("the layers inside a loop stay as they are, so there is little to gain")
    model.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        model.model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_ARITHMETIC
    )
    quantizer.process()
    return bytes(quantizer.model.model.SerializeToString())
