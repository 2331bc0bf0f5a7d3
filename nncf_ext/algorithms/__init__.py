"""The algorithms by their names in a config. An algorithm is its config: its class is the schema of its entry."""

from typing import Any

from nncf_ext.algorithm import Algorithm
from nncf_ext.algorithms.binarization import Binarization
from nncf_ext.algorithms.clip_q import ClipQCompression
from nncf_ext.algorithms.const_sparsity import ConstSparsity
from nncf_ext.algorithms.corad import Corad
from nncf_ext.algorithms.dynamic_sparse_training import DynamicSparseTraining
from nncf_ext.algorithms.ecsq import ECSQ
from nncf_ext.algorithms.filter_pruning import FilterPruning
from nncf_ext.algorithms.iterative_magnitude import IterativeMagnitude
from nncf_ext.algorithms.knowledge_distillation import KnowledgeDistillation
from nncf_ext.algorithms.l0_sparsity import L0Sparsity
from nncf_ext.algorithms.magnitude_sparsity import MagnitudeSparsity
from nncf_ext.algorithms.movement_sparsity import MovementSparsity
from nncf_ext.algorithms.product_quantization import ProductQuantization
from nncf_ext.algorithms.quantization import Quantization
from nncf_ext.algorithms.rb_sparsity import RBSparsity
from nncf_ext.algorithms.soft_threshold import SoftThresholdSparsity
from nncf_ext.algorithms.variational_dropout import VariationalDropout
from nncf_ext.algorithms.wanda_sparsity import WandaSparsity
from nncf_ext.algorithms.weight_clustering import WeightClustering

ALGORITHMS: dict[str, type[Any]] = {
    "quantization": Quantization,
    "magnitude_sparsity": MagnitudeSparsity,
    "filter_pruning": FilterPruning,
    "movement_sparsity": MovementSparsity,
    "rb_sparsity": RBSparsity,
    "const_sparsity": ConstSparsity,
    "wanda_sparsity": WandaSparsity,
    "binarization": Binarization,
    "dynamic_sparse_training": DynamicSparseTraining,
    "iterative_magnitude": IterativeMagnitude,
    "product_quantization": ProductQuantization,
    "soft_threshold": SoftThresholdSparsity,
    "l0_sparsity": L0Sparsity,
    "variational_dropout": VariationalDropout,
    "weight_clustering": WeightClustering,
    "ecsq": ECSQ,
    "clip_q": ClipQCompression,
    "knowledge_distillation": KnowledgeDistillation,
    "corad": Corad,
}

# Algorithms of NNCF 2.x that a config may name and nncf_ext cannot run yet.
KNOWN_NOT_BUILT = frozenset(
    {
        "bootstrapNAS",
    }
)

__all__ = ["ALGORITHMS", "KNOWN_NOT_BUILT", "Algorithm"]
