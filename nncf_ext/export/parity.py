"""How far an exported file is from the model it came from, and what ONNX Runtime makes of it."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)")
_UNBACKED = re.compile(r"\bu\d+\b")
_FLOAT = 1 / 64  # difference, in steps, that is rounding in a file that rounds no activations
_RANDOM = 1e-4  # share of an output's span by which two runs of a model that draws no numbers may differ


class ExportWarning(UserWarning):
    """An exported file gives other outputs than its model, by more than the model's own arithmetic leaves open."""


@dataclass(frozen=True)
class Own:
    """What a model differs from itself: what its file may differ from it, too.

    moved: per batch its outputs, with every weight moved by one unit in the last place. again: of another run on the first batch.
    levels: the fewest that activations are rounded to, so that the last place of one number may decide about a whole step of
    another; None where none are rounded.
    biases: the file's outputs for a batch, and those of the same file with its int32 biases moved by up to half a step: integer
    arithmetic has no finer ones, and that is much more than the last place of a float. For each of several moves, and batch.
    """

    moved: Sequence[Sequence[np.ndarray]]
    again: Sequence[np.ndarray]
    levels: int | None
    biases: Sequence[Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]] = ()


@dataclass(frozen=True)
class Parity:
    """Largest difference between the file's outputs in ONNX Runtime and the model's, over all samples and outputs.

    difference: in ONNX Runtime as users run it, in the outputs' unit. unoptimized: with its graph optimisations off.
    step: one quantization step of the outputs (LSB), in their unit. samples: rows compared.
    own: the model's largest difference to itself, see `Own`; NaN where it is unknown. exact: whether the file is no further off,
    at worst and in the root mean square, but for a factor and for rounding; exact_optimized: whether this holds of what ONNX
    Runtime's optimisations make of it on this processor, too. random: positions of outputs that differ from run to run; varying:
    of those whose size numbers decide (detections), and not always alike. These are not compared; where the model itself
    always has the same size and the file another one, the file is not exact.
    """

    difference: float
    unoptimized: float
    step: float
    samples: int
    own: float = float("nan")
    exact: bool = True
    random: tuple[int, ...] = ()
    exact_optimized: bool = True
    varying: tuple[int, ...] = ()

    @property
    def lsb(self) -> float:
        """`difference` in output quantization steps."""
        return self.difference / self.step

    def __str__(self) -> str:
        text = (
            ""
            if np.isnan(self.difference)
            else (
                f"largest difference to the model {self.difference:.3g} = {self.lsb:.2f} LSB "
                f"({self.unoptimized / self.step:.2f} LSB without ONNX Runtime's optimisations; {self.samples} samples)"
            )
        )
        if text and not np.isnan(self.own):
            text += f", {'as exact as' if self.exact else 'worse than'} the model itself ({self.own / self.step:.2f} LSB)"
            if self.exact and not self.exact_optimized:
                text += ", but not as ONNX Runtime optimises it on this processor (8-bit sums saturate on some)"
        for positions, why in (
            (self.random, "random, other numbers in every run of the model"),
            (self.varying, "numbers decide about the size, which is not always the same"),
        ):
            if positions:
                which = f"{'s' * (len(positions) > 1)} {', '.join(map(str, positions))}"
                text = f"{text}; " * bool(text) + f"output{which} cannot be compared: {why}"
        return text


class _Differences:
    """Of outputs from others, over batches: the largest one, and the root mean square."""

    def __init__(self) -> None:
        self.largest, self.squares, self.count = 0.0, 0.0, 0

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        found, expected = np.atleast_1d(np.asarray(found, np.float64)), np.atleast_1d(np.asarray(expected, np.float64))
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))  # infinite ones (masks) too
        apart = np.abs(np.where(same, 0, found) - np.where(same, 0, expected))
        apart[np.isnan(apart)] = np.inf
        self.largest = max(self.largest, float(apart.max(initial=0)))
        self.squares, self.count = self.squares + float(np.square(apart).sum()), self.count + apart.size

    @property
    def typical(self) -> float:
        return (self.squares / max(self.count, 1)) ** 0.5


