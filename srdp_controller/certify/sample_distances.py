"""Distances between two samples of actions, and what they say of the total variation (eq. 11).

Actions are flattened chunks (n, A) in normalised units, n samples at one state, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import pdist

from srdp_controller.certify.intervals import success_interval


def directions(count: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Random unit vectors (dimension, count)."""
    vectors = rng.standard_normal((dimension, count))
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=0)
    return unit


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, projections: np.ndarray) -> float:
    """Mean one-dimensional Wasserstein-1 distance over ``projections`` (A, P); x and y of equal size."""
    return float(np.abs(np.sort(x @ projections, axis=0) - np.sort(y @ projections, axis=0)).mean())


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy, Gaussian kernel of the pooled median distance.

    It is about zero, and may be slightly negative, for equal distributions.
    """
    pooled = np.concatenate([x, y])
    norms = (pooled**2).sum(axis=1)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2.0 * pooled @ pooled.T, 0.0)
    median = np.median(squared[np.triu_indices(len(pooled), 1)])
    kernel = np.exp(-squared / max(float(median), 1e-12))
    n, m = len(x), len(y)
    within_x = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_y = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_x + within_y - 2.0 * kernel[:n, n:].mean())


def energy_scores(samples: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """|X - y| - |X - X'| / 2 at each state (S,): samples X (S, n, A), what was observed there y (S, A).

    A strictly proper scoring rule (Gneiting and Raftery, 2007): its mean is least for the distribution that y was drawn
    from, so that one demonstration at each state judges means, mixtures and samplers alike.
    """
    n = samples.shape[1]
    away = np.linalg.norm(samples - outcomes[:, None], axis=2).mean(axis=1)
    apart = np.array([pdist(own).sum() for own in samples]) * 2.0 / (n * (n - 1))
    scores: np.ndarray = away - 0.5 * apart
    return scores


def two_modes(x: np.ndarray, separation: float = 2.0, share: float = 0.2) -> Callable[[np.ndarray], np.ndarray] | None:
    """A rule that assigns samples to one of two modes of ``x``, or None where it has only one.

    Two-means along the direction of largest variance; two modes are accepted when their centres lie
    ``separation`` pooled standard deviations apart and each holds at least ``share`` of the samples.
    """
    centre = x.mean(axis=0)
    _, _, axes = np.linalg.svd(x - centre, full_matrices=False)
    direction = axes[0]
    t = (x - centre) @ direction
    low, high = float(np.percentile(t, 10)), float(np.percentile(t, 90))
    for _ in range(20):
        boundary = (low + high) / 2.0
        upper = t > boundary
        if upper.all() or not upper.any():
            return None
        low, high = float(t[~upper].mean()), float(t[upper].mean())
    within = np.sqrt((t[upper].var() * upper.sum() + t[~upper].var() * (~upper).sum()) / len(t))
    smaller = min(upper.mean(), 1.0 - upper.mean())
    # halves of one Gaussian stand 2.65 of their own deviations apart: that much is no sign of two modes
    if smaller < share or high - low < (2.65 + separation) * within:
        return None
    middle = (low + high) / 2.0
    return lambda samples: (samples - centre) @ direction > middle


def mode_coverage(teacher: np.ndarray, student: np.ndarray, separation: float = 2.0) -> float | None:
    """Share of the teacher's two modes that the student keeps, in [0, 1]; None where there is one mode.

    The smaller of the two ratios student's share to teacher's share, at most 1.
    """
    rule = two_modes(teacher, separation)
    if rule is None:
        return None
    p, q = float(rule(teacher).mean()), float(rule(student).mean())
    return min(1.0, q / p, (1.0 - q) / (1.0 - p))


def tv_lower_bound(
    teacher: np.ndarray, student: np.ndarray, states: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Classifier two-sample lower bound on E_s[TV], as (estimate, lower and upper end at 95 %).

    ``teacher`` and ``student`` are (S, n, A), ``states`` (S, d). A logistic regression on actions
    (centred by the teacher's mean at the state), their squares and the state learns on half of the
    states to tell the two apart; on the other half its accuracy a bounds TV from below by 2 a - 1.
    """
    order = rng.permutation(len(states))
    half = len(order) // 2
    mean, scale = teacher.mean(axis=1, keepdims=True), teacher.std() + 1e-9

    def features(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = [], []
        for label, samples in ((0.0, teacher), (1.0, student)):
            centred = ((samples[index] - mean[index]) / scale).reshape(-1, samples.shape[2])
            repeated = np.repeat(states[index], samples.shape[1], axis=0)
            rows.append(np.concatenate([centred, centred**2, repeated, np.ones((len(centred), 1))], axis=1))
            labels.append(np.full(len(centred), label))
        return np.concatenate(rows), np.concatenate(labels)

    x, y = features(order[:half])
    weights = np.zeros(x.shape[1])
    for _ in range(15):  # iteratively reweighted least squares with a ridge
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1.0 * np.eye(x.shape[1])
        weights -= np.linalg.solve(hessian, x.T @ (p - y) + 1.0 * weights)
    x, y = features(order[half:])
    hits = int(((x @ weights > 0) == (y > 0.5)).sum())
    low, high = success_interval(hits, len(y))
    return max(0.0, 2.0 * hits / len(y) - 1.0), max(0.0, 2.0 * low - 1.0), max(0.0, 2.0 * high - 1.0)
