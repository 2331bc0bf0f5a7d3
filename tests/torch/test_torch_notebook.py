"""The tutorials for PyTorch."""

import pytest

from tests.notebook_checks import check_it_is_committed_with_outputs, check_it_runs

PICTURES = {
    "pytorch_quickstart.ipynb": 4,  # the digits, the curves, the histograms, the sizes
    "filter_pruning_pytorch.ipynb": 3,  # the curves, the widths of the layers, the sizes and times
    "mixed_precision_pytorch.ipynb": 2,  # the bits of the layers, the comparison
    "sparse_training_pytorch.ipynb": 2,  # the curves, the connections of the pixels
    "packed_lenet_pytorch.ipynb": 2,  # the sizes stage by stage, the values of the layers
    "soups_pytorch.ipynb": 1,  # the runs, the soups and the shares
}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", PICTURES)
def test_it_runs(notebook, tmp_path):
    check_it_runs(notebook, tmp_path)


@pytest.mark.parametrize("notebook", PICTURES)
def test_it_is_committed_with_outputs(notebook):
    check_it_is_committed_with_outputs(notebook, PICTURES[notebook])
