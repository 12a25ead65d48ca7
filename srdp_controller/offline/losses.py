"""The terms of the composite loss (eq. 10) between a student and its teacher's cached answers."""

from __future__ import annotations

import torch
from torch import Tensor

from srdp_controller.policy.denoiser import DiffusionTeacher
from srdp_controller.policy.networks import SrdpNetwork
from srdp_controller.policy.student import Student


def carrying_clean(here: Tensor, there: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """The clean action (B, A) with which one deterministic step goes from ``here`` exactly to ``there``.

    Both (B, A); signal rates (B,). It is the target of a step over tau(k) -> tau(k - 1) (section 4 a).
    """
    signal, noise = alpha_bar.sqrt()[:, None], (1.0 - alpha_bar).sqrt()[:, None]
    signal_next, noise_next = alpha_bar_next.sqrt()[:, None], (1.0 - alpha_bar_next).sqrt()[:, None]
    return (there - noise_next / noise * here) / (signal_next - noise_next / noise * signal)


def mean_square(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean square of errors (B, A) over the entries that are the policy's to choose."""
    return error.square().mean() if mask is None else (error.square() * mask).sum() / mask.sum().clamp(min=1.0)


def implied_noise(a: Tensor, clean: Tensor, alpha_bar: Tensor) -> Tensor:
    """epsilon* of section 4 (a): the noise (B, A) that a_t and a clean estimate imply; rates (B,)."""
    return (a - alpha_bar.sqrt()[:, None] * clean) / (1.0 - alpha_bar).sqrt()[:, None]


def transition_loss(student: Student, levels: Tensor, context: Tensor, k: Tensor) -> Tensor:
    """Matched transitions: from the teacher's level k (levels (B, K + 1, A), k (B,)) to its level k - 1."""
    rows = torch.arange(len(levels))
    alpha = torch.tensor(student.alpha_bar)
    here, there = levels[rows, k], levels[rows, k - 1]
    target = carrying_clean(here, there, alpha[k], alpha[k - 1])
    predicted = student.predict(here, context, student.time_biases()[k])
    return mean_square(predicted - target, student.mask(context))


def auxiliary_timesteps(student: Student, timesteps: list[int]) -> list[int]:
    """Positions among the cached timesteps that lie between the student's own levels (J of eq. 10)."""
    own = set(student.tau)
    return [position for position, t in enumerate(timesteps) if t not in own and t > 0]


def score_loss(
    student: Student, teacher: DiffusionTeacher, observation: Tensor, context: Tensor, a: Tensor, t: Tensor
) -> Tensor:
    """l_score of eq. 10: noise estimates of teacher and student at matched levels a_t (B, A), t (B,).

    The student's head predicts a clean action; its noise is the one that this implies.
    """
    with torch.no_grad():
        wanted = teacher.epsilon(a, teacher.context(observation), t)
    clean = student.predict(a, context, student.time_features(t))
    alpha_bar = torch.tensor(teacher.alpha_bar, dtype=torch.float32)[t]
    return mean_square(implied_noise(a, clean, alpha_bar) - wanted, student.mask(context))


def feature_loss(
    student: Student, teacher: SrdpNetwork, observation: Tensor, context: Tensor, a: Tensor, t: Tensor
) -> Tensor:
    """||u_T - u_K||^2 of section 4 (c), by the teacher's own variance, at matched levels."""
    with torch.no_grad():
        wanted = teacher.features(a, teacher.context(observation), teacher.time_features(t))
        scale = wanted.var(dim=0).mean().clamp(min=1e-8)
    return (student.features(a, context, student.time_features(t)) - wanted).square().mean() / scale


def consistency_loss(
    student: Student,
    target: Student,
    observation: Tensor,
    context: Tensor,
    noisier: Tensor,
    cleaner: Tensor,
    t: Tensor,
    t_next: Tensor,
) -> Tensor:
    """l_cons of section 4 (b): a_t and a_t' of one path must give one clean action; the target is sg(EMA).

    States (B, A), timesteps (B,); where t' = 0 the target is the action itself.
    """
    predicted = student.predict(noisier, context, student.time_features(t))
    with torch.no_grad():
        end = target.predict(cleaner, target.context(observation), target.time_features(t_next))
        end = torch.where((t_next == 0)[:, None], cleaner, end)
    return mean_square(predicted - end, student.mask(context))
