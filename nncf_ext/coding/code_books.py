"""Which few values stand best for many: k-means, and quantization under a constraint on the entropy of the codes.

Everything is in numpy and float64, because it is done once in a training. Values are flat arrays without zeros; weights say what
the square of an error counts (Choi, El-Khamy, Lee 2017, "Towards the Limit of Network Quantization", eq. 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from nncf_ext.coding.k_means_plus_plus import spread

_SAMPLE = 1 << 16  # values that a start is found with
_FEWEST = 3  # cells of a sign that a search starts with, unless fewer are asked for
_RATE_SAMPLE = 1 << 18  # values with which a rate is looked for
_BLOCKS = 1 << 12, 1 << 15  # values for which costs are compared together: at least, and what a cache holds


class Codebook(NamedTuple):
    """centroids: ascending. codes: of each value, 1 + its centroid's index; 0 for the value zero."""

    centroids: np.ndarray
    codes: np.ndarray


class WeightedValues(NamedTuple):
    """The values that are to share a code book, what the square of an error counts in each, and how many zeros come with them."""

    values: np.ndarray
    weights: np.ndarray
    zeros: int


def linear_start(values: np.ndarray, clusters: int) -> np.ndarray:
    """Evenly between the extremes (Han et al. 2016, section 3.2)."""
    return np.linspace(values.min(), values.max(), clusters)


def density_start(values: np.ndarray, clusters: int) -> np.ndarray:
    """Evenly among the values in their order."""
    return np.quantile(values, (np.arange(clusters) + 0.5) / clusters)


