"""What the contract's numpy reference still takes from the product that it judges."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from nncf_ext.algorithms import ALGORITHMS
from tests.contract.reference_net import FORWARDS, VJPS

ROOT = Path(__file__).parents[2]
ORACLE = [ROOT / "tests" / "contract" / "reference_net.py", *sorted((ROOT / "tests" / "contract" / "references").glob("*.py"))]

# Transforms that the reference net does not compute by hand, and where they are.
ELSEWHERE = {
    "group_quantizer": "tests/core/test_quantizers.py",
    "fixed_quantizer": "tests/core/test_fixed_quantizer.py",
    "binary_weight": "tests/binarization_reference.py",
    "binary_activation": "tests/binarization_reference.py",
}

# Functions and classes of the product's that have a part in the reference's numbers; `None` where it is a type or plain data.
TAKEN = {
    "nncf_ext.noise": "the table of noise, and which of its rows a step draws: tests/core/test_noise.py",
    "nncf_ext.numpy_xp": "to look into that table",
    "nncf_ext.calibration.ranges.RangeCollector": "ranges of quantizers that begin late: tests/core/test_ranges.py",
    "nncf_ext.sparsity.connections.erdos_renyi_densities": "densities by layer: tests/core/test_dynamic_sparse_training.py",
    "nncf_ext.sparsity.connections.random_scores": "the order in which SET draws connections",
    "nncf_ext.sparsity.connections.Structure": "for random_scores",
    "nncf_ext.coding.product_codes.product_code": "k-means of sub-vectors: tests/core/test_product_quantization.py",
    "nncf_ext.coding.response_fit.Moments": "for fit",
    "nncf_ext.coding.response_fit.fit": "the correction of their error: tests/core/test_product_quantization.py",
    "nncf_ext.edits.Edit": None,
    "nncf_ext.edits.ObserverSpec": None,
    "nncf_ext.quantization.quantizers.NNCFQuantizer": None,
    "nncf_ext.quantization.quantizers.QuantizerTransform": None,
    "nncf_ext.algorithms.corad.Gates": None,
    "nncf_ext.algorithms.l0_sparsity.HardConcreteGate": None,
    "nncf_ext.algorithms.movement_sparsity.MovementMask": None,
    "nncf_ext.algorithms.product_quantization.ProductQuantizer": None,
    "nncf_ext.algorithms.rb_sparsity.RandomMask": None,
    "nncf_ext.algorithms.variational_dropout.WeightNoise": None,
}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("nncf_ext"):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_every_transform_has_a_forward_by_hand():
    kinds = {kind.model_fields["kind"].default for algorithm in ALGORITHMS.values() for kind in algorithm.transforms}
    assert kinds - set(FORWARDS) == set(ELSEWHERE)
    assert set(VJPS) == set(FORWARDS)
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())


def test_what_the_reference_takes_from_the_product():
    assert set().union(*map(imported, ORACLE)) == set(TAKEN)


@pytest.mark.parametrize("path", ORACLE, ids=lambda path: path.stem)
def test_the_reference_never_runs_a_transform_of_the_product(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in ("apply", "encoded")]
