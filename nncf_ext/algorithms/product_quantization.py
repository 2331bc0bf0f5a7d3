"""Product quantization of weights, with error correction (Q-CNN; Wu et al. 2016, arXiv 1512.06473)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nncf_ext import numerics
from nncf_ext.adapter import Inference
from nncf_ext.algorithm import Algorithm, CompressionStage, PlanSummary, Remembered, State, Training, expect_codes_as_said
from nncf_ext.algorithms.weights import plan_weights
from nncf_ext.calibration.initialization import QuantizationRangeInitArgs, running_on_data, samples_with_progress
from nncf_ext.coding.product_codes import Layout, code_bits, multiply_adds, product_code
from nncf_ext.coding.response_fit import Moments, fit, in_chunks, patches
from nncf_ext.config.product_quantization import ProductQuantizationConfig
from nncf_ext.edits import SHARE, Edit, Plan, Range, Transform, Var, check_codes
from nncf_ext.einsum import Equation
from nncf_ext.encodings import ProductCodes
from nncf_ext.errors import ConfigError
from nncf_ext.files.schema import NotNegative
from nncf_ext.graph import Graph, Node, Parameter, Site
from nncf_ext.ops import is_channels_last, output_axes, weight_port, why_inputs_differ
from nncf_ext.schedules import Clock
from nncf_ext.scopes import compile_scope, matched_by
from nncf_ext.sparsity.weight_matrix import weight_matrix

_WHAT = "error correction"
_MOST_FEATURES = 10_000  # inputs times kernel of a layer, of which the second moments take 0.8 GB


class ProductQuantizer(Transform):
    """Sub-vectors of a weight along `axis`, each replaced by one of the codewords of its subspace.

    Variables: `codebook` (M, codewords, subvector) and `codes` (M, all axes of the weight but `axis`, flattened), all of them -1
    until the weight is coded: it passes then. Later a codeword's gradient is the sum over the sub-vectors that it stands for, and
    the weight has none. Exact zeros stay zero.
    """

    kind: Literal["product_quantizer"] = "product_quantizer"
    stage: ClassVar[int] = SHARE
    subvector: int
    codewords: int
    axis: int

    def calibrate(self, shape: tuple[int, ...], seen: Range | None) -> tuple[Transform, dict[str, Var]]:
        subspaces = shape[self.axis] // self.subvector
        rest = math.prod(shape) // shape[self.axis]
        return self, {
            "codebook": Var(np.zeros((subspaces, self.codewords, self.subvector), np.float32), trainable=True),
            "codes": Var(np.full((subspaces, rest), -1, np.int32)),
        }

    def check(self, variables: Mapping[str, np.ndarray]) -> None:
        check_codes(variables["codes"], self.codewords)

    def encoded(self, xp: Any, variables: Mapping[str, Any]) -> ProductCodes:
        return ProductCodes(variables["codebook"], variables["codes"], self.axis)

    def apply(self, xp: Any, x: Any, variables: Mapping[str, Any], training: bool) -> Any:
        codes, shape = variables["codes"], tuple(int(size) for size in x.shape)
        known = xp.maximum(codes, xp.zeros_like(codes))
        decoded = numerics.product_decoded(xp, variables["codebook"], known, shape, self.axis)
        return xp.where(xp.reshape(codes, (-1,))[0] >= 0, decoded * xp.cast_like(x != 0, decoded), x)


@dataclass(frozen=True)
class LayerProductCode:
    """bits: of code books and codes; times_smaller: than in float32. multiply_adds: of one sample, by look-up tables;
    times_fewer: than by the weight.

    error_of_k_means, error: sum of squared errors of the layer's responses over that of the responses, on the samples of the
    error correction; None where there was none.
    """

    name: str
    subspaces: int
    subvector: int
    codewords: int
    bits: int
    times_smaller: float
    multiply_adds: int
    times_fewer: float
    error_of_k_means: float | None
    error: float | None


@dataclass(frozen=True)
class NotCorrected:
    """A layer whose codes are those of k-means."""

    layer: str
    reason: str


@dataclass(frozen=True)
class ProductQuantizationStatistics:
    """Of the layers in scope, as in `LayerProductCode`, and these. coded: whether their weights are coded already."""

    coded: bool
    bits: int
    times_smaller: float
    multiply_adds: int
    times_fewer: float
    layers: tuple[LayerProductCode, ...]
    not_corrected: tuple[NotCorrected, ...] = ()


class ProductQuantizationState(Remembered):
    """errors: before and after the correction, by edit; not_corrected: why, by edit."""

    coded: bool
    errors: dict[str, Annotated[list[NotNegative], Field(min_length=2, max_length=2)]]
    not_corrected: dict[str, str]


class ProductQuantization(ProductQuantizationConfig, Algorithm):
    remembers: ClassVar[type[Remembered]] = ProductQuantizationState
    family: ClassVar[str] = "shared weights"
    transforms: ClassVar[tuple[type[Transform], ...]] = (ProductQuantizer,)

    def plan(self, graph: Graph, target_device: str) -> Plan:
        names = [node.name for node in graph.nodes]
        for scope in self.params.by_scope:
            matched_by(scope, names, self.path("params.by_scope"), self.validate_scopes)
        return plan_weights(
            graph,
            self,
            self.algorithm,
            lambda node, weight: self._quantizer(node),
            lambda node, weight: self._why_not(graph, node),
        )

    def _quantizer(self, node: Node) -> ProductQuantizer:
        """ConfigError where its inputs cannot be cut into such sub-vectors."""
        layout = _layout(node)
        own = self.params.conv if node.op == "Conv" else self.params.linear
        subvector, codewords = own.subvector, own.codewords
        json_path = self.path(f"params.{'conv' if node.op == 'Conv' else 'linear'}.subvector")
        for scope, settings in self.params.by_scope.items():
            if compile_scope(scope)(node.name):
                subvector, codewords = settings.subvector or subvector, settings.codewords or codewords
                json_path = self.path("params.by_scope") if settings.subvector else json_path
        inputs = layout.shape[layout.axis]
        subvector = min(subvector, inputs)
        if inputs % subvector:
            fits = max(n for n in range(1, subvector + 1) if inputs % n == 0)
            raise ConfigError(
                f"{json_path}: found {subvector} for {node.name} with {inputs} inputs, "
                f"expected a divisor of {inputs}, {fits} say "
                "(by_scope is for single layers)"
            )
        vectors = math.prod(layout.shape) // inputs
        return ProductQuantizer(subvector=subvector, codewords=min(codewords, vectors), axis=layout.axis)

    def _why_not(self, graph: Graph, node: Node) -> str | None:
        """Why the weight of a node has no product code."""
        reason = _unfit(graph, node)
        if reason is None:
            own, size = self._quantizer(node), math.prod(_weight(node).shape)
            if _bits(own, _layout(node)) >= 32 * size:
                reason = f"code books of {own.codewords} x {own.subvector} would be no shorter than its {size} weights"
        return reason

    def plan_summary(self, graph: Graph, edits: Sequence[Edit]) -> PlanSummary:
        by_data = (f"codes of {len(edits)} weights by their responses to {self.params.num_correction_samples} samples",)
        return PlanSummary(
            {site: _in_words(graph, edit) for edit in edits for site in edit.sites},
            _statistics(graph, edits, False, {}, {}),
            by_data if edits and self.params.error_correction else (),
        )

    def start(self) -> State:
        return {"coded": False, "errors": {}, "not_corrected": {}}

    def initialize(self, training: Training, state: State) -> State:
        return self._coded(training, state) if self.params.start_epoch == 0 else state

    def check_loaded(self, training: Training, state: State) -> None:
        expect_codes_as_said(training, state)

    def epoch_step(self, training: Training, clock: Clock, state: State) -> State:
        return state if state["coded"] or clock.epoch < self.params.start_epoch else self._coded(training, state)

    def stage(self, clock: Clock, state: State) -> CompressionStage:
        return CompressionStage.FULLY_COMPRESSED if state["coded"] else CompressionStage.UNCOMPRESSED

    def awaits(self, clock: Clock, state: State) -> Collection[str]:
        return () if state["coded"] else ("epoch_step",)

    def shortfall(self, training: Training, clock: Clock, state: State) -> str | None:
        if state["coded"] or not training.edits:
            return None
        return f"found no codes, expected from epoch {self.params.start_epoch} on"

    def report(self, training: Training, clock: Clock, state: State) -> ProductQuantizationStatistics:
        return _statistics(training.graph, training.edits, state["coded"], state["errors"], state["not_corrected"])

    def _coded(self, training: Training, state: State) -> State:
        """Code every weight, from the model's inputs on: a layer is corrected for what those before it have become."""
        data = training.extra(QuantizationRangeInitArgs) if self.params.error_correction else None
        errors, not_corrected = {}, {}
        for edit in training.edits:
            node = training.graph[edit.site.node]
            layout = _layout(node)
            weight = layout.canonical(training.weight_after_earlier_edits(edit.site))
            if not np.isfinite(weight).all():
                raise ConfigError(f"{self.path()}: {edit.site} has NaN or infinite values, expected numbers to code")
            quantizer = _of(edit)
            codebook, codes = product_code(weight, quantizer.subvector, quantizer.codewords)
            if data is not None:
                reason = next((r for site in edit.sites if (r := _why_not_corrected(training.graph[site.node]))), None)
                if reason is None:
                    batches = samples_with_progress(training.adapter, data.batches, self.params.num_correction_samples, _WHAT)
                    with running_on_data(_WHAT, data.batches):
                        moments = _moments(training, edit, weight, batches)
                    codebook, codes, before, after = fit(codebook, codes, weight, moments)
                    whole = moments.responses or 1.0
                    errors[edit.key] = [before / whole, after / whole]
                else:
                    not_corrected[edit.key] = reason
            codebook, codes = training.adapter.broadcast_from_rank0((codebook, layout.stored(codes).astype(np.int32)))
            training.attached.assign(edit, "codebook", codebook)
            training.attached.assign(edit, "codes", codes)
        return training.adapter.broadcast_from_rank0({"coded": True, "errors": errors, "not_corrected": not_corrected})


