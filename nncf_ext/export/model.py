"""A compressed model as an ONNX file, compared with the model it came from."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from nncf_ext import numpy_xp
from nncf_ext.adapter import Adapter, Attached
from nncf_ext.edits import Edit
from nncf_ext.encodings import FloatGrid, Grid
from nncf_ext.export.bias import move_biases, step_of
from nncf_ext.export.free_axes import FreeAxes, free_axes, name_axes, other_sizes
from nncf_ext.export.lower import lower
from nncf_ext.export.marked import FloatLevels, Levels
from nncf_ext.export.parity import ExportWarning, Own, Parity, float_outputs, parity, session
from nncf_ext.export.recurrent import in_integers, stays_float, steps_of
from nncf_ext.export.weights import opset_of
from nncf_ext.files.finite import refuse_nan
from nncf_ext.files.onnx_file import replacing_model, save
from nncf_ext.graph import Graph

_MOVES = 4  # of the biases, for each draw: whether one value more is rounded to the other side is chance, in a small model
_FLOAT8 = 8  # levels below its largest number at the distance of the two largest ones (e5m2)
_DRAWS = 4  # of moved weights, at most: where rounding grows through a network, its size is a matter of chance


def export_onnx(
    adapter: Adapter,
    graph: Graph,
    attached: Attached,
    reference: Any,
    path: Path,
    example: Any,
    samples: Sequence[Any] = (),
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    opset: int | None = None,
    dynamic_shapes: FreeAxes | None = None,
) -> Parity | None:
    """Write the compressed model to `path` with QuantizeLinear/DequantizeLinear and integer weights. ONNX Runtime runs it before
    it gets that name: where it cannot, ValueError, and a file that was there is there still.

    graph: of the model. reference: the model that the file is compared with: `attached.model`, or the one that it is a smaller
    form of. samples: batches of model inputs for the parity check (where there are none, `example`). Returns what the check
    found; None where there is neither, or `example` is a function that runs the model.
    opset: ONNX's, where it is not the exporter's own. ValueError, and no file, for one in which the model cannot be written.
    dynamic_shapes: axes of any size beside the batch, see `free_axes`; then the file is compared at a second size too.

    LSTMs with 8-bit weights are ONNX Runtime's integer ones where the file is then as exact as the model itself.
    """
    refuse_nan(adapter.tensors(reference), "export")
    shapes = {name: tuple(array.shape) for name, array in adapter.data.named(attached.model, example).items()}
    free = free_axes(dynamic_shapes or {}, shapes, input_names)
    batches = list(samples) or ([] if example is None or callable(example) else [example])
    infer = adapter.inference(reference)
    answers = [infer(batch)[0] for batch in batches]
    if free and batches:
        batch, answer = _at_other_sizes(adapter, reference, batches[0], free)
        batches, answers = [*batches, batch], [*answers, answer]
    levels = grids(adapter, attached)
    marked = {edit.key for edit in attached.plan if edit.key in levels and not stays_float(graph, edit)}
    model = adapter.export_marked(attached, example, free, marked)
    name_axes(model.graph, free)
    own = [str(value.name) for value in model.graph.inputs]
    _rename("input_names", model.graph.inputs, input_names)
    _rename("output_names", model.graph.outputs, output_names)
    model = lower(model, levels)
    needed = opset_of(model.graph)
    if opset is not None and opset < needed:
        raise ValueError(
            f"opset {opset}: the quantizers of this model need operators of ONNX's opset {needed}, expected that or more"
        )
    if opset is not None or needed > model.opset_imports[""]:
        model = in_opset(model, needed if opset is None else opset)
    step = _output_step(model.graph)
    if not batches:
        with replacing_model(path) as file:
            save(model, file)
            session(file)
        return None
    references = [_arrays(adapter, answer) for answer in answers]
    inputs = [_inputs(adapter, attached.model, batch, own) for batch in batches]
    of_activations = [levels[edit.key] for edit in attached.plan if edit.key in levels and not edit.site.is_parameter]
    fewest = min((_FLOAT8 if isinstance(grid, FloatLevels) else grid.intervals for grid in of_activations), default=None)
    with replacing_model(path) as file:
        save(model, file)
        biases: list[list[tuple[list[np.ndarray], list[np.ndarray]]]] = []
        for draw in range(_DRAWS):
            biases += _outputs_by_biases(file, inputs, range(draw * _MOVES, (draw + 1) * _MOVES))
            itself = replace(_differences_to_itself(adapter, reference, batches, fewest, draw), biases=biases)
            found = parity(file, inputs, references, step, itself)
            if found.exact:
                break
        if opset is None and in_integers(model, steps_of(graph, attached.plan, levels)):
            with tempfile.TemporaryDirectory() as folder:
                faster = Path(folder) / path.name
                save(model, faster)
                integer = parity(faster, inputs, references, step, itself)
            if integer.exact and integer.exact_optimized:
                save(model, file)
                found = integer
    if not found.exact:
        warnings.warn(f"{path}: {found}. The file does not compute what the model computes", ExportWarning, stacklevel=3)
    return found


def _arrays(adapter: Adapter, answer: Any) -> list[np.ndarray]:
    return [adapter.to_numpy(array) for _, array in adapter.data.flatten(answer)]


def _differences_to_itself(adapter: Adapter, model: Any, batches: Sequence[Any], levels: int | None, draw: int) -> Own:
    """Integer inputs have no last place to move, and quantized ones swallow it: so it is the weights', which acts everywhere."""
    infer = adapter.inference(model)
    again = _arrays(adapter, infer(batches[0])[0])
    signs = np.random.default_rng(draw)
    with adapter.preserving_state(model):
        floats = {name: value for name, value in adapter.tensors(model).items() if np.issubdtype(value.dtype, np.floating)}
        one_place = {name: np.where(signs.random(v.shape) < 0.5, -1, 1) * np.finfo(v.dtype).eps for name, v in floats.items()}
        adapter.load_tensors(model, {name: (v * (1 + one_place[name])).astype(v.dtype) for name, v in floats.items()})
        moved = [_arrays(adapter, infer(batch)[0]) for batch in batches]
    return Own(moved, again, levels)


