"""The tutorials for Keras."""

import pytest

from tests.notebook_checks import check_it_is_committed_with_outputs, check_it_runs

PICTURES = {
    "keras_quickstart.ipynb": 4,  # the digits, the curves, the histograms, the sizes
    "filter_pruning_keras.ipynb": 3,  # the curves, the widths of the layers, the sizes and times
    "mixed_precision_keras.ipynb": 2,  # the bits of the layers, the comparison
    "soups_keras.ipynb": 1,  # the runs, the soups and the shares
}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", PICTURES)
def test_it_runs(notebook, tmp_path):
    check_it_runs(notebook, tmp_path)


@pytest.mark.parametrize("notebook", PICTURES)
def test_it_is_committed_with_outputs(notebook):
    check_it_is_committed_with_outputs(notebook, PICTURES[notebook])
