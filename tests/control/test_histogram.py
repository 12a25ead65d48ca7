import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdp_controller.control.histogram import Histogram, Window


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_quantiles_are_within_the_bucket_width(values, share):
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    exact = np.sort(values)[int(np.ceil(share * len(values))) - 1]
    assert exact <= histogram.quantile(share) <= exact * (1 + 1 / 32) + 1


def test_largest_and_count_are_exact():
    histogram = Histogram()
    for value in (5, 10**12, 7, -3):
        histogram.record(value)
    assert (histogram.count, histogram.largest) == (4, 10**12)


def test_an_empty_histogram_reads_zero():
    assert Histogram().percentiles() == {"p50": 0.0, "p99": 0.0, "p999": 0.0, "max": 0.0}


@given(st.lists(st.integers(0, 10**9), max_size=100), st.lists(st.integers(0, 10**9), max_size=100))
def test_two_runs_added_up_read_as_one(first, second):
    parts, whole = [Histogram(), Histogram()], Histogram()
    for histogram, values in zip(parts, (first, second), strict=True):
        for value in values:
            histogram.record(value)
            whole.record(value)
    total = Histogram()
    for part in parts:
        total.add_sparse(part.sparse(), part.largest, part.total)
    assert total.percentiles() == whole.percentiles() and total.mean == whole.mean


def test_a_window_holds_what_was_added_since_the_last_look():
    histogram = Histogram()
    window = Window(histogram)
    for _ in range(100):
        histogram.record(1000)
    assert window.advance().count == 100
    for _ in range(10):
        histogram.record(50_000)
    recent = window.advance()
    assert recent.count == 10
    assert recent.quantile(0.5) == pytest.approx(50_000, rel=0.04)
    assert recent.largest == pytest.approx(50_000, rel=0.04)
    assert window.advance().count == 0
    assert histogram.count == 110
