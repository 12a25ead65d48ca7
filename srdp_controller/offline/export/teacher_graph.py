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


def _replace(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    for name, value in values.items():
        initializers[name].CopyFrom(numpy_helper.from_array(value, name))
    return model


def _tables(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """Step table (T, 4) and time constants (T, F), from timestep T down to 1."""
    found = {initializer.name: initializer for initializer in model.graph.initializer}
    return numpy_helper.to_array(found[TABLE]).astype(np.float64), numpy_helper.to_array(found[BIAS])


def read_process(model: onnx.ModelProto) -> tuple[np.ndarray, str]:
    """Signal rates alpha_bar (T + 1,) of an exported teacher, and what its network predicts."""
    first = _tables(model)[0][::-1, 0]
    # c0 is 1 / sqrt(alpha_bar) for epsilon, which is above 1, and sqrt(alpha_bar) for v
    prediction = "epsilon" if first.max() > 1.0 else "v"
    return np.concatenate([[1.0], first**-2 if prediction == "epsilon" else first**2]), prediction


def levels(steps: int, first_level: int) -> list[int]:
    """``steps`` timesteps evenly from ``first_level`` down, the last above 0."""
    return [round(k * first_level / steps) for k in range(steps, 0, -1)]


def skip_steps(model: onnx.ModelProto, steps: int, first_level: int | None = None) -> onnx.ModelProto:
    """The teacher graph with ``steps`` DDIM steps at evenly skipped timesteps (section 4 a).

    ``first_level`` is the timestep at which its first step takes the noise (T where none is given): where
    almost nothing is left of the signal, one long step from T predicts next to nothing.
    """
    table, bias = _tables(model)
    alpha_bar, prediction = read_process(model)
    total = len(table)
    tau = np.array([*levels(steps, total if first_level is None else first_level), 0])
    return _replace(
        model,
        {
            TABLE: step_table(alpha_bar[tau[:-1]], alpha_bar[tau[1:]], prediction),
            BIAS: np.ascontiguousarray(bias[total - tau[:-1]]),
            STEPS: np.array(steps, np.int64),
        },
    )


def clean_estimate(model: onnx.ModelProto, t: int) -> onnx.ModelProto:
    """The teacher graph as one evaluation: noise input a_t -> its clean estimate at timestep t (1 .. T)."""
    table, bias = _tables(model)
    row = len(table) - t
    answer = table[row : row + 1].copy()
    answer[0, 2:] = (1.0, 0.0)
    return _replace(
        model,
        {
            TABLE: answer.astype(np.float32),
            BIAS: np.ascontiguousarray(bias[row : row + 1]),
            STEPS: np.array(1, np.int64),
        },
    )