def _of(edit: Edit) -> ProductQuantizer:
    assert isinstance(edit.transform, ProductQuantizer)
    return edit.transform


def _weight(node: Node) -> Parameter:
    weight = node.parameter("weight")
    assert weight is not None
    return weight


def _unfit(graph: Graph, node: Node) -> str | None:
    """Why the weight of a node cannot have a product code."""
    if node.op not in ("Conv", "Gemm", "MatMul"):
        return f"{node.op}: product codes are for linear layers and convolutions"
    weight = _weight(node)
    if node.op == "Conv":
        return why_inputs_differ(graph, node, weight)
    matrix = weight_matrix(node, weight)
    return matrix if isinstance(matrix, str) else None


def _read(graph: Graph, node: Node) -> tuple[int, ...]:
    """Shape of what a layer reads; () where that is not known."""
    return next((edge.shape for edge in graph.inputs_of.get(node.name, ())), ())


def _layout(node: Node) -> Layout:
    """For a layer with several axes of inputs, its last one is cut into sub-vectors."""
    weight = _weight(node)
    if node.op == "Conv":
        assert weight.input_axis is not None and weight.channel_axis is not None
        return Layout(weight.shape, weight.input_axis, (weight.channel_axis,))
    outputs = output_axes(node)
    return Layout(weight.shape, max(a for a in range(len(weight.shape)) if a not in outputs), outputs)


