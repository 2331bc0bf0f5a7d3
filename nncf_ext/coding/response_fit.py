"""Product codes that keep a layer's responses, not its weights: error correction of Wu et al. 2016 (sec. 3.4).

Minimised is the sum over samples of ||T - W~' s~||^2: T is the response of the original layer to its original input, s~ the input
that the coded layers before it make. Of the samples only second moments are needed: A = S~' S~, B = S~' T and the sum of T^2.

Beyond the paper, W~ is held to the weight W by the term pull * mean eigenvalue of A * ||W - W~||^2: otherwise nothing says what
it is for inputs that the samples do not have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nncf_ext.coding.product_codes import decoded

_MOST_SWEEPS = 4  # after which little changes
_SMALLEST_GAIN = 1e-3  # of a sweep, by which the error has to fall for another one
_GROUP = 16  # subspaces whose residuals are computed in one product
_PULL = 1e-2
_RIDGE = 1e-6  # of the mean eigenvalue, as codewords may be unused
_CHUNK = 1 << 22  # numbers in patches that are looked at together


class Moments:
    """Of the inputs s~ (features of one sample: positions * inputs) and the responses T of a layer."""

    def __init__(self, features: int, outputs: int):
        self.inputs, self.cross, self.responses = np.zeros((features, features)), np.zeros((features, outputs)), 0.0

    def add(self, coded: np.ndarray, responses: np.ndarray) -> None:
        """coded: s~ (n, features). responses: T (n, outputs)."""
        self.inputs += coded.T @ coded
        self.cross += coded.T @ responses
        self.responses += float(np.square(responses, dtype=np.float64).sum())

    def error(self, weight: np.ndarray) -> float:
        """The sum of ||T - W' s~||^2 over the samples so far, for a weight (positions, inputs, outputs)."""
        flat = weight.reshape(-1, weight.shape[-1]).astype(np.float64)
        return float(self.responses + (flat * (self.inputs @ flat - 2 * self.cross)).sum())

    def pulled(self, weight: np.ndarray) -> Moments:
        """With the term for the weight, as if samples of single inputs had its responses."""
        flat = weight.reshape(-1, weight.shape[-1]).astype(np.float64)
        found = Moments(*flat.shape)
        strength = _PULL * np.trace(self.inputs) / len(flat)
        found.inputs, found.cross = self.inputs + strength * np.eye(len(flat)), self.cross + strength * flat
        found.responses = self.responses + strength * float(np.square(flat).sum())
        return found

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.inputs).all() and np.isfinite(self.cross).all() and np.isfinite(self.responses))


