"""Re-makes the step tables of an exported teacher graph for fewer DDIM steps (no torch)."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

TABLE, BIAS, STEPS = "step_table", "step_bias", "steps"


def step_table(alpha_bar: np.ndarray, alpha_bar_next: np.ndarray, prediction: str = "epsilon") -> np.ndarray:
    """Coefficients (n, 4) of deterministic steps between signal rates.

    clean = a * c0 - predicted * c1 (clipped), then a_next = clean * c2 + a * c3.
    """
    keep = np.sqrt((1.0 - alpha_bar_next) / (1.0 - alpha_bar))
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar)
    return np.stack(
        [
            1.0 / signal if prediction == "epsilon" else signal,
            noise / signal if prediction == "epsilon" else noise,
            np.sqrt(alpha_bar_next) - keep * np.sqrt(alpha_bar),
            keep,
        ],
        axis=1,
    ).astype(np.float32)


def skip_steps(model: onnx.ModelProto, steps: int) -> onnx.ModelProto:
    """The teacher graph with ``steps`` DDIM steps at evenly skipped timesteps (section 4 a)."""
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    table = numpy_helper.to_array(initializers[TABLE]).astype(np.float64)
    bias = numpy_helper.to_array(initializers[BIAS])
    total = len(table)
    first = table[::-1, 0]
    # c0 is 1 / sqrt(alpha_bar) for epsilon, which is above 1, and sqrt(alpha_bar) for v
    prediction = "epsilon" if first.max() > 1.0 else "v"
    alpha_bar = np.concatenate([[1.0], first**-2 if prediction == "epsilon" else first**2])
    tau = np.array([round(k * total / steps) for k in range(steps, -1, -1)])
    replacements = {
        TABLE: step_table(alpha_bar[tau[:-1]], alpha_bar[tau[1:]], prediction),
        BIAS: np.ascontiguousarray(bias[total - tau[:-1]]),
        STEPS: np.array(steps, np.int64),
    }
    for name, value in replacements.items():
        initializers[name].CopyFrom(numpy_helper.from_array(value, name))
    return model
