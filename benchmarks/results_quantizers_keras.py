"""The Keras rows of `results_quantizers.py`, in a process of their own; the seed is the argument."""

from __future__ import annotations

import sys

import keras
from nncf_ext_tensorflow.demo import digits_net

from benchmarks.contest import report_result
from benchmarks.results_keras import results
from benchmarks.results_quantizers import EPOCHS, WIDTHS, rows


def network() -> keras.Model:
    keras.utils.clear_session()  # the layers' names start from the beginning
    return digits_net(WIDTHS)


if __name__ == "__main__":
    report_result(lambda: results(int(sys.argv[1]), rows("{re}^conv2d/|^conv2d$|dense"), network, EPOCHS))
