"""A two-layer network in numpy, with transforms on its tensors, differentiated by hand: the oracle of the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nncf_ext.edits import Edit
from tests.contract.data import data as data
from tests.contract.references import REFERENCES
from tests.contract.references.reference import Forward

# tensors that a transform may stand on, in order of use
ROLES = ("input", "fc1.weight", "fc1.bias", "relu", "fc2.weight", "fc2.bias", "fc2")
Edits = Mapping[str, list[Edit]]  # by role, in order of application
FORWARDS = {kind: forward for reference in REFERENCES.values() for kind, forward in reference.forwards.items()}
VJPS = {kind: vjp for reference in REFERENCES.values() for kind, vjp in reference.vjps.items()}
Variables = dict[tuple[str, str], dict[str, np.ndarray]]  # by (role, transform kind)


def initial_weights() -> dict[str, np.ndarray]:
    """Weights as (inputs, outputs), on a coarse grid so that float sums are exact in any order.

    No two weights are equally large: which of them a mask prunes first depends on the layout.
    """
    rng = np.random.default_rng(3)
    sizes = iter(rng.permutation(np.arange(1, 84)))

    def grid(*shape: int) -> np.ndarray:
        values = np.array([next(sizes) for _ in range(math.prod(shape))]) * rng.choice([-1, 1], math.prod(shape))
        return (values / 64).astype(np.float32).reshape(shape)

    return {"fc1.weight": grid(6, 8), "fc1.bias": grid(8), "fc2.weight": grid(8, 3), "fc2.bias": grid(3)}


class ReferenceNet:
    """y = relu(x @ W1 + b1) @ W2 + b2. `edits` and `variables` say what stands on which tensor."""

    def __init__(self, weights: dict[str, np.ndarray], edits: Edits, variables: Variables):
        self.weights = {name: value.copy() for name, value in weights.items()}
        self.edits, self.variables = edits, variables
        self.off: set[tuple[str, str]] = set()  # (role, kind) of edits that do nothing
        self.transformed: dict[str, np.ndarray] = {}  # what the last forward computed with, by role
        self.arriving: dict[tuple[str, str], np.ndarray] = {}  # the last backward's gradients by what (role, kind) made

    def transform(self, role: str, edit: Edit, value: np.ndarray, training: bool) -> np.ndarray:
        """What an edit makes of the tensor at its role, by arithmetic that is no part of nncf_ext."""
        kind = edit.transform.kind
        return FORWARDS[kind](edit.transform, value, self.variables[role, kind], training)

    def forward(self, x: np.ndarray, training: bool, seen: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Outputs; `seen` collects the tensor of each role before its transforms."""
        seen = {} if seen is None else seen
        self._tape: dict[str, list[tuple[Edit, np.ndarray]]] = {}

        def at(role: str, value: np.ndarray) -> np.ndarray:
            seen[role] = value
            self._tape[role] = []
            for edit in self.edits.get(role, ()):
                if (role, edit.transform.kind) in self.off:
                    continue
                self._tape[role].append((edit, value))
                value = self.transform(role, edit, value, training)
            self.transformed[role] = value
            return value

        self._x = at("input", x)
        self._w1 = at("fc1.weight", self.weights["fc1.weight"])
        pre = self._x @ self._w1 + at("fc1.bias", self.weights["fc1.bias"])
        self._positive = pre > 0
        self._hidden = at("relu", np.maximum(pre, 0))
        self._w2 = at("fc2.weight", self.weights["fc2.weight"])
        return at("fc2", self._hidden @ self._w2 + at("fc2.bias", self.weights["fc2.bias"]))

    def backward(
        self, g: np.ndarray, further: Sequence[Mapping[str, np.ndarray]] = ()
    ) -> tuple[dict[str, np.ndarray], dict[tuple[str, str, str], np.ndarray]]:
        """Gradients of the weights and of the trainable variables (role, kind, name) for the outputs' gradient `g`.

        further: gradients by tensors of the net, by role, that terms of the loss add.
        """
        of_variables: dict[tuple[str, str, str], np.ndarray] = {}

        def through(role: str, g: np.ndarray) -> np.ndarray:
            g = sum((more[role] for more in further if role in more), g)
            for edit, value in reversed(self._tape[role]):
                kind = edit.transform.kind
                self.arriving[role, kind] = g
                g, own = VJPS[kind](edit.transform, value, self.variables[role, kind], g)
                for name, gradient in own.items():
                    of_variables[role, kind, name] = edit.lr_multiplier * gradient
            return g

        g = through("fc2", g)
        weights = {"fc2.bias": through("fc2.bias", g.sum(0)), "fc2.weight": through("fc2.weight", self._hidden.T @ g)}
        g = through("relu", g @ self._w2.T) * self._positive
        weights |= {"fc1.bias": through("fc1.bias", g.sum(0)), "fc1.weight": through("fc1.weight", self._x.T @ g)}
        through("input", g @ self._w1.T)
        return weights, of_variables


def loss_and_gradients(
    net: ReferenceNet, algorithms: Sequence[Any], x: np.ndarray, y: np.ndarray, out: np.ndarray, teacher: ReferenceNet
) -> tuple[float, dict[str, np.ndarray], dict[tuple[str, str, str], np.ndarray]]:
    """Of the mean squared error and the algorithms' terms, after `net` has made `out` of `x` in training."""
    forward = Forward(x, out, teacher.forward(x, False), net.transformed, teacher.transformed)
    terms = [REFERENCES[algorithm.algorithm].loss(net, algorithm, forward) for algorithm in algorithms]
    weight = math.prod(algorithm.weight_of_task for algorithm in algorithms)
    loss = weight * float(np.mean((out - y) ** 2)) + sum(term.value for term in terms)
    g = weight * 2 * (out - y) / out.size + sum(term.by_output for term in terms)
    weights, variables = net.backward(g.astype(np.float32), [term.by_tensor for term in terms])
    for term in terms:
        weights.update({name: weights[name] + gradient for name, gradient in term.by_weight.items()})
        for at, gradient in term.by_variable.items():
            variables[at] = variables.get(at, 0) + gradient
    return loss, weights, variables
