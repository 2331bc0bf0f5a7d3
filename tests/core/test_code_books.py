from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.coding.code_books import (
    Codebook,
    WeightedValues,
    cheapest,
    density_start,
    entropy,
    iterative,
    iterative_at_rate,
    kmeans,
    linear_start,
    nearest,
    plus_plus_start,
    rate,
    uniform,
    uniform_at_rate,
)

RNG = np.random.default_rng(5)
SIZES = st.integers(1, 60)
VALUES = SIZES.flatmap(lambda n: arrays(np.float64, n, elements=st.integers(-50, 50).filter(bool).map(lambda i: i / 8)))
NORMAL = RNG.normal(size=200_000)


def cost(values: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.sum(weights * np.square(values - centroids[nearest(values, centroids)])))


def test_the_weighted_mean_by_hand() -> None:
    assert kmeans(np.array([0.0, 1.0]), np.array([1.0, 3.0]), np.array([0.2])) == pytest.approx([0.75])


def test_kmeans_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, 10.0, 11.0, -4.0])
    assert kmeans(values, np.ones(6), linear_start(values, 3)).tolist() == [-4, 2, 10.5]
    assert linear_start(values, 3).tolist() == [-4, 3.5, 11]
    assert density_start(np.arange(1.0, 9.0), 2).tolist() == [2.75, 6.25]


@given(VALUES, st.integers(1, 9), st.floats(0.125, 8))
def test_equal_weights_are_no_weights(values: np.ndarray, clusters: int, weight: float) -> None:
    start, power = linear_start(values, clusters), 2.0 ** np.round(np.log2(weight))
    assert np.array_equal(kmeans(values, np.ones(values.size), start), kmeans(values, np.full(values.size, power), start))


@given(VALUES, st.integers(1, 9), st.data())
def test_kmeans_never_gets_worse(values: np.ndarray, clusters: int, drawn: st.DataObject) -> None:
    weights = drawn.draw(arrays(np.float64, values.size, elements=st.sampled_from([0.25, 1.0, 5.0])))
    costs = [cost(values, weights, kmeans(values, weights, linear_start(values, clusters), n)) for n in range(1, 12)]
    assert all(after <= before + 1e-9 for before, after in zip(costs[:-1], costs[1:], strict=True))
    centroids = kmeans(values, weights, linear_start(values, clusters))
    assert len(set(centroids)) == centroids.size <= clusters
    assert np.all(np.diff(centroids) > 0)
    if np.unique(values).size <= clusters:
        assert costs[-1] == 0


def test_a_cluster_without_values_gets_some() -> None:
    values = np.array([-5.0, -5.1, -5.2, -4.9, 5.0, 5.1, 5.3, 7.0])
    centroids = kmeans(values, np.ones(8), linear_start(values, 5))
    assert set(nearest(values, centroids)) == {0, 1, 2, 3, 4}


def test_plus_plus_finds_the_heaps() -> None:
    values = np.concatenate([RNG.normal(at, 0.01, 500) for at in (-3, -1, 2, 9)])
    start = plus_plus_start(values, np.ones(values.size), 4)
    assert np.round(start).tolist() == [-3, -1, 2, 9]
    assert np.array_equal(start, plus_plus_start(values, np.ones(values.size), 4))
    assert plus_plus_start(np.full(9, 2.5), np.ones(9), 4).tolist() == [2.5]


@pytest.mark.parametrize(("lagrangian", "level"), [(0.0, 1), (0.05, 1), (0.1, 0)])
def test_bits_against_error_by_hand(lagrangian: float, level: int) -> None:
    """(0.4)^2 + lagrangian * 3.32 bits against (0.6)^2 + lagrangian * 0.15 bits."""
    codes, total = cheapest(np.array([0.6]), np.ones(1), np.array([0.0, 1.0]), -np.log2([0.9, 0.1]), lagrangian)
    assert codes.tolist() == [level]
    assert total == pytest.approx([0.36 - lagrangian * np.log2(0.9), 0.16 - lagrangian * np.log2(0.1)][level])


def test_a_level_nobody_has_is_not_to_be_had() -> None:
    assert cheapest(np.array([1.0]), np.ones(1), np.array([1.0, 3.0]), np.array([np.inf, 9.0]), 1.0)[0].tolist() == [1]


@settings(deadline=None)
@given(VALUES, st.integers(0, 40), st.sampled_from([0.0, 0.01, 0.3]))
def test_the_lagrangian_never_rises(values: np.ndarray, zeros: int, lagrangian: float) -> None:
    book = WeightedValues(values, 1 + (np.arange(values.size) % 3).astype(float), zeros)

    def total(found: Codebook) -> float:
        decoded = np.concatenate([[0.0], found.centroids])[found.codes]
        counts = np.bincount(found.codes, minlength=1)
        counts[0] += zeros
        return float(np.sum(book.weights * (values - decoded) ** 2)) + lagrangian * entropy(counts) * (values.size + zeros)

    # what is given back is coded with the bits before the last count, and a count's own entropy is never more
    totals = [total(iterative(book, 17, lagrangian, n, 0.0)) for n in range(1, 9)]
    assert all(after <= before + 1e-6 for before, after in zip(totals[:-1], totals[1:], strict=True)) or lagrangian == 0
    assert np.all(np.diff(iterative(book, 17, lagrangian).centroids) > 0)


