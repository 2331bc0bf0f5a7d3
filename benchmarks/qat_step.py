"""What quantization-aware training costs in PyTorch: `python -m benchmarks.qat_step`, from the repository's root.

Each contestant trains each model in a process of its own, its step and the float32 step taking turns; one thread, CPU time,
medians of paired ratios. The peers live in `.venv-peers`, which `make .venv-peers/installed` makes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.progress import track

from benchmarks.contest import Result, machine, run_worker, show, write_section

OURS = "nncf_ext"
PEERS = {"nncf": "NNCF 3.4", "modelopt": "ModelOpt", "torchao_pt2e": "torchao PT2E", "brevitas": "Brevitas"}
MODELS = {"resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2", "bert": "BERT, 4 layers"}
MOST_TIME, MOST_COMPILED, MOST_MEMORY, MOST_ATTACH = 1.15, 1.15, 1.3, 2.0

Results = dict[tuple[str, str], Result]  # by contestant and model


def measure(contestants: Sequence[str], models: Sequence[str], rounds: int, *options: str) -> Results:
    pairs = [(contestant, model) for model in models for contestant in contestants]
    what = " ".join(["training steps", *options])
    return {
        (contestant, model): run_worker(
            "" if contestant == "ours" else ".venv-peers",
            "benchmarks.train_step",
            *(contestant, model, "--rounds", str(rounds), *options),
        )
        for contestant, model in track(pairs, what, console=Console(stderr=True))
    }


def table(title: str, results: Results, cell: Callable[[Result], str], verdicts: Callable[[str], str] | None = None) -> str:
    """Contestants as rows, models as columns; failures as `fails` with the reason below."""
    contestants = list(dict.fromkeys(contestant for contestant, _ in results))
    models = list(dict.fromkeys(model for _, model in results))
    rows = [
        [PEERS.get(contestant, OURS)]
        + ["fails" if "error" in results[contestant, model] else cell(results[contestant, model]) for model in models]
        for contestant in contestants
    ]
    if verdicts is not None:
        rows.append([f"target of {OURS}", *(verdicts(model) for model in models)])
    return show(title, ["", *(MODELS[model] for model in models)], rows)


def reasons(results: Results) -> str:
    """One line for every way in which a contestant failed, with the models it failed on."""
    failed: dict[tuple[str, str], list[str]] = {}
    for (contestant, model), result in results.items():
        if "error" in result:
            failed.setdefault((PEERS.get(contestant, OURS), result["error"]), []).append(MODELS[model])
    lines = [f"{who} fails on {', '.join(models)}: {error}" for (who, error), models in failed.items()]
    Console(stderr=True).print("\n".join(lines), markup=False, highlight=False)
    return "".join(f"* {line}\n" for line in lines)


def ratio_cell(result: Result) -> str:
    ratio = result["ratio"]
    return f"{ratio['median']:.2f} ({ratio['lower']:.2f}-{ratio['upper']:.2f})"


def verdict(ours: Result, value: Callable[[Result], float], most: float, peers: Iterable[Result] = ()) -> str:
    """Whether our value is at most `most`, and at most that of every peer that has one."""
    target = f"<= {most}"
    if "error" in ours:
        return f"{target}: missed"
    met = value(ours) <= most
    rivals = [value(peer) for peer in peers if "error" not in peer]
    if not rivals:
        return f"{target}: {'met' if met else 'missed'}"
    first = value(ours) <= min(rivals)
    return f"{target}: {'met' if met else 'missed'}; first: {'yes' if first else 'no'}"


def step_tables(results: Results) -> str:
    def time_ratio(result: Result) -> float:
        return result["ratio"]["median"]

    def time_verdict(model: str) -> str:
        rivals = (result for (contestant, of), result in results.items() if of == model and contestant != "ours")
        return verdict(results["ours", model], time_ratio, MOST_TIME, rivals)

    return "\n".join(
        [
            table("Training step, times float32 (quartiles)", results, ratio_cell, time_verdict),
            table(
                "Memory saved for backward, times float32",
                results,
                lambda result: f"{result['saved']:.2f}",
                lambda model: verdict(results["ours", model], lambda result: result["saved"], MOST_MEMORY),
            ),
            table("Quantizers", results, lambda result: str(result["quantizers"])),
            table("The float32 step, ms", results, lambda result: f"{1000 * result['float_seconds']:.0f}"),
            reasons(results),
        ]
    )


def compiled_tables(results: Results) -> str:
    def compiled_verdict(model: str) -> str:
        return verdict(results["ours", model], lambda result: result["ratio"]["median"], MOST_COMPILED)

    title = "Training step under torch.compile(fullgraph=True), times compiled float32 (quartiles)"
    return table(title, results, ratio_cell, compiled_verdict) + "\n" + reasons(results)


def attach_table() -> str:
    result = run_worker("", "benchmarks.attach")
    title = "Seconds to attach to ResNet-50, without data"
    if "error" in result:
        return show(title, ["", ""], [["fails", result["error"]]])
    rows = [
        [name, f"{result[key]:.2f}", verdict(result, lambda seconds, key=key: seconds[key], MOST_ATTACH)]
        for key, name in (("first", "first call in a process (imports NNCF)"), ("next", "next call"))
    ]
    return show(title, ["", "s", "target"], rows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="two rounds, no torch.compile: shows that all runs, not how fast")
    arguments.add_argument("--only", choices=MODELS, help="one model")
    arguments.add_argument("--no-peers", action="store_true", help="nncf_ext against float32 only")
    options = arguments.parse_args()

    contestants = ["ours"] if options.no_peers else ["ours", *PEERS]
    models = [options.only] if options.only else list(MODELS)
    results = measure(contestants, models, 2 if options.quick else 30)
    text = [f"{machine()}; one thread.", step_tables(results)]
    if not options.quick:
        by_default = measure(contestants, models, 30, "--default-allocator")
        text.append(table("Training step with glibc's default allocator, times float32 (quartiles)", by_default, ratio_cell))
        text.append(compiled_tables(measure(contestants, models, 30, "--compile")))
    text.append(attach_table())
    if not (options.quick or options.only or options.no_peers):
        write_section("qat_step", "\n\n".join(part.strip() for part in text))
    if any("error" in results["ours", model] for model in models):
        sys.exit(1)


if __name__ == "__main__":
    main()
