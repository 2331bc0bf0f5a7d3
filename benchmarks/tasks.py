"""Data of `make results` beyond the demo's: the digits at the size of MNIST's, and characters of Python's help texts."""

from __future__ import annotations

import pydoc_data.topics
from dataclasses import dataclass

import numpy as np

from nncf_ext.tools import demo

CONTEXT, VOCABULARY, STRETCH = 48, 128, 600
# SqueezeNet 1.1's modules: channels between, channels out, whether a pooling comes first.
FIRES = (
    (16, 128, True),
    (16, 128, False),
    (32, 256, True),
    (32, 256, False),
    (48, 384, True),
    (48, 384, False),
    (64, 512, False),
    (64, 512, False),
)


@dataclass(frozen=True)
class Data:
    """Inputs and labels. Of text: (n, CONTEXT) characters, and the characters that follow each."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def digits() -> Data:
    """Scikit-learn's digits as they are: (n, 8, 8)."""
    found = demo.load_digits()
    return Data(found.train_images, found.train_labels, found.test_images, found.test_labels)


def large_digits(side: int = 28) -> Data:
    """The digits as (n, side, side), by linear interpolation; 28 for networks made for MNIST."""
    from scipy.ndimage import zoom

    found = demo.load_digits()
    train, test = (
        np.clip(zoom(images, (1, side / 8, side / 8), order=1), 0, 1).astype(np.float32)
        for images in (found.train_images, found.test_images)
    )
    return Data(train, found.train_labels, test, found.test_labels)


def characters(train: int = 4000, test: int = 400) -> Data:
    """Pieces of the help texts that ship with Python: every fifth stretch of 600 characters is for testing."""
    text = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64)
    stretches = codes[: len(codes) // STRETCH * STRETCH].reshape(-1, STRETCH)
    is_test = np.arange(len(stretches)) % 5 == 0
    rng = np.random.default_rng(0)

    def pieces(rows: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        picked, starts = rng.integers(len(rows), size=number), rng.integers(STRETCH - CONTEXT, size=number)
        found = np.stack([rows[row, start : start + CONTEXT + 1] for row, start in zip(picked, starts, strict=True)])
        return found[:, :-1].astype(np.int32), found[:, 1:].astype(np.int32)

    return Data(*pieces(stretches[~is_test], train), *pieces(stretches[is_test], test))
