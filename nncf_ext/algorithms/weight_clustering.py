"""Weights that share few values: trained quantization of Deep Compression (Han et al. 2016, section 3), weighted by the Hessian
where that is asked for (Choi et al. 2017, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nncf_ext.algorithms.code_book import CodedWeights
from nncf_ext.coding.code_books import Codebook, WeightedValues, density_start, kmeans, linear_start, nearest, plus_plus_start
from nncf_ext.config.code_books import WeightClusteringConfig


class WeightClustering(WeightClusteringConfig, CodedWeights):
    @property
    def most(self) -> int:
        return self.params.clusters

    def description(self) -> str:
        return f"one of {self.params.clusters} values, or zero"

    def coded(self, books: Sequence[WeightedValues]) -> list[Codebook]:
        found = []
        for values, weights, _ in books:
            centroids = kmeans(values, weights, self._start(values, weights))
            found.append(Codebook(centroids, 1 + nearest(values, centroids).astype(np.int32)))
        return found

    def _start(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if self.params.initial == "kmeans++":
            return plus_plus_start(values, weights, self.params.clusters)
        return (linear_start if self.params.initial == "linear" else density_start)(values, self.params.clusters)
