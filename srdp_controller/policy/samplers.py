"""Samplers of the reverse process, one function each (eq. 5, 6; section 4 a).

``predict(a, t)`` returns the network's estimate (B, A) at a scalar timestep t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

Predict = Callable[[Tensor, int], Tensor]
CLIP = 4.0  # clean actions are within this many scales; keeps early estimates at low signal rates sane


def clean_action(a: Tensor, epsilon: Tensor, alpha_bar: float, clip: float = CLIP) -> Tensor:
    """Estimate of a_0 from a_t and the predicted noise (section 4 a), clipped."""
    return ((a - (1.0 - alpha_bar) ** 0.5 * epsilon) / max(alpha_bar, 1e-12) ** 0.5).clamp(-clip, clip)


def ddim_step(a: Tensor, a_0: Tensor, alpha_bar: float, alpha_bar_next: float, epsilon: Tensor | None = None) -> Tensor:
    """Deterministic step (Song et al. 2021, eta = 0) from a_t and its clean estimate to the next level.

    The noise is what the clean estimate leaves of a_t where none is given.
    """
    if epsilon is None:
        epsilon = (a - alpha_bar**0.5 * a_0) / (1.0 - alpha_bar) ** 0.5
    return alpha_bar_next**0.5 * a_0 + (1.0 - alpha_bar_next) ** 0.5 * epsilon


def ddim(
    predict: Predict,
    a: Tensor,
    alpha_bar: Sequence[float],
    tau: Sequence[int],
    keep: Sequence[int] = (),
    clip: float = CLIP,
    keeps_noise: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """DDIM over timesteps tau[K] > ... > tau[0] = 0 with an epsilon predictor.

    Clean estimates are clipped to ``clip``; with ``keeps_noise`` a step goes on with the noise as it was predicted, not
    with what the clipped estimate leaves. Returns a_0 (B, A) and the states at the timesteps in ``keep``, in falling
    order of t.
    """
    kept = [a] if tau[-1] in keep else []
    for t, t_next in zip(reversed(tau[1:]), reversed(tau[:-1]), strict=True):
        epsilon = predict(a, t)
        a_0 = clean_action(a, epsilon, alpha_bar[t], clip)
        a = ddim_step(a, a_0, alpha_bar[t], alpha_bar[t_next], epsilon if keeps_noise else None)
        if t_next in keep:
            kept.append(a)
    return a, kept
