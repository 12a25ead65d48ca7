"""The teacher that goes on from the chunk in force: real-time chunking by inpainting (arXiv 2506.07339), as one graph.

Each denoising step pulls the clean estimate towards the rest of that chunk, through the vector-Jacobian product of the
estimate (pseudo-inverse guidance, PiGDM). The graph holds the backward pass, so that nothing at run time needs torch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from srdp_controller.offline.export.teacher_graph import levels, step_table
from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.samplers import CLIP
from srdp_controller.spec import PolicySpec

FIRST_LEVEL = (
    0.9  # share of T at which it begins: at T next to nothing is left of the signal, and few steps from there err
)


def inpaint(
    teacher: DiffusionTeacher,
    observation: Tensor,
    noise: Tensor,
    previous: Tensor,
    weights: Tensor,
    steps: int,
    largest_weight: float,
) -> Tensor:
    """A chunk (B, A) by ``steps`` DDIM steps from noise (B, A), guided towards ``previous`` (B, A); all normalised.

    At signal rate alpha_bar the likelihood of ``previous`` has the variance 1 - alpha_bar, so that Tweedie's formula
    moves the clean estimate a_0 by J^T W (previous - a_0) / sqrt(alpha_bar), J = d a_0 / d a_t and W the ``weights``
    (B, A); the factor is at most ``largest_weight`` (the paper's beta).
    """
    tau = [*levels(steps, round(FIRST_LEVEL * teacher.diffusion_steps)), 0]
    rates = teacher.alpha_bar[tau]
    features, context = teacher.time_features(torch.tensor(tau[:-1])), teacher.context(observation)
    a = noise
    for row, (c0, c1, c2, c3) in enumerate(step_table(rates[:-1], rates[1:], teacher.process.prediction).tolist()):

        def clean(a: Tensor, row: int = row, c0: float = c0, c1: float = c1) -> Tensor:
            return c0 * a - c1 * teacher.predict(a, context, features[row])

        estimate, pull_back = torch.func.vjp(clean, a)  # type: ignore[misc]
        (pull,) = pull_back(weights * (previous - estimate.clamp(-CLIP, CLIP)))
        factor = min(largest_weight, float(rates[row]) ** -0.5)
        a = c2 * (estimate + factor * pull).clamp(-CLIP, CLIP) + c3 * a
    return teacher.with_prefix(a, context).clamp(-CLIP, CLIP)


class InpaintingGraph(nn.Module):
    """A guided policy in raw SI units (``LoadedBundle.shapes``)."""

    def __init__(self, teacher: DiffusionTeacher, spec: PolicySpec, steps: int, largest_weight: float) -> None:
        super().__init__()
        self.teacher, self.steps, self.largest_weight = teacher, steps, largest_weight
        self.shape = (-1, spec.horizon, spec.act_dim)
        for name, values in zip(("centre", "scale"), spec.observation_normalisation(), strict=True):
            self.register_buffer(name, torch.from_numpy(values))
        for name, values in zip(("action_centre", "action_scale"), spec.action_normalisation(), strict=True):
            self.register_buffer(name, torch.from_numpy(np.tile(values, spec.horizon)))
        self.act_dim = spec.act_dim

    def forward(
        self, observation: Tensor, noise: Tensor, previous: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The contract's outputs for (B, obs_dim), (B, 1, horizon, act_dim), (B, horizon, act_dim), (B, horizon)."""
        state = (observation - self.centre) / self.scale  # type: ignore[operator]
        given = (previous.flatten(1) - self.action_centre) / self.action_scale  # type: ignore[operator]
        weight = (weights[:, :, None] * torch.ones(self.act_dim)).flatten(1)
        a = inpaint(self.teacher, state, noise.flatten(1), given, weight, self.steps, self.largest_weight)
        latent = self.teacher.latent(state)
        chunk = (a * self.action_scale + self.action_centre).reshape(self.shape)  # type: ignore[operator]
        return chunk, latent, latent.clone()


def _towards_input(
    gradient: Tensor,
    value: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, None, None]:
    """A convolution's backward pass as a convolution, which ONNX has; the weights are frozen and need none."""
    spare = [0] * len(stride)
    if not transposed:  # what a stride left over at the end has to be added
        for axis, step in enumerate(stride):
            reach = dilation[axis] * (weight.shape[axis + 2] - 1) + 1
            spare[axis] = int(value.shape[axis + 2] - (gradient.shape[axis + 2] - 1) * step + 2 * padding[axis] - reach)
    convolution = torch.ops.aten.convolution.default
    return convolution(gradient, weight, None, stride, padding, dilation, not transposed, spare, groups), None, None


def traced(graph: InpaintingGraph, example: tuple[Tensor, ...]) -> nn.Module:
    """``graph`` with its backward passes written out, which the exporter cannot do by itself."""
    trace = make_fx(
        graph.requires_grad_(False).eval(),
        decomposition_table={torch.ops.aten.convolution_backward.default: _towards_input},
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    return trace(*example).eval()