def plus_plus_start(values: np.ndarray, weights: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """By k-means++, on a sample of the values where they are many."""
    rng = np.random.default_rng(seed)
    part = np.linspace(0, values.size - 1, min(values.size, _SAMPLE)).astype(int)
    x, h = values[part], weights[part]
    return np.sort(x[spread(h, lambda i: h * np.square(x - x[i]), clusters, rng)])


def kmeans(values: np.ndarray, weights: np.ndarray, start: np.ndarray, iterations: int = 300) -> np.ndarray:
    """Centroids, ascending, by Lloyd's algorithm: each is the weighted mean of the values that are nearest to it.

    A centroid without values goes to the value that costs most. As many values as centroids, or fewer: the values themselves.
    """
    order = np.argsort(values, kind="stable")
    x, h = values[order].astype(np.float64), weights[order].astype(np.float64)
    distinct = x[np.flatnonzero(np.diff(x, prepend=-np.inf))]
    if distinct.size <= start.size:
        return distinct
    mass, moment = (np.concatenate([[0.0], np.cumsum(a)]) for a in (h, h * x))
    centroids, before = np.sort(start.astype(np.float64)), None
    for _ in range(iterations):
        ends = np.searchsorted(x, (centroids[1:] + centroids[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], ends, [x.size]])
        empty = np.diff(bounds) == 0
        if not empty.any() and before is not None and np.array_equal(bounds, before):
            break
        before = bounds
        if empty.any():
            centroids[empty] = _costliest(x, h * np.square(x - np.repeat(centroids, np.diff(bounds))), int(empty.sum()))
            centroids = np.sort(centroids)
        else:
            centroids = np.diff(moment[bounds]) / np.diff(mass[bounds])
    return centroids


def _costliest(x: np.ndarray, cost: np.ndarray, count: int) -> np.ndarray:
    """The distinct values, of an ascending array, that cost most."""
    first = np.flatnonzero(np.diff(x, prepend=-np.inf))
    of_value = np.maximum.reduceat(cost, first)
    return x[first[np.argsort(-of_value, kind="stable")[:count]]]


def nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the nearest of ascending centroids; the lower one of two."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="left")


def entropy(counts: np.ndarray) -> float:
    """Bits per symbol."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def rate(books: Sequence[WeightedValues], coded: Sequence[Codebook]) -> float:
    """Bits for each value and each zero, if every code book's codes take their entropy."""
    bits, size = 0.0, 0
    for book, found in zip(books, coded, strict=True):
        counts = np.bincount(found.codes, minlength=1)
        counts[0] += book.zeros
        bits += entropy(counts) * counts.sum()
        size += int(counts.sum())
    return bits / max(size, 1)


def cheapest(
    values: np.ndarray, weights: np.ndarray, levels: np.ndarray, bits: np.ndarray, lagrangian: float
) -> tuple[np.ndarray, float]:
    """The index of the level of each value that minimizes weight * (value - level)^2 + lagrangian * bits, and the sum of these.

    bits: of each level; infinite for one that is not to be had. Faster where values are in ascending order: then those of a block
    have few levels to choose from.
    """
    codes, total = np.zeros(values.size, np.int32), 0.0
    block = int(np.clip(values.size // 64, *_BLOCKS))
    had = np.isfinite(bits)
    price = lagrangian * np.where(had, bits, 0)
    for start in range(0, values.size, block):
        part = slice(start, start + block)
        x, h = values[part], weights[part]
        low, high = x.min(), x.max()
        nearest_end = np.maximum(np.maximum(low - levels, levels - high), 0)
        farthest_end = np.maximum(np.abs(low - levels), np.abs(high - levels))
        most = np.min(np.where(had, h.max() * np.square(farthest_end) + price, np.inf))
        best = np.full(x.size, np.inf)
        own = codes[part]
        for level in np.flatnonzero(had & (h.min() * np.square(nearest_end) + price <= most)):
            cost = np.square(x - levels[level])
            cost *= h
            cost += price[level]
            better = cost < best
            np.copyto(best, cost, where=better)
            np.copyto(own, np.int32(level), where=better)
        total += float(best.sum())
    return codes, total


def iterative(book: WeightedValues, levels: int, lagrangian: float, iterations: int = 100, tolerance: float = 1e-4) -> Codebook:
    """Cells and values by turns, so that the sum of weight * error^2 + lagrangian * bits never rises (Choi et al. 2017, section
    4.2). It starts with `levels` cells of one width, zero in the middle of one of them; those that become empty are dropped. Zero
    stays zero. Where it ends depends on the start, so it starts with half as many cells too, and so on: the best end counts."""
    order = np.argsort(book.values, kind="stable")
    ascending = WeightedValues(book.values[order], book.weights[order], book.zeros)
    alike = 0 < book.weights.min() == book.weights.max()
    partition = _Runs(ascending) if alike else _Elements(ascending)
    half, best, found = (levels - 1) // 2, np.inf, None
    while half and (found is None or half >= _FEWEST):
        cells, table, cost = _by_turns(partition, half, lagrangian, iterations, tolerance)
        if cost < best:
            best, found = cost, (cells, table, half)
        half //= 2
    assert found is not None
    codes = np.empty(order.size, np.int32)
    codes[order] = partition.codes(found[0]) - found[2]
    return _coded(codes, *found[1:])


def _by_turns(
    partition: _Elements | _Runs, half: int, lagrangian: float, iterations: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """From 2 * half + 1 cells: the cells, their levels, and the sum that is to be small."""
    book = partition.book
    table = np.abs(book.values).max() / half * np.arange(-half, half + 1)
    cells, cost = partition.nearest(table), np.inf
    for _ in range(iterations):
        counts, mass, moment = partition.sums(cells, table.size)
        table = np.where(counts > 0, moment / np.where(mass > 0, mass, 1), table)
        table[half] = 0
        counts[half] += book.zeros
        with np.errstate(divide="ignore"):
            bits = -np.log2(counts / counts.sum())
        cells, total = partition.cheapest(table, bits, lagrangian)
        before, cost = cost, total + lagrangian * book.zeros * (bits[half] if book.zeros else 0)
        if not cost < before * (1 - tolerance):
            break
    return cells, table, cost


class _Elements:
    """The values of a book, of any weights, in cells: as the index of each value's cell."""

    def __init__(self, book: WeightedValues):
        self.book = book

    def nearest(self, levels: np.ndarray) -> np.ndarray:
        return nearest(self.book.values, levels)

    def sums(self, cells: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each cell: how many values it has, their weights, and their weights times the values."""
        values, weights, _ = self.book
        numbers = np.bincount(cells, minlength=count).astype(np.float64)
        return numbers, np.bincount(cells, weights, minlength=count), np.bincount(cells, weights * values, minlength=count)

    def cheapest(self, levels: np.ndarray, bits: np.ndarray, lagrangian: float) -> tuple[np.ndarray, float]:
        return cheapest(self.book.values, self.book.weights, levels, bits, lagrangian)

    def codes(self, cells: np.ndarray) -> np.ndarray:
        return cells


class _Runs:
    """The ascending values of a book in cells that are runs of them, as with equal weights the cheapest are: as the indices at
    which each begins and ends, (cells, 2). Sums are differences of running sums: no time that grows with the number of values."""

    def __init__(self, book: WeightedValues):
        self.book = book
        values = book.values.astype(np.float64)
        self._moments = [np.concatenate([[0.0], np.cumsum(power)]) for power in (values, np.square(values))]

    def nearest(self, levels: np.ndarray) -> np.ndarray:
        return self._between((levels[1:] + levels[:-1]) / 2, np.arange(levels.size), levels.size)

    def sums(self, cells: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        numbers = np.diff(cells)[:, 0].astype(np.float64)
        return numbers, numbers, np.diff(self._moments[0][cells])[:, 0]

    def cheapest(self, levels: np.ndarray, bits: np.ndarray, lagrangian: float) -> tuple[np.ndarray, float]:
        """The costs of levels, less weight * value^2, are lines over the values: their lower envelope tells where runs end."""
        weight = float(self.book.weights[0])
        price = lagrangian / weight * np.where(np.isfinite(bits), bits, 0)
        order = np.lexsort((price, levels))
        order = order[np.isfinite(bits[order])]
        order = order[np.diff(levels[order], prepend=-np.inf) > 0]
        while True:
            level, own = levels[order], price[order]
            crossings = (level[1:] + level[:-1]) / 2 + np.diff(own) / (2 * np.diff(level))
            above = 1 + np.flatnonzero(np.diff(crossings) <= 0)  # nowhere below both neighbours
            if above.size == 0:
                break
            order = np.delete(order, above)
        cells = self._between(crossings, order, levels.size)
        numbers, _, moment = self.sums(cells, levels.size)
        squares = np.diff(self._moments[1][cells])[:, 0]
        return cells, weight * float(np.sum(squares - 2 * levels * moment + (np.square(levels) + price) * numbers))

    def _between(self, limits: np.ndarray, levels: np.ndarray, count: int) -> np.ndarray:
        """The runs that the limits part, as the cells `levels` of `count`; a value on a limit belongs to the lower one."""
        ends = np.searchsorted(self.book.values, limits, side="right")
        cells = np.zeros((count, 2), int)
        cells[levels] = np.stack([np.concatenate([[0], ends]), np.concatenate([ends, [self.book.values.size]])], 1)
        return cells

    def codes(self, cells: np.ndarray) -> np.ndarray:
        order = np.argsort(cells[:, 0], kind="stable")
        order = order[np.diff(cells[order])[:, 0] > 0]
        return np.repeat(order, np.diff(cells[order])[:, 0])


def uniform(book: WeightedValues, levels: int, step: float) -> Codebook:
    """Cells of the width `step`, zero in the middle of one; the value of a cell is the weighted mean of what is in it (Choi et
    al. 2017, section 4.1)."""
    half = (levels - 1) // 2
    cells = np.clip(np.round(book.values / step), -half, half).astype(np.int32)
    mass = np.bincount(cells + half, book.weights, minlength=2 * half + 1)
    moment = np.bincount(cells + half, book.weights * book.values, minlength=2 * half + 1)
    return _coded(cells, moment / np.where(mass > 0, mass, 1), half)


def _coded(cells: np.ndarray, table: np.ndarray, zero: int) -> Codebook:
    """cells: index in `table` less `zero`."""
    present = np.unique(cells[cells != 0])
    order = np.argsort(table[present + zero], kind="stable")
    number = np.zeros(table.size, np.int32)
    number[present[order] + zero] = 1 + np.arange(present.size)
    return Codebook(table[present[order] + zero], number[cells + zero])


def iterative_at_rate(books: Sequence[WeightedValues], levels: int, target: float) -> list[Codebook]:
    """`iterative`, with the one factor at which all books together take `target` bits for each weight, or a little less.

    No factor has some rates (only those on the convex hull of the curve of errors have one): where the next lower one has the
    larger error, what `uniform_at_rate` finds is given.
    """
    unit = float(np.mean([np.mean(book.weights * np.square(book.values)) for book in books]))

    def coded(books: Sequence[WeightedValues], lagrangian: float) -> list[Codebook]:
        return [iterative(book, levels, lagrangian) for book in books]

    return min(_at_rate(books, coded, target, 0.0, unit), uniform_at_rate(books, levels, target), key=partial(error, books))


def error(books: Sequence[WeightedValues], coded: Sequence[Codebook]) -> float:
    """The sum of weight * error^2."""
    total = 0.0
    for book, found in zip(books, coded, strict=True):
        table = np.concatenate([[0.0], found.centroids])
        total += float(np.sum(book.weights * np.square(book.values - table[found.codes])))
    return total


def uniform_at_rate(books: Sequence[WeightedValues], levels: int, target: float) -> list[Codebook]:
    """`uniform`, with the one width at which all books together take `target` bits for each weight, or a little less."""
    smallest = max(float(np.abs(book.values).max()) for book in books) / ((levels - 1) // 2)

    def coded(books: Sequence[WeightedValues], step: float) -> list[Codebook]:
        return [uniform(book, levels, step) for book in books]

    return _at_rate(books, coded, target, smallest, smallest)


def _at_rate(
    books: Sequence[WeightedValues],
    coded: Callable[[Sequence[WeightedValues], float], list[Codebook]],
    target: float,
    lowest: float,
    unit: float,
) -> list[Codebook]:
    """`coded` at the smallest argument of at least `lowest` at which the rate is at most `target`, to half a percent of the rate.

    The argument is looked for with a part of the values where they are many. unit: an argument of the right order.
    """
    part = _part(books)
    if rate(part, coded(part, lowest)) <= target:
        return coded(books, lowest)
    high = unit
    while rate(part, coded(part, high)) > target:
        high *= 4
    low = high / 4
    while low > unit * 1e-12 and low > lowest and rate(part, coded(part, low)) <= target:
        high, low = low, low / 4
    low = max(low, lowest, unit * 1e-12)
    for _ in range(20):
        middle = float(np.sqrt(low * high))
        bits = rate(part, coded(part, middle))
        if bits > target:
            low = middle
        else:
            high = middle
            if bits >= target * 0.995:
                break
    found = coded(books, high)
    for _ in range(20):  # all the values may take a little more than their part
        if rate(books, found) <= target:
            break
        high *= 1.02
        found = coded(books, high)
    return found


def _part(books: Sequence[WeightedValues]) -> list[WeightedValues]:
    """Every book with so many of its values, evenly taken, that all are few."""
    share = min(_RATE_SAMPLE / max(sum(book.values.size for book in books), 1), 1)
    found = []
    for book in books:
        at = np.linspace(0, book.values.size - 1, max(int(book.values.size * share), 1)).astype(int)
        zeros = round(book.zeros * at.size / book.values.size)
        found.append(WeightedValues(book.values[at], book.weights[at], zeros))
    return found
