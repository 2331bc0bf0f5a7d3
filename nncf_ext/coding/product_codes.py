"""Product codes of weights: sub-vectors of a layer's inputs by their numbers in small code books, and computing with those.

Wu et al. 2016 (Q-CNN, arXiv 1512.06473). A weight is looked at as (positions, inputs, outputs): a linear layer has one position,
a convolution those of its kernel. The inputs are cut into M subspaces of d; each has a code book of K sub-vectors, which all
positions share. codebook: (M, K, d). codes: (M, positions, outputs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nncf_ext import numerics, numpy_xp
from nncf_ext.coding.k_means_plus_plus import spread

_MOST_SWEEPS = 30  # of k-means


@dataclass(frozen=True)
class Layout:
    """Which axes of a weight are what. axis: of the inputs that are cut into sub-vectors; those that are neither `axis` nor among
    `outputs` are its positions."""

    shape: tuple[int, ...]
    axis: int
    outputs: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.shape)) if a != self.axis and a not in self.outputs)

    def canonical(self, weight: np.ndarray) -> np.ndarray:
        """(positions, inputs, outputs)"""
        moved = weight.transpose(*self.positions, self.axis, *self.outputs)
        return moved.reshape(self._size(self.positions), self.shape[self.axis], self._size(self.outputs))

    def stored(self, codes: np.ndarray) -> np.ndarray:
        """(M, positions, outputs) -> (M, all axes but `axis` in their order, flattened)."""
        rest = (*self.positions, *self.outputs)
        back = np.argsort(rest)
        return codes.reshape(len(codes), *(self.shape[a] for a in rest)).transpose(0, *(back + 1)).reshape(len(codes), -1)

    def in_positions(self, codes: np.ndarray) -> np.ndarray:
        """The inverse of `stored`."""
        rest = [a for a in range(len(self.shape)) if a != self.axis]
        order = [1 + rest.index(a) for a in (*self.positions, *self.outputs)]
        spread = codes.reshape(len(codes), *(self.shape[a] for a in rest)).transpose(0, *order)
        return spread.reshape(len(codes), self._size(self.positions), self._size(self.outputs))

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[a] for a in axes)


def decoded(codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The weight (positions, inputs, outputs) that product codes stand for."""
    subspaces, positions, outputs = codes.shape
    shape = positions, subspaces * codebook.shape[2], outputs
    return numerics.product_decoded(numpy_xp, codebook, codes.reshape(subspaces, -1), shape, 1)


def product_code(weight: np.ndarray, subvector: int, codewords: int) -> tuple[np.ndarray, np.ndarray]:
    """(codebook in float32, codes) of a weight (positions, inputs, outputs), by k-means in each subspace.

    What is exactly zero in `weight` counts in no distance and in no mean, as it stays zero whatever its code is.
    """
    positions, inputs, outputs = weight.shape
    subspaces = inputs // subvector
    vectors = weight.astype(np.float64).reshape(positions, subspaces, subvector, outputs).transpose(1, 0, 3, 2)
    books, codes = [], []
    for number, own in enumerate(vectors.reshape(subspaces, -1, subvector)):
        book, code = k_means(own, codewords, np.random.default_rng([0, number]))
        books.append(book)
        codes.append(code)
    return np.stack(books).astype(np.float32), np.stack(codes).reshape(subspaces, positions, outputs)


