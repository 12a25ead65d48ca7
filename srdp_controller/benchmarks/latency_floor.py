"""The least time that a policy's graph can take on a processor: its matrix-vector products alone, by BLAS.

Activations, biases, the sampler's arithmetic and the runtime itself cost nothing here. What numpy needs to
call BLAS is taken off, by timing the same calls on matrices of one entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TINY = np.ones((1, 1), np.float32), np.ones(1, np.float32), np.zeros(1, np.float32)
Product = tuple[np.ndarray, np.ndarray, np.ndarray]


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


class Floor:
    """The products of one graph, in its order; a loop's body counts as often as it runs."""

    def __init__(self, graph: bytes) -> None:
        import onnx

        model = onnx.load_from_string(graph)
        self.products: list[Product] = []
        self._buffers: dict[str, Product] = {}
        self._collect(model.graph, {initializer.name: initializer for initializer in model.graph.initializer})
        self._empty: list[Product] = [TINY] * len(self.products)

    def _collect(self, graph: Any, constants: dict[str, Any]) -> None:
        from onnx import numpy_helper

        constants = constants | {initializer.name: initializer for initializer in graph.initializer}
        for node in graph.node:
            attributes = attributes_of(node)
            if node.op_type == "Loop":
                before = len(self.products)
                self._collect(attributes["body"], constants)
                trips = int(numpy_helper.to_array(constants[node.input[0]]))
                self.products += self.products[before:] * (trips - 1)
            elif node.op_type in ("Gemm", "MatMul") and node.input[1] in constants:
                name = node.input[1]
                if name not in self._buffers:
                    weight = np.array(numpy_helper.to_array(constants[name]), np.float32)
                    if not attributes.get("transB", 0):
                        weight = weight.T  # BLAS reads it either way
                    rows, columns = weight.shape
                    self._buffers[name] = (weight, np.ones(columns, np.float32), np.zeros(rows, np.float32))
                self.products.append(self._buffers[name])

    def run(self) -> None:
        """All products, once."""
        dot = np.dot
        for weight, vector, answer in self.products:
            dot(weight, vector, answer)

    def run_empty(self) -> None:
        """As many calls on next to nothing."""
        dot = np.dot
        for weight, vector, answer in self._empty:
            dot(weight, vector, answer)
