"""How far an exported file is from the model it came from, and what ONNX Runtime makes of it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class Parity:
    """Largest difference between the file's outputs in ONNX Runtime and the model's, over all samples and outputs.

    difference: in ONNX Runtime as users run it, in the outputs' unit. unoptimized: with its graph optimisations off.
    step: one quantization step of the outputs (LSB), in their unit. samples: rows compared.
    """

    difference: float
    unoptimized: float
    step: float
    samples: int

    @property
    def lsb(self) -> float:
        """`difference` in output quantization steps."""
        return self.difference / self.step

    def __str__(self) -> str:
        return (
            f"largest difference to the model {self.difference:.3g} = {self.lsb:.2f} LSB "
            f"({self.unoptimized / self.step:.2f} LSB without ONNX Runtime's optimisations; {self.samples} samples)"
        )


def parity(
    path: Path, samples: Sequence[Sequence[np.ndarray]], references: Sequence[Sequence[np.ndarray]], step: float | None = None
) -> Parity:
    """Run the file on `samples` (per batch its inputs, in the file's order) and compare its float outputs with the `references`.

    step: quantization step of the outputs; where they are not quantized, None: an 8-bit grid over the references' range.
    ValueError where there is no sample, or the file's outputs are not those of the references.
    """
    if not samples:
        raise ValueError(f"{path}: found no samples to compare the exported model on, expected at least one batch")
    optimized, plain = session(path), session(path, optimize=False)
    worst = [0.0, 0.0]
    for inputs, expected in zip(samples, references, strict=True):
        for place, runner in enumerate((optimized, plain)):
            found = [output for output in run(runner, inputs) if np.issubdtype(output.dtype, np.floating)]
            if [f.shape for f in found] != [np.shape(e) for e in expected]:
                shapes = [f.shape for f in found], [np.shape(e) for e in expected]
                raise ValueError(f"{path}: found outputs of shapes {shapes[0]}, expected the model's {shapes[1]}")
            pairs = zip(found, expected, strict=True)
            worst[place] = max(worst[place], *(float(np.max(np.abs(f - np.asarray(e)), initial=0.0)) for f, e in pairs))
    if step is None:
        spans = [max(np.max(r) for r in outs) - min(np.min(r) for r in outs) for outs in zip(*references, strict=True)]
        step = float(max(spans)) / 255 or 1.0
    return Parity(worst[0], worst[1], float(step), sum(len(inputs[0]) for inputs in samples))


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
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(runner: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs for arrays in the order of the file's inputs, cast to the types of these as a framework casts its own inputs."""
    feeds = {
        value.name: array.astype(_NUMPY_TYPES.get(value.type, array.dtype), copy=False)
        for value, array in zip(runner.get_inputs(), inputs, strict=True)
    }
    return [np.asarray(out) for out in runner.run(None, feeds)]
