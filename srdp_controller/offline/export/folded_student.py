"""A student's graph with every constant folded into its matrices (torch; off line only).

Three identities leave nothing of the sampler's arithmetic but matrix products and activations:

- The observation's normalisation is linear, and so is the first layer after it: W ((s - c) / d) + b is
  (W / d) s + (b - W (c / d)).
- A deterministic step (eq. 6 without its noise) is linear in a and the head's output W u + b:
  a' = p a + q (W u + b). Measured from a constant path m that takes the bias along, m' = p m + q b, this is
  (a' - m') = p (a - m) + q W u, which is one ``Gemm`` with its two factors. What the path adds to the next
  evaluation's first layer is a constant of that evaluation.
- The action's scaling is linear and follows the last layer; the bounds that samples are clipped to are scaled too.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import DiffusionHead, SrdpNetwork, Trunk
from srdp_controller.policy.samplers import CLIP
from srdp_controller.policy.student import Student
from srdp_controller.spec import PolicySpec


def can_fold(student: Student) -> bool:
    """Whether a student is one trunk and one MLP, sampled deterministically and without given actions."""
    plain = isinstance(student.trunk, Trunk) and isinstance(student.head, DiffusionHead)
    return plain and student.prefix is None and student.draws == 1


def fold_normalisation(trunk: Trunk, centre: Tensor, scale: Tensor) -> nn.Sequential:
    """Layers of ``trunk`` that take raw observations (B, obs_dim)."""
    layers = copy.deepcopy(trunk.layers)
    first = layers[0]
    assert isinstance(first, nn.Linear)
    weight = first.weight.double() / scale.double()
    with torch.no_grad():
        first.bias.copy_(first.bias.double() - weight @ centre.double())
        first.weight.copy_(weight)
    return layers


def fold_action(
    last: nn.Linear, centre: Tensor, scale: Tensor, horizon: int, given: slice = slice(None)
) -> tuple[nn.Linear, tuple[Any, Any]]:
    """A last layer of the ``given`` rows that answers in SI units, and the bounds of its answers.

    The bounds are numbers where all are alike.
    """
    centres, scales = centre.repeat(horizon).double(), scale.repeat(horizon).double()
    layer = nn.utils.skip_init(nn.Linear, last.in_features, len(scales))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(last.weight[given].double() * scales[:, None])
        layer.bias.copy_(last.bias[given].double() * scales + centres)
    low, high = (centres - CLIP * scales).float(), (centres + CLIP * scales).float()
    if bool((low == low[0]).all() and (high == high[0]).all()):
        return layer, (float(low[0]), float(high[0]))
    return layer, (low, high)


class FoldedStudentGraph(nn.Module):
    """``StudentGraph`` for students that ``can_fold``: the same function in fewer operations."""

    def __init__(self, student: Student, teacher: DiffusionTeacher, spec: PolicySpec) -> None:
        super().__init__()
        centre, scale = (torch.from_numpy(part) for part in spec.observation_normalisation())
        action_centre, action_scale = (torch.from_numpy(part) for part in spec.action_normalisation())
        self.register_buffer("centre", centre)
        self.register_buffer("inverse_scale", 1.0 / scale)
        self.shape = (-1, spec.horizon, spec.act_dim)
        assert isinstance(student.trunk, Trunk)
        self.student_trunk = fold_normalisation(student.trunk, centre, scale)
        self.alignment = student.alignment
        head = student.head
        assert isinstance(head, DiffusionHead)
        stack = head.layers[1]
        assert isinstance(stack, nn.Sequential)
        self.hidden, last = stack[:-1], stack[-1]
        assert isinstance(last, nn.Linear)
        self.last, self.bounds = fold_action(last, action_centre, action_scale, spec.horizon, student.given)
        folds = isinstance(teacher, SrdpNetwork) and isinstance(teacher.trunk, Trunk)
        self.teacher_trunk = fold_normalisation(teacher.trunk, centre, scale) if folds else None  # type: ignore[arg-type]
        self.teacher = teacher
        self.steps = student.steps
        self.factors: list[tuple[float, float]] = []
        with torch.no_grad():
            self._fold_steps(student, head, last)

    def _fold_steps(self, student: Student, head: DiffusionHead, last: nn.Linear) -> None:
        from_action = head.from_action.weight.double()
        biases = student.time_biases().double()
        path = torch.zeros(student.action_dim, dtype=torch.float64)
        shares = []
        for k in range(student.steps, 0, -1):
            shares.append(biases[k] + from_action @ path)
            rate, following = student.alpha_bar[k], student.alpha_bar[k - 1]
            keep = ((1.0 - following) / (1.0 - rate)) ** 0.5
            gain = following**0.5 - keep * rate**0.5
            self.factors.append((keep, gain))
            path = keep * path + gain * last.bias.double()
        from_latent = head.from_latent
        self.condition = nn.Linear(from_latent.in_features, from_latent.out_features)
        self.condition.weight.copy_(from_latent.weight)
        self.condition.bias.copy_(shares[0])  # the first evaluation's; the others are measured from it
        self.register_buffer("differences", torch.stack([share - shares[0] for share in shares]).float())
        self.register_buffer("from_action", from_action.float().t().contiguous())
        self.register_buffer("last_weight", last.weight.detach().t().contiguous())

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The contract's inputs (B, obs_dim), (B, *noise_shape) and outputs."""
        latent = self.student_trunk(observation)
        context = self.condition(latent)
        a = noise.reshape(noise.shape[0], -1)
        for number, (keep, gain) in enumerate(self.factors):
            condition = context + self.differences[number] if number else context  # type: ignore[index]
            u = self.hidden(nn.functional.silu(torch.addmm(condition, a, self.from_action)))  # type: ignore[arg-type]
            if number < self.steps - 1:
                a = torch.addmm(a, u, self.last_weight, beta=keep, alpha=gain)  # type: ignore[arg-type]
        # the last level is no noise at all, so its answer is the head's own output
        chunk = self.last(u).clamp(*self.bounds).reshape(self.shape)
        return chunk, self.alignment(latent), self._teacher_latent(observation)

    def _teacher_latent(self, observation: Tensor) -> Tensor:
        if self.teacher_trunk is not None:
            return self.teacher_trunk(observation)
        return self.teacher.latent((observation - self.centre) * self.inverse_scale)  # type: ignore[operator]
