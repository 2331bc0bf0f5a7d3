"""The files in `configs/`, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from nncf_ext import NNCFConfig

# one of a kind; the others in `make test-all`
QUICK = [
    "demo",
    "clip_q",
    "corad",
    "filter_pruning_int8_distillation",
    "int4_groups",
    "l0_sparsity",
    "movement_sparsity",
    "rigl",
    "weight_clustering",
]
FILES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.json"))
FOR_IMAGES = [
    pytest.param(file, id=file.stem, marks=[] if file.stem in QUICK else [pytest.mark.slow])
    for file in FILES
    if not file.stem.endswith("_bert")
]


def shortened(config: NNCFConfig) -> NNCFConfig:
    """`config` with searches of a few rounds or none, whose weights are coded at once, and which writes nothing down."""
    config.pop("log_dir", None)
    entries = config["compression"]
    for entry in entries if isinstance(entries, list) else [entries]:
        initializer = entry.get("initializer", {})
        precision = initializer.get("precision", {})
        if precision.get("type") in ("hawq", "autoq"):
            precision.update(iter_number=3, dump_init_precision_data=False)
        initializer.pop("search", None)  # models for each layer take too long
        if entry["algorithm"] in ("weight_clustering", "ecsq"):
            entry["params"]["start_epoch"] = 0  # values of code books move once there are any
        if entry["algorithm"] == "ecsq":
            entry["params"]["target_bits"] = 3  # in a net that is neither trained nor pruned, fewer leave layers without any
        if entry["algorithm"] == "product_quantization":
            entry["params"]["error_correction"] = False
    return config
