from __future__ import annotations

from typing import Any

import numpy as np

from nncf_ext.algorithms.product_quantization import ProductQuantizer
from nncf_ext.coding.product_codes import product_code
from nncf_ext.coding.response_fit import Moments, fit
from tests.contract.data import data
from tests.contract.references.reference import AlgorithmReference

KIND = "product_quantizer"
READS = {"fc1.weight": "input", "fc2.weight": "relu"}


class LaidProduct(ProductQuantizer):
    """Of weights (inputs, outputs); the variables' axes are in the reverse order where the framework's weights are transposed."""

    transposed: bool

    def laid(self, variables: Any) -> dict[str, np.ndarray]:
        return {name: value.T if self.transposed else value for name, value in variables.items()}


def _forward(transform: LaidProduct, x: np.ndarray, variables: Any, training: bool) -> np.ndarray:
    codebook, codes = transform.laid(variables).values()
    if codes[0, 0] < 0:
        return x
    rows = [np.concatenate([book[k] for book, k in zip(codebook, column, strict=True)]) for column in codes.T]
    return np.stack(rows, 1) * (x != 0)


def _vjp(transform: LaidProduct, x: np.ndarray, variables: Any, g: np.ndarray) -> Any:
    codebook, codes = transform.laid(variables).values()
    by_book = np.zeros_like(codebook)
    if codes[0, 0] < 0:
        return g, {"codebook": by_book.T if transform.transposed else by_book}
    d = transform.subvector
    for m in range(len(codes)):
        for out, k in enumerate(codes[m]):
            by_book[m, k] += (g * (x != 0))[m * d : (m + 1) * d, out]
    return np.zeros_like(g), {"codebook": by_book.T if transform.transposed else by_book}


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    start = algorithm.params.start_epoch
    if step is not None or epoch != (start if start else -1):
        return
    for role, source in READS.items():
        weight, transform = net.weights[role], None
        for edit in net.edits[role]:
            if edit.transform.kind == KIND:
                transform = edit.transform
                break
            weight = net.transform(role, edit, weight, False)
        codebook, codes = product_code(weight[None], transform.subvector, transform.codewords)
        if algorithm.params.error_correction:
            moments = Moments(*weight.shape)
            for batch in range(2):
                before, after = ({}, {})
                own = {(other, KIND) for other in READS}
                net.off |= own
                net.forward(data(batch)[0], False, before)
                net.off -= own
                net.forward(data(batch)[0], False, after)
                moments.add(after[source], before[source] @ weight)
            codebook, codes, *_ = fit(codebook, codes, weight[None], moments)
        found = {"codebook": codebook, "codes": codes[:, 0].astype(np.int32)}
        net.variables[role, KIND] = transform.laid(found)


def _in_layout(transform: ProductQuantizer, role: str, transposed: bool) -> LaidProduct:
    return LaidProduct(**{**transform.model_dump(), "axis": 0}, transposed=transposed)


REFERENCE = AlgorithmReference(begins=_begins, forwards={KIND: _forward}, vjps={KIND: _vjp}, in_layout={KIND: _in_layout})