def test_without_a_price_for_bits_it_is_weighted_kmeans() -> None:
    values, weights = RNG.normal(size=400), RNG.uniform(0.5, 2, 400)
    found = iterative(WeightedValues(values, weights, 0), 17, 0.0, 1000, 0.0)
    table = np.concatenate([[0.0], found.centroids])
    order = np.argsort(table)
    assert np.array_equal(table[found.codes], table[order][nearest(values, table[order])])
    means = [np.average(values[found.codes == k], weights=weights[found.codes == k]) for k in range(1, table.size)]
    np.testing.assert_allclose(found.centroids, means, rtol=1e-9)


def test_more_for_bits_is_fewer_bits() -> None:
    book = WeightedValues(NORMAL[:3000], np.ones(3000), 500)
    rates = [rate([book], [iterative(book, 65, factor)]) for factor in (0, 0.001, 0.01, 0.05, 0.2, 1)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1 < 3 < rates[0]


@pytest.mark.parametrize(("step", "bits", "error"), [(0.5, 3.064, 0.02081), (0.25, 4.052, 0.005204)])
def test_uniform_cells_of_a_normal_distribution(step: float, bits: float, error: float) -> None:
    """h(X) - log2(step) bits and step^2 / 12, nearly."""
    book = WeightedValues(NORMAL, np.ones(NORMAL.size), 0)
    found = uniform(book, 255, step)
    assert rate([book], [found]) == pytest.approx(bits, abs=0.01)
    decoded = np.concatenate([[0.0], found.centroids])[found.codes]
    assert np.mean((NORMAL - decoded) ** 2) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("search", [iterative_at_rate, uniform_at_rate])
@pytest.mark.parametrize("target", [0.4, 1.0, 2.5])
def test_a_rate_is_met(search: object, target: float) -> None:
    books = [WeightedValues(NORMAL[:4000], np.ones(4000), 1000), WeightedValues(NORMAL[4000:6000] / 9, np.full(2000, 4.0), 3000)]
    found = search(books, 255, target)  # type: ignore[operator]
    assert 0.95 * target < rate(books, found) <= target


@pytest.mark.parametrize("values", [NORMAL[:20_000], NORMAL[:9000] / 20 + RNG.choice([-1, 1.7], 9000)])
def test_iterative_is_no_worse_than_uniform_at_the_same_bits(values: np.ndarray) -> None:
    errors, book = [], WeightedValues(values, np.ones(values.size), 0)
    for search in (iterative_at_rate, uniform_at_rate):
        found = search([book], 63, 1.5)[0]
        errors.append(np.mean((values - np.concatenate([[0.0], found.centroids])[found.codes]) ** 2))
    assert errors[0] < 1.01 * errors[1]


def test_many_values_are_sampled_and_the_rate_is_still_met() -> None:
    values = RNG.normal(size=(1 << 18) + 50_000)
    book = WeightedValues(values, np.ones(values.size), 0)
    assert 1.9 < rate([book], uniform_at_rate([book], 255, 2.0)) <= 2.0


@pytest.mark.parametrize("values", [np.full(7, 0.25), np.array([-1.0]), np.array([1.0, 1.0, 2.0])])
def test_few_distinct_values(values: np.ndarray) -> None:
    book = WeightedValues(values, np.ones(values.size), 2)
    for found in (*iterative_at_rate([book], 17, 8.0), uniform(book, 17, 0.25), iterative(book, 17, 0.0)):
        decoded = np.concatenate([[0.0], found.centroids])[found.codes]
        np.testing.assert_allclose(decoded, values, rtol=1e-12)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"algorithm": "ecsq", "params": {}}, "compression.params.target_bits: found both or none of"),
        ({"algorithm": "ecsq", "params": {"target_bits": 1, "lagrangian": 1}}, "found both or none"),
        ({"algorithm": "ecsq", "params": {"lagrangian": 1, "method": "uniform"}}, "params.lagrangian: .*expected target_bits"),
        ({"algorithm": "ecsq", "params": {"target_bits": 0}}, "params.target_bits: found 0"),
        ({"algorithm": "weight_clustering", "params": {"clusters": 0}}, "params.clusters: found 0"),
        ({"algorithm": "weight_clustering", "params": {"initial": "random"}}, 'params.initial: found "random"'),
        ({"algorithm": "weight_clustering", "params": {"weighting": "adam"}}, "params.start_epoch: found 0 with the weighting"),
    ],
)
def test_mistakes(entry: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NNCFConfig.from_dict({"compression": entry}).algorithms()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.integers(0, 200), st.sampled_from([3, 7, 31]), st.floats(1e-6, 1.0))
def test_runs_of_equal_weights_are_the_cells_of_all(seed, size, zeros, levels, lagrangian):
    """Weights that differ in the last place are no runs: every value is compared with every level, to the same end."""
    values = np.random.default_rng(seed).standard_t(3, size=size)
    weights = np.full(size, 1.5)
    runs = iterative(WeightedValues(values, weights, zeros), levels, lagrangian)
    weights[0] = np.nextafter(1.5, 2)
    each = iterative(WeightedValues(values, weights, zeros), levels, lagrangian)
    np.testing.assert_allclose(runs.centroids, each.centroids, rtol=1e-9)
    np.testing.assert_array_equal(runs.codes, each.codes)
