"""Recurrent layers in numpy, one step at a time, for the tests of both frameworks. All weights are (inputs, gates * channels)."""

from __future__ import annotations

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(x: np.ndarray, w: np.ndarray, r: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(batch, length, inputs) -> (batch, length, channels). Gates: input, forget, cell, output."""
    h = c = np.zeros((len(x), r.shape[1] // 4))
    out = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ w + h @ r + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.stack(out, 1)


def gru(
    x: np.ndarray, w: np.ndarray, r: np.ndarray, bias: np.ndarray, bias_of_r: np.ndarray, update_first: bool = False
) -> np.ndarray:
    """Gates: reset, update, new (torch), or update, reset, new (Keras). The reset gate is applied behind the product with r."""
    h = np.zeros((len(x), r.shape[0]))
    out = []
    for t in range(x.shape[1]):
        (a, b, n), (ra, rb, rn) = np.split(x[:, t] @ w + bias, 3, axis=1), np.split(h @ r + bias_of_r, 3, axis=1)
        reset, update = (sigmoid(b + rb), sigmoid(a + ra)) if update_first else (sigmoid(a + ra), sigmoid(b + rb))
        h = update * h + (1 - update) * np.tanh(n + reset * rn)
        out.append(h)
    return np.stack(out, 1)


def rnn(x: np.ndarray, w: np.ndarray, r: np.ndarray, bias: np.ndarray) -> np.ndarray:
    h = np.zeros((len(x), r.shape[0]))
    out = []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ w + h @ r + bias)
        out.append(h)
    return np.stack(out, 1)
