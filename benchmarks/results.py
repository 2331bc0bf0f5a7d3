"""What compression costs in accuracy, on data that is at hand without a network: `make results` writes docs/results.md.

Trains small networks on scikit-learn's handwritten digits, in PyTorch and in Keras, and a small BERT on Python's help texts,
with several seeds. Every seed's float model is compressed by each row's config, and its file is scored in ONNX Runtime.

    python -m benchmarks.results [--quick]
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_students
from benchmarks.contest import Result
from benchmarks.seeded import Suite, run_suites

FLOAT_EPOCHS, EPOCHS = 6, 6
FLOAT_RATE, RATE = 0.05, 0.01  # learning rates of SGD on the digits, for float and for compressed training

INT8 = {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 256, "type": "mixed_min_max"}}}
MAGNITUDE = {
    "algorithm": "magnitude_sparsity",
    "sparsity_init": 0.2,
    "params": {
        "schedule": "polynomial",
        "power": 3,
        "sparsity_target": 0.7,
        "sparsity_target_epoch": 4,
        "sparsity_freeze_epoch": 5,
        "weight_importance": "normed_abs",
        "sparsity_level_setting_mode": "global",
    },
}
# The scores' way is long and their gradients are small: a factor for them, where an optimizer has one learning rate for all.
RB = {
    "algorithm": "rb_sparsity",
    "sparsity_init": 0.05,
    "compression_lr_multiplier": 4e5,
    "params": {"sparsity_target": 0.61, "sparsity_target_epoch": 2, "sparsity_freeze_epoch": 3},
}
FILTERS = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.1,
    "params": {
        "pruning_target": 0.4,
        "pruning_steps": 4,
        "filter_importance": "geometric_median",
        "prune_first_conv": True,
        "prune_downsample_convs": True,
    },
}
HAWQ = {
    "algorithm": "quantization",
    "initializer": {
        "precision": {"type": "hawq", "bits": [4, 8], "num_data_points": 100, "iter_number": 50, "compression_ratio": 1.5},
        "range": {"num_init_samples": 256, "type": "mean_min_max"},
    },
}
DISTILLATION = {"algorithm": "knowledge_distillation", "type": "softmax", "temperature": 2.0}
MOVEMENT = {
    "algorithm": "movement_sparsity",
    "params": {
        "warmup_start_epoch": 1,
        "warmup_end_epoch": 4,
        "importance_regularization_factor": 0.01,
        "enable_structured_masking": True,
    },
    "sparse_structure_by_scopes": [
        {"mode": "block", "sparse_factors": [32, 32], "target_scopes": "{re}BertAttention"},
        {"mode": "per_dim", "axis": 0, "target_scopes": "{re}BertIntermediate"},
        {"mode": "per_dim", "axis": 1, "target_scopes": "{re}BertOutput"},
    ],
    "ignored_scopes": ["{re}BertEmbeddings", "{re}pooler", "{re}classifier"],
}


@dataclass(frozen=True)
class Row:
    """A way to compress. published: the drop in points that NNCF's model zoo has for it, on the network in `of`. device: the
    target device, where it is not ANY."""

    compression: tuple[Mapping[str, Any], ...]
    published: float | None = None
    of: str = ""
    device: str = "ANY"

    def config(self, input_info: Any) -> dict[str, Any]:
        return {"input_info": input_info, "target_device": self.device, "compression": list(self.compression)}


IMAGE_ROWS = {
    "float, trained as long": Row(()),
    "int8": Row((INT8,), -0.31, "ResNet-50"),
    "magnitude 70 %": Row((MAGNITUDE,), 0.58, "SSD512-VGG, with int8, mAP"),
    "filters 40 %": Row((FILTERS,), 0.45, "ResNet-18"),
    "filters 40 % + distillation": Row((FILTERS, DISTILLATION), 0.19, "ResNet-34, 50 %"),
    "RB 61 % + int8": Row((RB, INT8), 0.73, "ResNet-50"),
    "8 and 4 bits (HAWQ)": Row((HAWQ,), 0.1, "the nearest row there", "NPU"),
}
TEXT_ROWS = {
    "float, trained as long": Row(()),
    "int8": Row((INT8,), -0.24, "BERT-base, MRPC"),
    "movement": Row((MOVEMENT,)),
    "movement + int8 + distillation": Row((MOVEMENT, INT8, DISTILLATION)),
}
HEADER = ("", "float", "model", "file", "drop: mean", "worst", "published by NNCF", "target", "kB", "kB zipped", "what is left")


def measured(ctrl: Any, accuracy: Callable[[Any], float], file: Path, inputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Of a compressed model, trained: its accuracy (of the stripped one where that is smaller) and its file's, sizes in bytes."""
    from nncf_ext.export.parity import run, session

    reports = ctrl.statistics().reports
    smaller = "filter_pruning" in reports or ("movement_sparsity" in reports and "quantization" not in reports)
    model = accuracy(ctrl.strip() if smaller else ctrl.model)
    ctrl.export_model(file)
    (logits,) = run(session(file), [inputs])
    content = file.read_bytes()
    return {
        "model": model,
        "file": float((logits.argmax(1) == labels).mean()),
        "bytes": len(content),
        "zipped": len(zlib.compress(content)),
        "left": left(reports),
    }


