"""What quantization-aware training costs in Keras: `python -m benchmarks.qat_step_keras`, from the repository's root.

`fit` of keras.applications' MobileNetV2 (96 px, batch 8, not jit-compiled) against `fit` of the same model in float32, epochs of
a few steps taking turns; one thread, CPU time, medians of paired ratios. tfmot does the same on tf_keras, with its own float32
baseline, in `.venv-tfmot`, which `make .venv-tfmot/installed` makes.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import track

from benchmarks.contest import Result, machine, run_worker, show, write_section

MOST = 1.25
PEERS = {"ours_keras": "nncf_ext on Keras 3", "tfmot": "tfmot 0.8.1 on tf_keras"}


def measure(contestants: list[str], *options: str) -> dict[str, Result]:
    return {
        contestant: run_worker(
            ".venv-tfmot" if contestant == "tfmot" else "",
            "benchmarks.fit_step",
            *(contestant, *options),
            TF_USE_LEGACY_KERAS="1" if contestant == "tfmot" else "0",
        )
        for contestant in track(contestants, "fit", console=Console(stderr=True))
    }


def row(contestant: str, results: dict[str, Result]) -> list[str]:
    result = results[contestant]
    if "error" in result:
        return [PEERS[contestant], "fails", "", "", result["error"]]
    ratio = result["ratio"]
    numbers = [
        f"{ratio['median']:.2f} ({ratio['lower']:.2f}-{ratio['upper']:.2f})",
        str(result["quantizers"]),
        f"{1000 * result['float_seconds']:.0f}",
    ]
    if contestant != "ours_keras":
        return [PEERS[contestant], *numbers, ""]
    target = f"<= {MOST}: {'met' if ratio['median'] <= MOST else 'missed'}"
    rival = results.get("tfmot", {})
    if "ratio" in rival:
        target += f"; no slower than tfmot: {'yes' if ratio['median'] <= rival['ratio']['median'] else 'no'}"
    return [PEERS[contestant], *numbers, target]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="two short rounds: shows that all runs, not how fast")
    arguments.add_argument("--no-peers", action="store_true", help="nncf_ext against float32 only")
    options = arguments.parse_args()

    rounds, steps = (2, 2) if options.quick else (15, 8)
    results = measure(["ours_keras"] if options.no_peers else list(PEERS), "--rounds", str(rounds), "--steps", str(steps))
    header = ["", "times float32 (quartiles)", "quantizers", "float32 step, ms", "target"]
    text = show("fit of MobileNetV2", header, [row(contestant, results) for contestant in results])
    if not (options.quick or options.no_peers):
        write_section("qat_step_keras", f"{machine()}; one thread.\n\n{text}")
    if "error" in results["ours_keras"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
