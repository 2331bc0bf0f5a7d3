"""The tutorial for PyTorch."""

from tests.notebook_checks import check_it_is_committed_with_outputs, check_it_runs

NOTEBOOK = "pytorch_quickstart.ipynb"


def test_it_runs(tmp_path):
    check_it_runs(NOTEBOOK, tmp_path)


def test_it_is_committed_with_outputs():
    check_it_is_committed_with_outputs(NOTEBOOK, pictures=4)  # the digits, the curves, the histograms, the sizes
