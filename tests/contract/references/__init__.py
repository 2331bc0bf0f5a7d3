"""What each algorithm does to the reference net, in numpy: one module per algorithm, named as it is, and one for three alike."""

from __future__ import annotations

from tests.contract.references import (
    clip_q,
    code_books,
    const_sparsity,
    corad,
    dynamic_sparse_training,
    filter_pruning,
    iterative_magnitude,
    knowledge_distillation,
    learned_sparsity,
    magnitude_sparsity,
    movement_sparsity,
    product_quantization,
    quantization,
    rb_sparsity,
    wanda_sparsity,
)
from tests.contract.references.reference import AlgorithmReference

REFERENCES: dict[str, AlgorithmReference] = {
    "quantization": quantization.REFERENCE,
    "magnitude_sparsity": magnitude_sparsity.REFERENCE,
    "rb_sparsity": rb_sparsity.REFERENCE,
    "wanda_sparsity": wanda_sparsity.REFERENCE,
    "const_sparsity": const_sparsity.REFERENCE,
    "filter_pruning": filter_pruning.REFERENCE,
    "dynamic_sparse_training": dynamic_sparse_training.REFERENCE,
    "movement_sparsity": movement_sparsity.REFERENCE,
    "knowledge_distillation": knowledge_distillation.REFERENCE,
    "corad": corad.REFERENCE,
    "product_quantization": product_quantization.REFERENCE,
    "iterative_magnitude": iterative_magnitude.REFERENCE,
    "clip_q": clip_q.REFERENCE,
    "soft_threshold": learned_sparsity.SOFT_THRESHOLD,
    "l0_sparsity": learned_sparsity.L0,
    "variational_dropout": learned_sparsity.VARIATIONAL_DROPOUT,
    "weight_clustering": code_books.CLUSTERING,
    "ecsq": code_books.ECSQ,
}