def _why_not_corrected(node: Node) -> str | None:
    """Why a layer's inputs cannot be laid out as its weight is."""
    layout = _layout(node)
    if math.prod(layout.shape[a] for a in (*layout.positions, layout.axis)) > _MOST_FEATURES:
        return f"more than {_MOST_FEATURES} inputs to an output"
    if node.op == "Conv":
        known = all(name in node.attrs for name in ("kernel", "strides", "dilations"))
        return None if known and ("pads" in node.attrs or "auto_pad" in node.attrs) else "its strides and pads are not known"
    if weight_port(node) != 1:
        return "its weight is the left factor of the product"
    if "equation" in node.attrs:
        product = Equation.parse(node.attrs["equation"])
        if not product.data.endswith("".join(product.weight[a] for a in (*layout.positions, layout.axis))):
            return "its inputs are not the last axes of what it reads"
    return None


def _moments(training: Training, edit: Edit, weight: np.ndarray, batches: Any) -> Moments:
    """Of the inputs that the coded model gives a layer, and the responses of the original one to its own.

    ConfigError where they are not finite."""
    flat = weight.reshape(-1, weight.shape[-1])
    moments = Moments(*flat.shape)
    sites = {Site(site.node, "input:0"): training.graph[site.node] for site in edit.sites}
    original_of, coded_of = (_inference(training, sites, off) for off in (training.edits, ()))
    batch = None
    for batch in batches:
        (_, original), (_, coded) = original_of(batch), coded_of(batch)
        for site, node in sites.items():
            for before, after in zip(_inputs(node, original[site]), _inputs(node, coded[site]), strict=True):
                moments.add(after, before @ flat)
    if batch is None:
        raise ConfigError(f"{_WHAT}: the data loader gave no batch, expected at least one")
    if not moments.is_finite:
        raise ConfigError(f"{_WHAT}: {edit.site.node} saw NaN or infinite values, expected numbers")
    return moments


