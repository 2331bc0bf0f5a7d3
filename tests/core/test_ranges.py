"""Range initialisation: each type on numbers small enough to work by hand."""

import numpy as np
import pytest

from nncf_ext.calibration.ranges import RangeCollector
from nncf_ext.edits import ObserverSpec

BATCHES = [np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([[5.0, 0.0], [-1.0, 2.0]])]


def collect(kind, axis=None, symmetric=False, is_weight=False, batches=BATCHES, **more):
    collector = RangeCollector(ObserverSpec(is_weight, kind, **more), axis, symmetric)
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
    collector = RangeCollector(ObserverSpec(False, "min_max"), 1, False)
    collector.update(np.zeros((2, 3, 4, 4)))
    assert collector.result().low.shape == (1, 3, 1, 1)


def test_percentiles():
    batch = np.arange(101.0)[None]
    assert collect("percentile", batches=[batch], percentiles=(10, 90)) == ([10], [90])
    assert collect("mean_percentile", batches=[batch, batch + 10], percentiles=(10, 90)) == ([15], [95])


def test_three_sigma_leaves_zeros_out_and_may_be_wider_than_the_data():
    batch = np.array([[0.0, 0, 0, 1, 2, 3, 4, 5]])  # median 3, median absolute deviation 1
    low, high = collect("threesigma", batches=[batch])
    assert (low, high) == (pytest.approx([3 - 3 * 1.4826230]), pytest.approx([3 + 3 * 1.4826230]))
    outlier = np.concatenate([np.linspace(1, 3, 101), [1000.0]])[None]
    _, high = collect("threesigma", batches=[outlier])
    median, mad = np.median(outlier), np.median(np.abs(outlier - np.median(outlier)))
    assert high == pytest.approx([median + 3 * 1.4826230 * mad])


def test_three_sigma_as_in_nncf():
    """The numbers of NNCF 2.14's own test of it: 1 to 10000 times 1, -2 and 3 in three channels."""
    ramp = np.arange(1, 10001, dtype=np.float32).reshape(1, 1, 100, 100)
    weight = np.concatenate([ramp, -2 * ramp, 3 * ramp])

    def found(axis, symmetric):
        collector = RangeCollector(ObserverSpec(True, "threesigma"), axis, symmetric)
        collector.update(weight)
        return collector.result()

    by_channel, whole = found(0, False), found(None, False)
    np.testing.assert_allclose(by_channel.low.ravel(), (-6119.1719, -32240.3438, -18357.5156), rtol=1e-6)
    np.testing.assert_allclose((by_channel.high - by_channel.low).ravel(), (22239.3438, 44478.6875, 66718.0312), rtol=1e-6)
    np.testing.assert_allclose((whole.low.item(), (whole.high - whole.low).item()), (-26279.2871, 60059.5781), rtol=1e-6)
    np.testing.assert_allclose(found(0, True).high.ravel(), (16120.1719, 32240.3438, 48360.5156), rtol=1e-6)
    assert found(None, True).high.item() == pytest.approx(33780.2891, rel=1e-6)
    assert (found(0, True).low.ravel() < 0).tolist() == [False, True, False]  # signed where negative values were seen