def _outputs_by_biases(
    file: Path, batches: Sequence[Sequence[np.ndarray]], seeds: Sequence[int]
) -> list[list[tuple[list[np.ndarray], list[np.ndarray]]]]:
    """For `Own.biases`; empty where the file has no int32 biases."""
    plain, found = session(file, optimize=False), []
    answers = [float_outputs(plain, inputs) for inputs in batches]
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            model = ir.load(file)
            if not move_biases(model.graph, np.random.default_rng(seed)):
                return []
            save(model, Path(folder) / file.name)
            moved = session(Path(folder) / file.name, optimize=False)
            found.append([(answer, float_outputs(moved, inputs)) for answer, inputs in zip(answers, batches, strict=True)])
    return found


def _rename(argument: str, values: Sequence[ir.Value], names: Sequence[str] | None) -> None:
    if names is None:
        return
    if len(names) != len(values) or len(set(names)) != len(names):
        own = ", ".join(str(value.name) for value in values)
        raise ValueError(f"{argument}: found {', '.join(names)}, expected {len(values)} different names, for {own}")
    for value, name in zip(values, names, strict=True):
        value.name = name


def _at_other_sizes(adapter: Adapter, model: Any, batch: Any, free: FreeAxes) -> tuple[Any, Any]:
    """(the batch with other sizes at the free axes, what the model answers). ValueError where it takes none that is tried."""
    shapes = {name: tuple(array.shape) for name, array in adapter.data.named(model, batch).items()}
    reasons = []
    for sizes in other_sizes(free, shapes):
        resized = adapter.data.resized(model, batch, sizes)
        try:
            return resized, adapter.inference(model)(resized)[0]
        except Exception as error:  # the model's own words
            reasons.append(f"{ {name: dict(free) for name, free in sizes.items()} }: {str(error).splitlines()[0]}")
    raise ValueError(f"dynamic_shapes: the model itself does not run at other sizes ({'; '.join(reasons)})")


def in_opset(model: ir.Model, opset: int) -> ir.Model:
    """The model in another opset of ONNX, by ONNX's own converter. ValueError where that cannot convert it."""
    import onnx

    own = model.opset_imports[""]
    if opset == own:
        return model
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), opset)
        onnx.checker.check_model(proto)
    except Exception as error:  # the converter's errors have no type of their own
        reason = " ".join(str(error).split())
        raise ValueError(f"opset {opset}: ONNX cannot convert this model to it, expected {own}, its own ({reason})") from error
    return ir.from_proto(proto)


def grids(adapter: Adapter, attached: Attached) -> dict[str, Levels | FloatLevels]:
    """The grid of every quantizer of the plan, by edit key."""
    found: dict[str, Levels | FloatLevels] = {}
    for edit in attached.plan:
        variables = {name: adapter.to_numpy(value) for name, value in attached.variables(edit).items()}
        grid = edit.transform.encoded(numpy_xp, variables)
        if isinstance(grid, FloatGrid):
            found[edit.key] = FloatLevels(grid.format, grid.scale, grid.channel_axis)
        elif isinstance(grid, Grid):
            rounded = partial(_rounded, adapter, attached, edit)
            found[edit.key] = Levels(grid.low, grid.step, grid.intervals, grid.block, grid.cuts, rounded=rounded)
    return found


def _rounded(adapter: Adapter, attached: Attached, edit: Edit, weight: np.ndarray) -> np.ndarray:
    """What the quantizer makes of a weight, in the arithmetic of the framework."""
    variables = attached.variables(edit)
    like = next(iter(variables.values()), None)
    x = adapter.xp.asarray(weight) if like is None else adapter.xp.asarray(weight, like)
    return adapter.to_numpy(edit.transform.apply(adapter.xp, x, variables, False))


def _output_step(graph: ir.Graph) -> float | None:
    """The widest step of the outputs, None where one of them is not quantized."""
    steps = [step_of(value) for value in graph.outputs]
    return None if None in steps else float(max(step for step in steps if step is not None))


def _inputs(adapter: Adapter, model: Any, batch: Any, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of a batch for the file's inputs, by the model's own names for these."""
    found = adapter.data.named(model, batch)
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"samples: found {', '.join(found)}, expected {missing[0]} too, with which the model was traced")
    return [adapter.to_numpy(found[name]) for name in names]
