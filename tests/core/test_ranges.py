"""Range initialisation: each type on numbers small enough to work by hand."""

import numpy as np
import pytest

from nncf_ext.ranges import RangeCollector

BATCHES = [np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([[5.0, 0.0], [-1.0, 2.0]])]


def collect(kind, axis=None, symmetric=False, is_weight=False, batches=BATCHES, **more):
    collector = RangeCollector(kind, axis, symmetric, is_weight, **more)
    for batch in batches:
        collector.update(batch)
    seen = collector.result()
    return seen.low.ravel().tolist(), seen.high.ravel().tolist()


@pytest.mark.parametrize(
    "kind, symmetric, low, high",
    [
        ("min_max", False, [-2], [5]),
        ("min_max", True, [-5], [5]),
        ("mean_min_max", False, [-1.5], [4.5]),
        ("mixed_min_max", False, [(-2 + 3 + 0 - 1) / 4], [(1 + 4 + 5 + 2) / 4]),
        ("mixed_min_max", True, [-13 / 4], [(2 + 4 + 5 + 2) / 4]),
    ],
)
def test_extremes(kind, symmetric, low, high):
    got = collect(kind, symmetric=symmetric)
    assert got[0] == pytest.approx(low) and got[1] == pytest.approx(high)


def test_per_channel_and_weights_use_plain_extremes_in_mixed():
    assert collect("mixed_min_max", axis=1) == ([-1, -2], [5, 4])
    assert collect("mixed_min_max", is_weight=True) == ([-2], [5])


def test_shapes_are_broadcastable():
    collector = RangeCollector("min_max", 1, False, False)
    collector.update(np.zeros((2, 3, 4, 4)))
    assert collector.result().low.shape == (1, 3, 1, 1)


def test_percentiles():
    batch = np.arange(101.0)[None]
    assert collect("percentile", batches=[batch], percentiles=(10, 90)) == ([10], [90])
    assert collect("mean_percentile", batches=[batch, batch + 10], percentiles=(10, 90)) == ([15], [95])


def test_three_sigma_leaves_zeros_out_and_is_never_wider_than_the_data():
    batch = np.array([[0.0, 0, 0, 1, 2, 3, 4, 5]])
    assert collect("threesigma", batches=[batch]) == ([0], [5])
    outlier = np.concatenate([np.linspace(1, 3, 101), [1000.0]])[None]
    _, high = collect("threesigma", batches=[outlier])
    median, mad = np.median(outlier), np.median(np.abs(outlier - np.median(outlier)))
    assert high == pytest.approx([median + 3 * 1.4826230 * mad])
