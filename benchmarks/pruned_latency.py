"""How fast a model runs that is pruned to half its filters and then in int8, beside the int8 file of the whole model: ONNX
Runtime on one thread.

    python -m benchmarks.pruned_latency [--quick] [--only MODEL]
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
    "keras_mobilenet_v2": "MobileNetV2 (Keras)",
}
MOST_OVER_INT8 = {"resnet18": 0.5}
HEADER = ("", "pruned int8 / int8", "int8 / float", "pruned int8 / float", "FLOPs left", "file, MB", "output channels")


def row(model: str, result: Result) -> list[str]:
    if "error" in result:
        return [MODELS[model], "fails", *[""] * (len(HEADER) - 2)]
    ratio, most = result["over_int8"], MOST_OVER_INT8.get(model)
    shown = f"{ratio['median']:.2f} ({ratio['lower']:.2f}-{ratio['upper']:.2f})"
    if most is not None:
        shown += f", <= {most}: {'met' if ratio['median'] <= most else 'missed'}"
    sizes, channels, flops = (result[key] for key in ("bytes", "channels", "flops"))
    return [
        MODELS[model],
        shown,
        f"{result['int8_over_float']['median']:.2f}",
        f"{result['over_float']['median']:.2f}",
        f"{flops['pruned'] / 1e6:.0f} of {flops['int8'] / 1e6:.0f} million ({flops['pruned'] / flops['int8']:.0%})",
        f"{sizes['pruned'] / 1e6:.1f}; int8 {sizes['int8'] / 1e6:.1f}; float {sizes['float'] / 1e6:.1f}",
        f"{channels['pruned']:,} of {channels['int8']:,}",
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="three rounds: shows that all runs, not how fast")
    arguments.add_argument("--only", choices=MODELS, help="one model")
    options = arguments.parse_args()
    rounds = 3 if options.quick else 50
    models = [options.only] if options.only else list(MODELS)
    results = {
        model: run_worker("", "benchmarks.pruned_model", model, "--rounds", str(rounds))
        for model in track(models, "pruned models", console=Console(stderr=True))
    }
    table = show(
        "Half of the filters gone, CPU time on one thread", HEADER, [row(model, result) for model, result in results.items()]
    )
    failures = [f"{MODELS[model]} fails: {result['error']}" for model, result in results.items() if "error" in result]
    Console(stderr=True).print("\n".join(failures), markup=False, highlight=False)
    if not (options.quick or options.only):
        write_section("pruned_latency", "\n\n".join([f"{machine()}; batch 4, 96 px.", table, *failures]))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