def k_means(vectors: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(means (k, d), number of the nearest for each of the vectors (n, d)), with k-means++ for a start and Lloyd's iteration.
    Zeros in vectors are left out of distances and means. Exact where no more than k are distinct.
    """
    vectors = vectors + 0.0  # of the two zeros one
    distinct, codes = np.unique(vectors, axis=0, return_inverse=True)
    if len(distinct) <= k:
        return np.concatenate([distinct, np.zeros((k - len(distinct), vectors.shape[1]))]), codes.reshape(-1)
    kept = (vectors != 0).astype(np.float64)
    means = _start(vectors, kept, k, rng)
    codes = np.full(len(vectors), -1)
    for _ in range(_MOST_SWEEPS):
        distance = _distances(vectors, kept, means)
        nearest = distance.argmin(1)
        if (nearest == codes).all():
            break
        codes = nearest
        away = distance[np.arange(len(codes)), codes]
        for empty in np.flatnonzero(np.bincount(codes, minlength=k) == 0):
            farthest = int(away.argmax())
            codes[farthest], away[farthest] = empty, 0
        for j in range(vectors.shape[1]):
            counts = np.bincount(codes, kept[:, j], k)
            means[:, j] = np.bincount(codes, vectors[:, j], k) / np.maximum(counts, 1)
    else:
        codes = _distances(vectors, kept, means).argmin(1)
    return means, codes


def _start(vectors: np.ndarray, kept: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k of the vectors, by k-means++; the first ones beside those where all are at no distance from these."""

    def squared_distance(i: int) -> np.ndarray:
        return np.maximum(_distances(vectors, kept, vectors[i : i + 1])[:, 0], 0)

    found = spread(np.ones(len(vectors)), squared_distance, k, rng)
    return vectors[[*found, *range(len(found), k)]]


def _distances(vectors: np.ndarray, kept: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(n, k): squared, without what all have alike in a row."""
    rows = (vectors**2).sum(1, keepdims=True)
    return rows + kept @ (means**2).T - 2 * vectors @ means.T


# Computing with look-up tables --------------------------------------------------------------------------------------------


def linear_response(x: np.ndarray, codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """x (n, inputs) times a weight of one position, without decoding it: a table of <D_k^m, x^m> for each subspace m, of which
    every output takes one entry. (n, outputs)"""
    tables = _tables(x, codebook)
    return sum(table[:, own[0]] for table, own in zip(tables, codes, strict=True))  # type: ignore[return-value]


def convolution_response(
    x: np.ndarray,
    codebook: np.ndarray,
    codes: np.ndarray,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> np.ndarray:
    """The convolution of x (n, *places, inputs): one table per place, read at every position of the kernel.

    pads: as ONNX has them, all befores and then all afters. Returns (n, *places, outputs).
    """
    rank = len(kernel)
    x = np.pad(x, ((0, 0), *zip(pads[:rank], pads[rank:], strict=True), (0, 0)))
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[1:-1], kernel, strides, dilations, strict=True)]
    tables = _tables(x.reshape(-1, x.shape[-1]), codebook).reshape(len(codebook), *x.shape[:-1], -1)
    total = np.zeros((len(x), *sizes, codes.shape[2]), tables.dtype)
    for position, at in enumerate(np.ndindex(*kernel)):
        starts = [i * d for i, d in zip(at, dilations, strict=True)]
        places = tuple(slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(starts, sizes, strides, strict=True))
        for table, own in zip(tables, codes, strict=True):
            total += table[(slice(None), *places)][..., own[position]]
    return total


def _tables(x: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """(M, n, K)"""
    subspaces, _, subvector = codebook.shape
    return x.reshape(len(x), subspaces, subvector).transpose(1, 0, 2) @ codebook.transpose(0, 2, 1)


def multiply_adds(
    inputs: int, outputs: int, subvector: int, codewords: int, positions: int = 1, places_in: int = 1, places_out: int = 1
) -> int:
    """Of one sample by look-up tables: places_in * inputs * K + places_out * positions * outputs * M (sec. 3.2 and 3.3)."""
    return places_in * inputs * codewords + places_out * positions * outputs * (inputs // subvector)


def code_bits(inputs: int, outputs: int, subvector: int, codewords: int, positions: int = 1) -> int:
    """Of code books in float32 and codes of a fixed length: 32 * inputs * K + M * positions * outputs * log2 K, rounded up."""
    return 32 * inputs * codewords + inputs // subvector * positions * outputs * (codewords - 1).bit_length()
