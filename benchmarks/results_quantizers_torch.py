"""The PyTorch rows of `results_quantizers.py`, in a process of their own; the seed is the argument."""

from __future__ import annotations

import sys
from dataclasses import replace

from nncf_ext_torch.demo import DigitsNet

from benchmarks.contest import report_result
from benchmarks.results_quantizers import EPOCHS, WIDTHS, rows
from benchmarks.results_torch import digits

if __name__ == "__main__":
    task = replace(digits(), network=lambda: DigitsNet(WIDTHS))
    report_result(lambda: task.results(rows("{re}stem|head"), int(sys.argv[1]), EPOCHS))
