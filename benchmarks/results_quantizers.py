"""What the choice of a quantizer is worth with few bits: `python -m benchmarks.results_quantizers` (`make results`).

A small residual network on the digits, trained in float and then with each row's quantizers, from the same start; ranges from
the largest values (`nncf`) beside learned steps, at equal bits of weights and activations. The input, the first and the last
layer's weights keep 8 bits, as in the literature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.contest import Result
from benchmarks.results import Row
from benchmarks.seeded import Suite, run_suites

WIDTHS = (8, 16, 24, 32)  # channels: a network with nothing to spare
EPOCHS = 8
HEADER = ("weights", "activations", "float", "quantized", "file", "drop: mean", "worst", "above nncf at equal bits", "kB")


def quantized(
    weights: dict[str, Any], activations: dict[str, Any], first_and_last: str, others: dict[str, Any] | None = None
) -> Row:
    """first_and_last: a scope. others: of weights, by scope."""
    eight = {"quantizer": "nncf", "bits": 8}
    return Row(
        (
            {
                "algorithm": "quantization",
                "weights": weights,
                "activations": activations,
                "scope_overrides": {
                    "weights": {**(others or {}), first_and_last: eight},
                    "activations": {"{re}input": {**eight, "bits": 8}},
                },
                "initializer": {"range": {"num_init_samples": 256, "type": "mixed_min_max"}},
            },
        )
    )


def _of(quantizer: str, bits: int) -> dict[str, Any]:
    return {"quantizer": quantizer, "bits": bits}


_TERNARY = {"quantizer": "stretched_elastic", "levels": 3}
# (weights, activations, bits of the nncf row that it is compared with)
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], int | None]] = {
    "nncf 4 bits | nncf 4 bits": (_of("nncf", 4), _of("nncf", 4), None),
    "lsq 4 bits | lsq 4 bits": (_of("lsq", 4), _of("lsq", 4), 4),
    "nncf 2 bits | nncf 2 bits": (_of("nncf", 2), _of("nncf", 2), None),
    "lsq 2 bits | lsq 2 bits": (_of("lsq", 2), _of("lsq", 2), 2),
    "lsq_plus 2 bits | lsq_plus 2 bits": (_of("lsq_plus", 2), _of("lsq_plus", 2), 2),
    "dorefa 2 bits | pact 2 bits": (_of("dorefa", 2), _of("pact", 2), 2),
    "stretched_elastic 2 bits | lsq 2 bits": (_of("stretched_elastic", 2), _of("lsq", 2), 2),
    "stretched_elastic 3 levels | lsq 2 bits": (_TERNARY, _of("lsq", 2), 2),
    "fp8_e4m3 | fp8_e4m3": ({"quantizer": "fp8_e4m3"}, {"quantizer": "fp8_e4m3"}, None),
}


def rows(first_and_last: str) -> dict[str, Row]:
    return {name: quantized(weights, activations, first_and_last) for name, (weights, activations, _) in ROWS.items()}


def lines(seeds: Sequence[Result]) -> list[list[str]]:
    def mean(name: str, key: str) -> float:
        return sum(seed["rows"][name][key] for seed in seeds) / len(seeds)

    table = []
    start = 100 * sum(seed["float"] for seed in seeds) / len(seeds)
    for name, (_, _, bits) in ROWS.items():
        drops = [100 * (seed["float"] - seed["rows"][name]["file"]) for seed in seeds]
        gain = ""
        if bits is not None:
            points = 100 * (mean(name, "file") - mean(f"nncf {bits} bits | nncf {bits} bits", "file"))
            gain = f"{points:+.2f}"
            if name.startswith("lsq "):
                gain += ", met" if points > 0 else ", missed"
        accuracies = [f"{start:.2f}", *(f"{100 * mean(name, key):.2f}" for key in ("model", "file"))]
        cells = [f"{sum(drops) / len(drops):+.2f}", f"{max(drops):+.2f}", gain, f"{mean(name, 'bytes') / 1e3:.0f}"]
        table.append([*name.split(" | "), *accuracies, *cells])
    return table


SUITES = {
    "results_quantizers_torch": Suite("PyTorch", HEADER, lines),
    "results_quantizers_keras": Suite("Keras", HEADER, lines),
}


if __name__ == "__main__":
    run_suites(__doc__, SUITES)