def fit(
    codebook: np.ndarray, codes: np.ndarray, weight: np.ndarray, seen: Moments
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(codebook, codes, error before, error after): block coordinate descent over the subspaces, from codes that are there. What
    is given is given back where it has the smaller error.

    In each subspace every code in turn is replaced by the best of all K, position by position and for all outputs at once; then
    the code book is the least-squares solution. No step makes the sum of the error and the pull larger.
    weight (positions, inputs, outputs): the original; its zeros stay zero.
    """
    kept, moments = weight != 0, seen.pulled(weight)
    start = seen.error(decoded(codebook, codes) * kept)
    books, own = codebook.astype(np.float64), codes.copy()
    positions, inputs, outputs = kept.shape
    subspaces, _, d = books.shape
    covariance = moments.inputs.reshape(positions, inputs, positions, inputs)
    cross, stays = moments.cross.reshape(kept.shape), kept.astype(np.float64)
    present = decoded(books, own) * stays
    error = moments.error(present)
    for _ in range(_MOST_SWEEPS):
        before = error
        for first in range(0, subspaces, _GROUP):
            last = min(first + _GROUP, subspaces)
            group = slice(first * d, last * d)
            answered = covariance[:, group].reshape(-1, positions * inputs) @ present.reshape(-1, outputs)
            residual = cross[:, group] - answered.reshape(positions, -1, outputs)  # S~' (T - S~ W~), of these subspaces
            for m in range(first, last):
                at = slice(m * d, (m + 1) * d)
                block, z, old = covariance[:, at, :, at], stays[:, at], present[:, at].copy()
                start_of = residual[:, (m - first) * d : (m - first + 1) * d].copy()
                left = start_of.copy()
                for p in range(positions):
                    own[m, p] = _best(books[m], block[p, :, p], z[p], left[p] + block[p, :, p] @ present[p, at])
                    new = books[m][own[m, p]].T * z[p]
                    left -= np.tensordot(block[:, :, p], new - present[p, at], 1)
                    present[p, at] = new
                books[m] += _least_squares(own[m], block, z, left, len(books[m]))
                present[:, at] = books[m][own[m]].transpose(0, 2, 1) * z
                change = present[:, at] - old
                error += float((change * (np.tensordot(block, change, 2) - 2 * start_of)).sum())
                residual -= np.tensordot(covariance[:, group, :, at], change, 2)
        if error > (1 - _SMALLEST_GAIN) * before:
            break
    found = books.astype(np.float32)
    after = seen.error(decoded(found, own) * kept)
    return (found, own, start, after) if after <= start else (codebook, codes, start, start)


def _best(book: np.ndarray, block: np.ndarray, stays: np.ndarray, target: np.ndarray) -> np.ndarray:
    """For each output the k with the least w' A w - 2 w' target, where w is the k-th codeword with zeros where `stays` is 0.

    book (K, d); block A (d, d); stays, target (d, outputs)."""
    products = (book[:, :, None] * book[:, None, :] * block).reshape(len(book), -1)
    pairs = (stays[:, None] * stays[None]).reshape(-1, stays.shape[1])
    return (products @ pairs - 2 * book @ (stays * target)).argmin(0)


def _least_squares(codes: np.ndarray, block: np.ndarray, stays: np.ndarray, residual: np.ndarray, k: int) -> np.ndarray:
    """What to add to the codewords (k, d).

    codes (positions, outputs); block (positions, d, positions, d) of A; stays, residual (positions, d, outputs).
    """
    positions, d, outputs = stays.shape
    gradient = np.zeros((k, d))
    for j in range(d):
        gradient[:, j] = np.bincount(codes.reshape(-1), (stays[:, j] * residual[:, j]).reshape(-1), k)
    rows = (codes[:, None] * d + np.arange(d)[:, None]).reshape(positions * d, outputs)
    z = stays.reshape(positions * d, outputs)
    weights = block.reshape(positions * d, positions * d, 1) * z[:, None] * z[None]
    if positions == 1:  # no two codewords meet in an output: one system for each
        index = (codes[0] * d * d)[None, None] + (np.arange(d)[:, None] * d + np.arange(d))[..., None]
        normal = np.bincount(index.reshape(-1), weights.reshape(-1), k * d * d).reshape(k, d, d)
    else:
        index = rows[:, None] * (k * d) + rows[None]
        normal = np.bincount(index.reshape(-1), weights.reshape(-1), (k * d) ** 2).reshape(1, k * d, k * d)
    size = normal.shape[-1]
    scale = np.trace(normal, axis1=1, axis2=2)[:, None, None] / size
    normal = normal + np.where(scale > 0, _RIDGE * scale, 1) * np.eye(size)
    return np.linalg.solve(normal, gradient.reshape(len(normal), size, 1)).reshape(k, d)


def patches(
    x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int] | None, dilations: Sequence[int]
) -> np.ndarray:
    """What a convolution multiplies its kernel with: (n, *places, inputs) -> (n, places, positions * inputs).

    pads: all befores and then all afters; None for ONNX's SAME_UPPER.
    """
    rank = len(kernel)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if pads is None:
        pads = same_upper(x.shape[1:-1], extents, strides)
    x = np.pad(x, ((0, 0), *zip(pads[:rank], pads[rank:], strict=True), (0, 0)))
    # (n, *places, inputs, *window)
    windows = np.lib.stride_tricks.sliding_window_view(x, extents, axis=tuple(range(1, rank + 1)))
    steps = tuple(slice(None, None, s) for s in strides), tuple(slice(None, None, d) for d in dilations)
    windows = np.moveaxis(windows[(slice(None), *steps[0], slice(None), *steps[1])], rank + 1, -1)
    places = int(np.prod(windows.shape[1 : rank + 1]))
    return windows.reshape(len(x), places, -1)


def same_upper(sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Pads with which there is an output for every stride; where their number is odd, the last is after."""
    totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(sizes, extents, strides, strict=True)]
    return (*(t // 2 for t in totals), *(t - t // 2 for t in totals))


def in_chunks(samples: int, numbers_per_sample: int) -> list[slice]:
    """So many samples at once that their patches stay in memory."""
    size = max(_CHUNK // max(numbers_per_sample, 1), 1)
    return [slice(start, start + size) for start in range(0, samples, size)]
