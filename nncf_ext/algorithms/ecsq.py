"""Entropy-constrained scalar quantization of weights (Choi et al. 2017, section 4; Chou, Lookabaugh, Gray 1989)."""

from __future__ import annotations

from collections.abc import Sequence

from nncf_ext.algorithms.code_book import CodedWeights
from nncf_ext.coding.code_books import Codebook, WeightedValues, iterative, iterative_at_rate, uniform_at_rate
from nncf_ext.config.code_books import ECSQConfig


class ECSQ(ECSQConfig, CodedWeights):
    @property
    def most(self) -> int:
        return self.params.levels - 1

    def description(self) -> str:
        target = self.params.target_bits
        aim = f"lagrangian {self.params.lagrangian}" if target is None else f"{target} bits per weight"
        return f"entropy-constrained quantization to {aim}"

    def coded(self, books: Sequence[WeightedValues]) -> list[Codebook]:
        params = self.params
        if params.target_bits is None:
            assert params.lagrangian is not None
            return [iterative(book, params.levels, params.lagrangian) for book in books]
        at_rate = uniform_at_rate if params.method == "uniform" else iterative_at_rate
        return at_rate(books, params.levels, params.target_bits)
