"""How fast the exported int8 files run, on one thread: beside the float model's file, and beside what ONNX Runtime's own
`quantize_static` (QDQ, uint8 activations, int8 weights per channel) makes of that file. And in OpenVINO.

    python -m benchmarks.export_latency [--quick] [--only MODEL]
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import track

from benchmarks.contest import Result, machine, run_worker, show, write_section

MODELS = {
    "resnet18": "ResNet-18 (torch)",
    "mobilenet_v2": "MobileNetV2 (torch)",
    "bert": "BERT, 4 layers (torch)",
    "keras_mobilenet_v2": "MobileNetV2 (Keras)",
}
MOST_OVER_STATIC = 1.05
HEADER = ("", "int8 / float", "static / float", "int8 / static", "integer operators", "float ones left", "OpenVINO int8 / float")


def row(model: str, result: Result) -> list[str]:
    if "error" in result:
        return [MODELS[model], "fails", *[""] * (len(HEADER) - 2)]
    over = result["over_static"]["median"]
    shown = f"{over:.2f}"
    if model != "bert":  # there, static quantization takes the attention products in integers too, which costs accuracy
        shown += f" (<= {MOST_OVER_STATIC}: {'met' if over <= MOST_OVER_STATIC else 'missed'})"
    openvino = result.get("openvino")
    return [
        MODELS[model],
        f"{result['over_float']['median']:.2f}",
        f"{result['static_over_float']['median']:.2f}",
        shown,
        counts(result["integer"]["int8"]),
        counts(result["float"]["int8"]),
        "" if openvino is None else f"{openvino['median']:.2f} ({counts(result['openvino_operators'])})",
    ]


def counts(operators: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in operators.items()) or "none"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="three rounds: shows that all runs, not how fast")
    arguments.add_argument("--only", choices=MODELS, help="one model")
    options = arguments.parse_args()
    rounds = 3 if options.quick else 50
    models = [options.only] if options.only else list(MODELS)
    results = {
        model: run_worker("", "benchmarks.exported_model", model, "--rounds", str(rounds))
        for model in track(models, "exported models", console=Console(stderr=True))
    }
    title = "Latency of exported files, CPU time on one thread"
    table = show(title, HEADER, [row(model, result) for model, result in results.items()])
    failures = [f"{MODELS[model]} fails: {result['error']}" for model, result in results.items() if "error" in result]
    Console(stderr=True).print("\n".join(failures), markup=False, highlight=False)
    if not (options.quick or options.only):
        write_section("export_latency", "\n\n".join([f"{machine()}; batch 4, 96 px or 64 tokens.", table, *failures]))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
