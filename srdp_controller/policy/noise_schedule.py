"""Noise schedules of the forward process (eq. 1): cumulative signal rates alpha_bar_0 .. alpha_bar_T."""

from __future__ import annotations

import numpy as np


def cosine(steps: int, offset: float = 0.008, largest_beta: float = 0.999) -> np.ndarray:
    """Cosine schedule (Nichol and Dhariwal, 2021); returns alpha_bar (steps + 1,) with alpha_bar[0] = 1."""
    t = np.arange(steps + 1) / steps
    f = np.cos((t + offset) / (1.0 + offset) * np.pi / 2.0) ** 2
    beta = np.minimum(1.0 - f[1:] / f[:-1], largest_beta)
    return np.concatenate([[1.0], np.cumprod(1.0 - beta)])


def variance_preserving(steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> np.ndarray:
    """Variance-preserving schedule of Diffusion-QL; returns alpha_bar (steps + 1,)."""
    t = np.arange(1, steps + 1)
    alpha = np.exp(-beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * t - 1) / steps**2)
    return np.concatenate([[1.0], np.cumprod(alpha)])


def linear(steps: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> np.ndarray:
    """Linear betas of Ho et al. (2020), scaled to ``steps`` steps; returns alpha_bar (steps + 1,)."""
    beta = np.linspace(beta_min, beta_max, steps) * (1000.0 / steps)
    return np.concatenate([[1.0], np.cumprod(1.0 - np.minimum(beta, 0.999))])


SCHEDULES = {"cosine": cosine, "variance_preserving": variance_preserving, "linear": linear}


def skipped_steps(total: int, few: int) -> list[int]:
    """Monotone map tau of section 4 (a): tau(0) = 0 < tau(1) < ... < tau(few) = total."""
    return [round(k * total / few) for k in range(few + 1)]
