"""Fixed-size histograms of durations: recording costs no allocation, whatever the run's length."""

from __future__ import annotations

from array import array

import numpy as np

_SUB_BITS = 5  # 32 buckets per octave: quantiles are exact to 3 %
_SUB = 1 << _SUB_BITS
_BUCKETS = (42 - _SUB_BITS) * _SUB + _SUB


def _upper(index: int) -> int:
    """Largest duration [ns] that a bucket counts."""
    if index < 2 * _SUB:
        return index
    octave = (index >> _SUB_BITS) - 1
    return (((index - (octave << _SUB_BITS)) + 1) << octave) - 1


class Histogram:
    """Log-linear histogram of non-negative nanosecond durations (negative ones count as zero).

    One thread records; readers in other threads may see a count that is one sample old.
    """

    __slots__ = ("_counts", "count", "largest", "total")

    def __init__(self) -> None:
        self._counts = array("q", bytes(8 * _BUCKETS))
        self.count = 0
        self.total = 0
        self.largest = 0

    def record(self, value_ns: int) -> None:
        """Count one duration [ns]."""
        if value_ns < 0:
            value_ns = 0
        octave = value_ns.bit_length() - _SUB_BITS - 1
        index = value_ns if octave < 0 else (octave << _SUB_BITS) + (value_ns >> octave)
        self._counts[index if index < _BUCKETS else _BUCKETS - 1] += 1
        self.count += 1
        self.total += value_ns
        if value_ns > self.largest:
            self.largest = value_ns

    def clear(self) -> None:
        """Forget every sample."""
        self._counts = array("q", bytes(8 * _BUCKETS))
        self.count = self.total = self.largest = 0

    def quantile(self, share: float) -> float:
        """Upper edge [ns] of the bucket in which the given share of all samples is reached."""
        if self.count == 0:
            return 0.0
        reached = np.frombuffer(self._counts, np.int64).cumsum()
        index = int(reached.searchsorted(max(share * self.count, 1)))
        return float(min(_upper(index), self.largest)) if index < _BUCKETS else float(self.largest)

    def sparse(self) -> dict[str, int]:
        """Counts of the buckets that are not empty, for a file; ``add_sparse`` reads them back."""
        return {str(index): count for index, count in enumerate(self._counts) if count}

    def add_sparse(self, counts: dict[str, int], largest: int, total: int) -> None:
        """Add another histogram's samples, so that several runs are judged as one."""
        for index, count in counts.items():
            self._counts[int(index)] += count
            self.count += count
        self.largest = max(self.largest, largest)
        self.total += total

    @property
    def mean(self) -> float:
        """Mean duration [ns]."""
        return self.total / self.count if self.count else 0.0

    def percentiles(self, unit_ns: float = 1e3) -> dict[str, float]:
        """``{"p50", "p99", "p999", "max"}`` in the given unit (default microseconds)."""
        return {
            "p50": self.quantile(0.5) / unit_ns,
            "p99": self.quantile(0.99) / unit_ns,
            "p999": self.quantile(0.999) / unit_ns,
            "max": self.largest / unit_ns,
        }


class Window:
    """What was added to a histogram since the last look: rolling statistics beside those of the whole run."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._seen = np.zeros(_BUCKETS, dtype=np.int64)

    def advance(self) -> Histogram:
        """The samples since the last call, as a histogram whose largest is exact to a bucket."""
        counts = np.frombuffer(self._histogram._counts, np.int64).copy()
        if counts.sum() < self._seen.sum():  # it was cleared since
            self._seen[:] = 0
        change = np.maximum(counts - self._seen, 0)
        self._seen = counts
        recent = Histogram()
        recent._counts = array("q", change.tobytes())
        recent.count = int(change.sum())
        if recent.count:
            index = int(np.flatnonzero(change)[-1])
            recent.largest = min(_upper(index), self._histogram.largest)
        return recent