def _inference(training: Training, sites: Iterable[Site], off: Collection[Edit]) -> Inference:
    """With copies of the tensors at `sites`."""
    copied = {site: lambda x: np.array(training.adapter.to_numpy(x)) for site in sites}
    return training.adapter.inference(training.attached.model, training.attached.traced, copied, off)


def _inputs(node: Node, x: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of positions * inputs, as the layer's weight is laid out: one for each of its responses. In pieces."""
    layout = _layout(node)
    if node.op != "Conv":
        yield x.reshape(-1, math.prod(layout.shape[a] for a in (*layout.positions, layout.axis)))
        return
    kernel = tuple(node.attrs["kernel"])
    x = x if x.ndim == len(kernel) + 2 else x[None]  # torch takes one sample without an axis for it
    if not is_channels_last(node):
        x = np.moveaxis(x, 1, -1)
    pads = None if node.attrs.get("auto_pad") == "SAME_UPPER" else node.attrs["pads"]
    for part in in_chunks(len(x), math.prod(x.shape[1:]) * math.prod(kernel)):
        found = patches(x[part], kernel, node.attrs["strides"], pads, node.attrs["dilations"])
        yield found.reshape(-1, found.shape[-1])


# Statistics ---------------------------------------------------------------------------------------------------------------


def _in_words(graph: Graph, edit: Edit) -> str:
    own = _of(edit)
    inputs = graph.shape_of(edit.site)[own.axis]
    return f"product code: {inputs // own.subvector} code books of {own.codewords} x {own.subvector}"


def _statistics(
    graph: Graph, edits: Sequence[Edit], coded: bool, errors: Mapping[str, Any], not_corrected: Mapping[str, str]
) -> ProductQuantizationStatistics:
    layers, weights, operations = [], 0, 0
    for edit in edits:
        own, layout = _of(edit), _layout(graph[edit.site.node])
        size = math.prod(layout.shape)
        inputs = layout.shape[layout.axis]
        positions, outputs = (math.prod(layout.shape[a] for a in axes) for axes in (layout.positions, layout.outputs))
        arguments = (inputs, outputs, own.subvector, own.codewords, positions)
        places = [_places(graph, graph[site.node], layout) for site in edit.sites]
        before, after = sum(size * out for _, out in places), sum(multiply_adds(*arguments, *each) for each in places)
        bits, error = _bits(own, layout), errors.get(edit.key, (None, None))
        weights, operations = weights + size, operations + before
        layers.append(
            LayerProductCode(
                edit.site.node,
                inputs // own.subvector,
                own.subvector,
                own.codewords,
                bits,
                32 * size / bits,
                after,
                before / after,
                *error,
            )
        )
    bits, after = sum(layer.bits for layer in layers), sum(layer.multiply_adds for layer in layers)
    left = tuple(NotCorrected(edit.site.node, not_corrected[edit.key]) for edit in edits if edit.key in not_corrected)
    fewer = operations / max(after, 1)
    return ProductQuantizationStatistics(coded, bits, 32 * weights / max(bits, 1), after, fewer, tuple(layers), left)


def _bits(own: ProductQuantizer, layout: Layout) -> int:
    positions, outputs = (math.prod(layout.shape[a] for a in axes) for axes in (layout.positions, layout.outputs))
    return code_bits(layout.shape[layout.axis], outputs, own.subvector, own.codewords, positions)


def _places(graph: Graph, node: Node, layout: Layout) -> tuple[int, int]:
    """Of the input and of the output of a layer in one sample, spatial or along a sequence; a size that is not known counts as 1.

    A layer with several axes of inputs reads a table for each index of the others.
    """
    last = is_channels_last(node)
    shapes = [_read(graph, node)]
    shapes += [edge.shape for edge in graph.outputs_of.get(node.name, ())[:1]]
    if node.op == "Conv":
        sizes = [shape[1:-1] if last else shape[2:] for shape in shapes]
        read, made = (math.prod(max(n, 1) for n in size) for size in (sizes[0], sizes[-1]))
        return read, made
    others = len(layout.positions) + 1
    rows = math.prod(max(n, 1) for n in shapes[0][1 : len(shapes[0]) - others])
    return rows * math.prod(layout.shape[a] for a in layout.positions), rows
