"""How small networks get whose weights are coded to the bit: `python -m benchmarks.results_packed`, a part of `make results`.

Three tables for each framework: chains of algorithms, after Han et al. 2016 (Deep Compression) and Choi et al. 2017; accuracy
against compression ratio, method by method, and its picture; and code books at equal rates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.contest import Result
from benchmarks.seeded import DOCUMENT, Suite, run_suites

Compression = list[dict[str, Any]]
FLOAT = "float.safetensors"


@dataclass(frozen=True)
class Network:
    """side: of the images. Both trainings are Adam's, at a learning rate that falls along a cosine. target: how many times
    smaller its packed file has to be at no loss."""

    side: int
    epochs: int
    rate: float
    batch: int
    target: float
    long: int
    """Epochs of every chain."""
    chains: Mapping[str, Compression]


# Integers of the weights alone.
WEIGHTS_ONLY: dict[str, Any] = {"algorithm": "quantization", "activations": {"ignored_scopes": ["{re}.*"]}}
INT8: Compression = [{"algorithm": "quantization"}]


def pruned(level: float, rounds: int, epochs: int) -> dict[str, Any]:
    """`rounds` of `epochs` epochs each."""
    params: dict[str, Any] = {"sparsity_target": level, "rounds": rounds, "epochs_per_round": epochs}
    return {"algorithm": "iterative_magnitude", "params": {**params, "distribution": "erk", "regularization": "l2"}}


def integers(bits: int) -> dict[str, Any]:
    return {**WEIGHTS_ONLY, "weights": {"quantizer": "lsq", "bits": bits, "per_channel": False}}


def clustered(clusters: int, start: int = 0, **params: str) -> dict[str, Any]:
    return {"algorithm": "weight_clustering", "params": {"clusters": clusters, "start_epoch": start, **params}}


def ecsq(bits: float, start: int = 0, **params: str) -> dict[str, Any]:
    return {"algorithm": "ecsq", "params": {"target_bits": bits, "start_epoch": start, **params}}


def clip_q(pruning: float, bits: int) -> dict[str, Any]:
    return {"algorithm": "clip_q", "params": {"pruning": pruning, "bits": bits}}


def words_of_4(codewords: int) -> dict[str, Any]:
    """Of a network of linear layers."""
    return {"algorithm": "product_quantization", "params": {"linear": {"subvector": 4, "codewords": codewords}}}


def network(
    side: int, epochs: int, rate: float, batch: int, target: float, level: float, rounds: int, long: int, after: int, bits: float
) -> Network:
    """level, rounds, long: of pruning, in rounds of `long` epochs. after: epochs with code books. bits: for ECSQ."""
    start = rounds * long
    chains = {
        "float, trained as long": [],
        "pruned, LSQ 4 bits": [pruned(level, rounds, long), integers(4)],
        "pruned, 15 clusters": [pruned(level, rounds, long), clustered(15, start)],
        f"pruned, ECSQ {bits:g} bits": [pruned(level, rounds, long), ecsq(bits, start, method="uniform")],
    }
    return Network(side, epochs, rate, batch, target, start + after, chains)


NETWORKS = {
    "LeNet-300-100": network(28, 30, 2e-3, 64, 51, level=0.93, rounds=5, long=6, after=6, bits=0.6),
    "LeNet-5": network(28, 15, 2e-3, 64, 51, level=0.93, rounds=4, long=4, after=6, bits=0.6),
    "residual network": network(8, 8, 2e-3, 64, 22, level=0.9, rounds=3, long=2, after=3, bits=0.9),
    "SqueezeNet": network(48, 20, 5e-4, 32, 10, level=0.4, rounds=2, long=4, after=2, bits=3),
}
HEADER = (
    "network",
    "chain",
    "float",
    "after training",
    "unpacked file",
    "drop: mean",
    "worst",
    "kB float",
    "kB int8 file",
    "kB packed",
    "times smaller",
    "target at no loss",
)

# What the picture shows: for each method, what its points ask for.
CURVED = "LeNet-300-100"
CURVE_EPOCHS, CURVE_RATE = 12, 1e-3
CLUSTERS, RATES = (2, 4, 8, 16, 64), (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
METHODS: Mapping[str, Mapping[str, Compression]] = {
    "magnitude pruning": {f"{level:.0%}": [pruned(level, 4, 2)] for level in (0.8, 0.9, 0.95, 0.98, 0.99)},
    "integers (LSQ)": {f"{bits} bits": [integers(bits)] for bits in (2, 3, 4, 6, 8)},
    "clustering": {f"{k} values": [clustered(k)] for k in CLUSTERS},
    "clustering, Hessian": {f"{k} values": [clustered(k, weighting="squared_gradients")] for k in CLUSTERS},
    "ECSQ, uniform cells": {f"{bits} bits": [ecsq(bits, method="uniform")] for bits in RATES},
    "CLIP-Q": {f"{p:.0%}, {b} bits": [clip_q(p, b)] for p, b in ((0.5, 4), (0.8, 4), (0.9, 3), (0.95, 3), (0.98, 2))},
    "product quantization": {f"{words} words of 4": [words_of_4(words)] for words in (16, 64, 256)},
    "pruning, then clustering": {f"{level:.0%}": [pruned(level, 4, 2), clustered(15, 8)] for level in (0.8, 0.9, 0.95, 0.98)},
}
CURVE_HEADER = ("method", "", "accuracy", "drop: mean", "worst", "bits per weight", "kB packed", "times smaller")


@dataclass(frozen=True)
class Coding:
    """A way to code the weights of a trained network.

    by_rate: its config for as many bits per weight as the row `like` takes. Where there is a first `guess`, it is a config for
    another number, which is sought from there on; more bits need more of it.
    """

    compression: Compression = field(default_factory=list)
    by_rate: Callable[[float], Compression] | None = None
    guess: float | None = None
    like: str = ""


def _ecsq_at(method: str, weighting: dict[str, str], bits: float) -> Compression:
    return [ecsq(bits, method=method, code_books="layer", **weighting)]


def _clip_q_at(kept: float) -> Compression:
    return [clip_q(1 - kept, 3)]


EQUAL_EPOCHS, EQUAL_RATE = 6, 5e-4
HESSIAN = {"weighting": "squared_gradients"}
LIKE = ("k-means, 2 values by layer", "k-means, 4 values by layer")
CODINGS: Mapping[str, Coding] = (
    {
        f"k-means, {k} values by {books}{name}": Coding([clustered(k, code_books=books, **weighting)])
        for k in (2, 4)
        for books in ("layer", "network")
        for name, weighting in (("", {}), (", Hessian", HESSIAN))
    }
    | {
        f"ECSQ{name}, as {like}": Coding(by_rate=partial(_ecsq_at, method, weighting), like=like)
        for like in LIKE
        for name, method, weighting in (
            ("", "iterative", {}),
            (", uniform cells", "uniform", {}),
            (", uniform, Hessian", "uniform", HESSIAN),
        )
    }
    | {f"CLIP-Q, as {like}": Coding(by_rate=_clip_q_at, guess=0.2, like=like) for like in LIKE}
)
EQUAL_HEADER = ("coding", "bits per weight", "float", "as coded", "trained on", "drop: mean", "worst")


class Trained(Protocol):
    """A network, trained in float, to be compressed in different ways; its weights are in the file FLOAT in `folder`."""

    folder: Path

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of the ONNX files, and labels."""
        ...

    def compressed(self, compression: Compression) -> Any:
        """The controller of a compressed copy."""
        ...

    def fit(self, ctrl: Any, epochs: int, rate: float) -> None: ...

    def accuracy(self, ctrl: Any = None) -> float:
        """On the test data; without a controller the float model's."""
        ...