def parity(
    path: Path,
    samples: Sequence[Sequence[np.ndarray]],
    references: Sequence[Sequence[np.ndarray]],
    step: float | None = None,
    own: Own | None = None,
) -> Parity:
    """Run the file on `samples` (per batch its inputs, in the file's order) and compare its float outputs with the `references`.

    step: quantization step of the outputs; where they are not quantized, None: an 8-bit grid over the references' range.
    ValueError where there is no sample, or the file's outputs are not those of the references.
    """
    if not samples:
        raise ValueError(f"{path.name}: found no samples to compare the exported model on, expected at least one batch")
    outputs = range(len(references[0]))
    random = tuple(i for i in outputs if own is not None and _is_random(references[0][i], own.again[i]))
    optimized, plain = session(path), session(path, optimize=False)
    answers = {runner: [float_outputs(runner, inputs) for inputs in samples] for runner in (optimized, plain)}
    pairs = [pair for found in answers.values() for pair in zip(found, references, strict=True)]
    if any(len(found) != len(expected) for found, expected in pairs):
        raise ValueError(f"{path.name}: found {len(pairs[0][0])} outputs of floating-point numbers, expected {len(pairs[0][1])}")
    moves = [] if own is None else [*zip(own.moved, references, strict=True), *(pair for move in own.biases for pair in move)]
    free = _sizes_by_numbers(plain) - set(random)
    by_rounding = {i for i in free if any(np.shape(a[i]) != np.shape(b[i]) for a, b in moves)}
    by_the_file = {i for i in free if any(np.shape(a[i]) != np.shape(b[i]) for a, b in pairs)}
    varying = tuple(sorted(by_rounding | by_the_file))
    explained = own is None or by_the_file <= by_rounding
    compared = [i for i in outputs if i not in (*random, *varying)]
    for found, expected in pairs:
        shapes = [f.shape for f in found], [np.shape(e) for e in expected]
        if any(shapes[0][i] != shapes[1][i] for i in compared):
            raise ValueError(f"{path.name}: found outputs of shapes {shapes[0]}, expected the model's {shapes[1]}")
    by_file = {runner: _differences(found, references, compared) for runner, found in answers.items()}
    if step is None:
        step = max((_span([r[i] for r in references]) for i in compared or outputs), default=0.0) / 255 or 1.0
    count = sum(len(inputs[0]) for inputs in samples)
    if not compared:
        return Parity(float("nan"), float("nan"), float(step), count, exact=explained, random=random, varying=varying)
    worst = [max(differences[i].largest for i in compared) for differences in by_file.values()]
    if own is None:
        return Parity(worst[0], worst[1], float(step), count)
    by_model = _differences(own.moved, references, compared)
    by_biases = [  # the file is one rounding too
        _differences([after for _, after in move], [before for before, _ in move], compared) for move in own.biases
    ]
    floor = step * (_FLOAT if own.levels is None else max(255 / own.levels, 1))
    yardsticks = {i: (by_model[i], *(differences[i] for differences in by_biases)) for i in compared}
    exact = [all(_is_exact(differences[i], yardsticks[i], floor) for i in compared) for differences in by_file.values()]
    difference_of_model = max(yardstick.largest for i in compared for yardstick in yardsticks[i])
    return Parity(worst[0], worst[1], float(step), count, difference_of_model, exact[1] and explained, random, exact[0], varying)


def _differences(
    found: Sequence[Sequence[np.ndarray]], expected: Sequence[Sequence[np.ndarray]], outputs: Sequence[int]
) -> dict[int, _Differences]:
    """By output, over all batches."""
    differences = {i: _Differences() for i in outputs}
    for one, other in zip(found, expected, strict=True):
        for i in outputs:
            differences[i].add(one[i], other[i])
    return differences


def _sizes_by_numbers(runner: Any) -> set[int]:
    """Positions, among the floating-point outputs, of those with an axis that numbers decide: torch.export names it u0."""
    floats = [value for value in runner.get_outputs() if value.type in _FLOATS]
    return {i for i, value in enumerate(floats) if any(_UNBACKED.search(str(size)) for size in value.shape)}


def _is_exact(file: _Differences, own: Sequence[_Differences], floor: float) -> bool:
    typical, largest = max(yardstick.typical for yardstick in own), max(yardstick.largest for yardstick in own)
    return file.typical <= max(2 * typical, floor) and file.largest <= max(4 * largest, 16 * floor)


def _is_random(first: np.ndarray, again: np.ndarray) -> bool:
    if np.shape(first) != np.shape(again):
        return True
    differences = _Differences()
    differences.add(again, first)
    return differences.largest > _RANDOM * _span([first])


def _span(arrays: Sequence[np.ndarray]) -> float:
    finite = np.concatenate([a[np.isfinite(a)] for a in map(np.asarray, arrays)])
    return float(np.ptp(finite)) if finite.size else 0.0


def integer_operators(path: Path) -> Counter[str]:
    """Operator types, with their number, in the graph that ONNX Runtime really runs."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session(path, save_to=optimized)
        return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def session(path: Path, optimize: bool = True, save_to: Path | None = None) -> Any:
    """An ONNX Runtime session on one CPU thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no base of their own
        raise ValueError(f"{path.name}: ONNX Runtime cannot load the file: {_first_line(error)}") from error


def run(runner: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs for arrays in the order of the file's inputs, cast to the types of these as a framework casts its own inputs."""
    feeds = {
        value.name: array.astype(_NUMPY_TYPES.get(value.type, array.dtype), copy=False)
        for value, array in zip(runner.get_inputs(), inputs, strict=True)
    }
    try:
        return [np.asarray(out) for out in runner.run(None, feeds)]
    except Exception as error:
        raise ValueError(f"ONNX Runtime cannot run the file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def float_outputs(runner: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [output for output in run(runner, inputs) if np.issubdtype(output.dtype, np.floating)]
