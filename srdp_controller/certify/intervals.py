"""95 % intervals, by scipy: of a share, a mean, a ratio of means, an entropy, and of what ranks tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

RESAMPLES = 1000


def success_interval(successes: int, trials: int) -> list[float]:
    """Wilson's score interval [low, high] of a share; [0, 1] without trials."""
    if trials == 0:
        return [0.0, 1.0]
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def mean_interval(values: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Percentile bootstrap interval [low, high] of the mean of ``values`` (n,)."""
    return _bootstrap((values,), lambda x, axis: x.mean(axis=axis), rng)


def ratio_interval(values: np.ndarray, floor: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Percentile bootstrap interval [low, high] of mean(values) / mean(floor), pairs (n,) drawn together."""
    return _bootstrap((values, floor), lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis), rng)


def entropy_interval(counts: Sequence[int], rng: np.random.Generator) -> tuple[float, list[float]]:
    """Entropy [nats] of what was seen so often, and its percentile bootstrap interval [low, high]; 0 where nothing was.

    The estimate is the maximum likelihood's, which is too low by about (kinds - 1) / (2 n).
    """
    seen = np.asarray(counts)
    total = int(seen.sum())
    if total == 0:
        return 0.0, [0.0, 0.0]
    drawn = stats.entropy(rng.multinomial(total, seen / total, size=RESAMPLES), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(stats.entropy(seen)), [float(low), float(high)]


def shares_apart(
    counts: Mapping[str, int], reference: Mapping[str, int], rng: np.random.Generator
) -> tuple[float, list[float], float]:
    """Total variation between the shares of what was seen so often and those of a reference, its interval, its floor.

    The interval [low, high] is a percentile bootstrap's with both drawn anew. An estimate from few is too large: the
    floor is what the reference seen as seldom is from itself, on average. All are 1 where nothing was seen.
    """
    kinds = sorted({*counts, *reference})
    seen, expected = (np.array([of.get(kind, 0) for kind in kinds], dtype=float) for of in (counts, reference))
    number, size = int(seen.sum()), int(expected.sum())
    if not number or not size:
        return 1.0, [1.0, 1.0], 1.0

    def drawn(weights: np.ndarray, trials: int) -> np.ndarray:
        return rng.multinomial(trials, weights / weights.sum(), size=RESAMPLES) / trials

    def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found: np.ndarray = 0.5 * np.abs(x - y).sum(axis=-1)
        return found

    again = drawn(expected, size)
    low, high = np.quantile(apart(drawn(seen, number), again), [0.025, 0.975])
    floor = apart(drawn(expected, number), again).mean()
    return float(apart(seen / number, expected / size)), [float(low), float(high)], float(floor)


def auroc_interval(negatives: np.ndarray, positives: np.ndarray, rng: np.random.Generator) -> tuple[float, list[float]]:
    """Area under the ROC curve of scores (n,) and (m,), and its percentile bootstrap interval [low, high].

    It is the probability that a positive's score is above a negative's, ties half.
    """

    def area(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        found: np.ndarray = stats.mannwhitneyu(y, x, axis=axis).statistic / (x.shape[axis] * y.shape[axis])
        return found

    found = stats.bootstrap(
        (negatives, positives), area, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=rng
    )
    interval = found.confidence_interval
    return float(area(negatives, positives)), [float(interval.low), float(interval.high)]


def rank_correlation_interval(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Percentile bootstrap interval [low, high] of Spearman's rank correlation of pairs (n,)."""
    drawn = rng.integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.quantile([stats.spearmanr(x[rows], y[rows]).statistic for rows in drawn], [0.025, 0.975])
    return [float(low), float(high)]


def _bootstrap(data: tuple[np.ndarray, ...], statistic: object, rng: np.random.Generator) -> list[float]:
    if len(data[0]) < 2:  # one value says nothing of its spread
        value = float(statistic(*data, axis=0))  # type: ignore[operator]
        return [value, value]
    found = stats.bootstrap(
        data, statistic, paired=len(data) > 1, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=rng
    )
    interval = found.confidence_interval
    return [float(interval.low), float(interval.high)]