def start(trained: Trained) -> dict[str, float]:
    return {"float": trained.accuracy(), "bytes": (trained.folder / FLOAT).stat().st_size}


def trained_on(trained: Trained, ctrl: Any, epochs: int, rate: float) -> dict[str, float]:
    """What the packed file takes, and accuracies: in training, and of the ONNX file, packed and unpacked, in ONNX Runtime."""
    from nncf_ext.export.parity import run, session
    from nncf_ext.packed import pack_file, unpack_file

    trained.fit(ctrl, epochs, rate)
    model, unpacked = trained.folder / "model.onnx", trained.folder / "unpacked.onnx"
    ctrl.export_model(model)
    pack_file(model, trained.folder / "model.ncp")
    unpack_file(trained.folder / "model.ncp", unpacked)
    inputs, labels = trained.test
    (logits,) = run(session(unpacked), [inputs])
    accuracies = {"model": trained.accuracy(ctrl), "file": float((logits.argmax(1) == labels).mean())}
    return {**accuracies, **packed_size(trained, ctrl)}


def packed_size(trained: Trained, ctrl: Any) -> dict[str, float]:
    """packed: bytes of the file. bits: what a weight of the float model takes of these, code books included, without biases."""
    from safetensors.numpy import load_file

    from nncf_ext.packed import Packed

    ctrl.pack(trained.folder / "weights.ncp")
    file = Packed(trained.folder / "weights.ncp")
    weights = sum(array.size for array in load_file(trained.folder / FLOAT).values() if array.ndim > 1)
    stored = sum(file.stored_bytes(name) for name in file if len(file.shape(name)) > 1)
    return {"packed": (trained.folder / "weights.ncp").stat().st_size, "bits": 8 * stored / weights}


