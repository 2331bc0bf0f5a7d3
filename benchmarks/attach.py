"""Seconds until a ResNet-50 is ready for quantization-aware training, without data; in a process of its own, see `qat_step.py`.

`first` is the first call of a process, which imports NNCF to ask for the placement; `next` is one after it.
"""

from __future__ import annotations

import time
import warnings

import torch
from nncf_ext_torch import create_compressed_model

from benchmarks.contest import Result, report_result
from benchmarks.models_torch import resnet50
from nncf_ext import NNCFConfig

CONFIG = {
    "input_info": {"sample_size": [1, 3, 224, 224]},
    "compression": {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 0}}},
}


def attach_seconds() -> float:
    model, config = resnet50(), NNCFConfig.from_dict(CONFIG)
    start = time.perf_counter()
    create_compressed_model(model, config)
    return time.perf_counter() - start


def measure() -> Result:
    return {"first": attach_seconds(), "next": attach_seconds()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    report_result(measure)