def left(reports: Mapping[str, Any]) -> dict[str, float]:
    """In percent, from the statistics: weights that are not zero, FLOPs, weights of 8 bits."""
    found: dict[str, float] = {}
    for name, report in reports.items():
        if name.endswith("_sparsity"):
            found["% of weights"] = 100 * (1 - report.sparsity_level_for_layers)
            structured = getattr(report, "structured", ())
            if structured:
                kept, units = sum(group.kept for group in structured), sum(group.units for group in structured)
                found["% of heads and channels"] = 100 * kept / units
        elif name == "filter_pruning":
            found["% of FLOPs"] = 100 * report.current_flops / report.full_flops
            found["% of parameters"] = 100 * report.current_params_num / report.full_params_num
        elif name == "quantization":
            for (kind, bits, *_), number in report.quantizers.items():
                if kind == "weights":
                    found[f"weights of {bits} bits"] = found.get(f"weights of {bits} bits", 0) + number
    return found


def cells(name: str, row: Row, seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line of the table. seeds: for each, {"float": accuracy, "rows": {name: `measured`}}."""
    floats = [seed["float"] for seed in seeds]
    results = [seed["rows"][name] for seed in seeds]
    drops = [100 * (start - result["file"]) for start, result in zip(floats, results, strict=True)]
    mean, worst = sum(drops) / len(drops), max(drops)
    target = (
        "" if row.published is None else f"<= {max(row.published, 0):.2f}: {'met' if mean <= max(row.published, 0) else 'missed'}"
    )

    def average(key: str) -> float:
        return sum(result[key] for result in results) / len(results)

    return [
        name,
        f"{100 * sum(floats) / len(floats):.2f}",
        f"{100 * average('model'):.2f}",
        f"{100 * average('file'):.2f}",
        f"{mean:+.2f}",
        f"{worst:+.2f}",
        "" if row.published is None else f"{row.published:+.2f} ({row.of})",
        target,
        f"{average('bytes') / 1e3:.0f}",
        f"{average('zipped') / 1e3:.0f}",
        ", ".join(f"{sum(r['left'][what] for r in results) / len(results):.0f} {what}" for what in results[0]["left"]),
    ]


def lines(rows: Mapping[str, Row], seeds: Sequence[Result]) -> list[list[str]]:
    return [cells(name, row, seeds) for name, row in rows.items()]


SUITES = {
    "results_torch": Suite("Digits in PyTorch", HEADER, partial(lines, IMAGE_ROWS)),
    "results_keras": Suite("Digits in Keras", HEADER, partial(lines, IMAGE_ROWS)),
    "results_text": Suite("Help texts in PyTorch: a BERT of 2 layers", HEADER, partial(lines, TEXT_ROWS)),
    "results_students_torch": Suite("Students in PyTorch", results_students.HEADER, results_students.lines),
    "results_students_keras": Suite("Students in Keras", results_students.HEADER, results_students.lines),
}


if __name__ == "__main__":
    run_suites(__doc__, SUITES)