def int8_bytes(trained: Trained) -> int:
    path = trained.folder / "int8.onnx"
    trained.compressed(INT8).export_model(path)
    return path.stat().st_size


def coded(trained: Trained, coding: Coding, wanted: float) -> Any:
    config = coding.by_rate
    if config is None:
        return trained.compressed(coding.compression)

    if coding.guess is None:
        return trained.compressed(config(wanted))

    def bits(rate: float) -> float:
        return packed_size(trained, trained.compressed(config(rate)))["bits"]

    return trained.compressed(config(sought(bits, wanted, coding.guess)))


def sought(bits: Callable[[float], float], wanted: float, rate: float, steps: int = 4) -> float:
    """The rate at which `bits` is `wanted`, from a first guess, where bits grow with a power of the rate that is at most 1."""
    for _ in range(steps):
        rate *= wanted / bits(rate)
    return rate


def chains(network: Callable[[str], Trained]) -> Result:
    found = {}
    for name, of in NETWORKS.items():
        trained = network(name)
        rows = {
            chain: trained_on(trained, trained.compressed(compression), of.long, of.rate)
            for chain, compression in of.chains.items()
        }
        found[name] = {**start(trained), "int8": int8_bytes(trained), "chains": rows}
    return found


def methods(network: Callable[[str], Trained]) -> Result:
    trained = network(CURVED)
    found = {
        method: {
            point: trained_on(trained, trained.compressed(compression), CURVE_EPOCHS, CURVE_RATE)
            for point, compression in points.items()
        }
        for method, points in METHODS.items()
    }
    return {**start(trained), "methods": found}


def codings(network: Callable[[str], Trained]) -> Result:
    trained, found = network(CURVED), {}
    for name, coding in CODINGS.items():
        ctrl = coded(trained, coding, found[coding.like]["bits"] if coding.like else 0.0)
        at_once = trained.accuracy(ctrl)
        found[name] = {"at once": at_once, **trained_on(trained, ctrl, EQUAL_EPOCHS, EQUAL_RATE)}
    return {**start(trained), "codings": found}


def results(make: Callable[[str, int, Path], Trained], seed: int, part: str) -> Result:
    """A worker's: of one of the three tables. make: of (the network's name, seed, a folder)."""
    with tempfile.TemporaryDirectory() as folder:
        return {"chains": chains, "curves": methods, "equal": codings}[part](lambda name: make(name, seed, Path(folder)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _drops(seeds: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]], key: str = "file") -> list[float]:
    return [100 * (seed["float"] - row[key]) for seed, row in zip(seeds, own, strict=True)]


def chain_lines(seeds: Sequence[Result]) -> list[list[str]]:
    table = []
    for name, network in NETWORKS.items():
        found = [seed[name] for seed in seeds]
        for chain in network.chains:
            own = [seed["chains"][chain] for seed in found]
            drops = _drops(found, own)
            ratio = _mean([seed["bytes"] / row["packed"] for seed, row in zip(found, own, strict=True)])
            accuracies = [_mean([s["float"] for s in found]), *(_mean([r[key] for r in own]) for key in ("model", "file"))]
            sizes = [*(_mean([s[key] for s in found]) for key in ("bytes", "int8")), _mean([r["packed"] for r in own])]
            no_loss = round(_mean(drops), 9) <= 0  # as many images, whatever the sums of floats say
            reached = "met" if no_loss and ratio >= network.target else "missed"
            table.append(
                [name, chain, *(f"{100 * a:.2f}" for a in accuracies), f"{_mean(drops):+.2f}", f"{max(drops):+.2f}"]
                + [*(f"{size / 1e3:.1f}" for size in sizes), f"{ratio:.1f}x", f"{network.target:g}x: {reached}"]
            )
    return table


def curves(seeds: Sequence[Result]) -> dict[str, list[tuple[str, float, float]]]:
    """For each method (what was asked for, times smaller, accuracy in percent), means over the seeds."""
    return {
        method: [
            (
                point,
                _mean([seed["bytes"] / seed["methods"][method][point]["packed"] for seed in seeds]),
                100 * _mean([seed["methods"][method][point]["file"] for seed in seeds]),
            )
            for point in points
        ]
        for method, points in METHODS.items()
    }


def curve_lines(seeds: Sequence[Result]) -> list[list[str]]:
    table = []
    for method, points in curves(seeds).items():
        for point, ratio, accuracy in points:
            own = [seed["methods"][method][point] for seed in seeds]
            drops = _drops(seeds, own)
            numbers = [f"{accuracy:.2f}", f"{_mean(drops):+.2f}", f"{max(drops):+.2f}"]
            sizes = [f"{_mean([r['bits'] for r in own]):.2f}", f"{_mean([r['packed'] for r in own]) / 1e3:.1f}", f"{ratio:.1f}x"]
            table.append([method, point, *numbers, *sizes])
    return table


def draw(framework: str, path: Path, seeds: Sequence[Result]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (method, points), marker in zip(curves(seeds).items(), "osD^vP*Xph", strict=False):
        _, ratios, accuracies = zip(*sorted(points, key=lambda point: point[1]), strict=True)
        axes.plot(ratios, accuracies, marker=marker, markersize=4, label=method)
    start = 100 * _mean([seed["float"] for seed in seeds])
    axes.axhline(start, color="#808080", linestyle=":", label="float")
    axes.set(
        xlabel="times smaller, packed, than in float32", ylabel="test accuracy, %", xscale="log", ylim=(start - 10, start + 1)
    )
    axes.set_title(f"{CURVED} in {framework}", fontsize=10)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=100)


def equal_lines(seeds: Sequence[Result]) -> list[list[str]]:
    table = []
    for name in CODINGS:
        own = [seed["codings"][name] for seed in seeds]
        drops = _drops(seeds, own)
        accuracies = [_mean([s["float"] for s in seeds]), *(_mean([r[key] for r in own]) for key in ("at once", "file"))]
        bits = f"{_mean([r['bits'] for r in own]):.2f}"
        table.append([name, bits, *(f"{100 * a:.2f}" for a in accuracies), f"{_mean(drops):+.2f}", f"{max(drops):+.2f}"])
    return table


SUITES = {
    f"results_packed{part}_{module}": Suite(
        f"{title}, {framework}", header, lines, f"results_packed_{module}", part.lstrip("_") or "chains", picture
    )
    for framework, module in (("PyTorch", "torch"), ("Keras", "keras"))
    for part, title, header, lines, picture in (
        ("", "Chains", HEADER, chain_lines, None),
        ("_curves", "Curves", CURVE_HEADER, curve_lines, partial(draw, framework, DOCUMENT.with_name(f"packed_{module}.png"))),
        ("_equal", "Equal rates", EQUAL_HEADER, equal_lines, None),
    )
}


if __name__ == "__main__":
    run_suites(__doc__, SUITES)
