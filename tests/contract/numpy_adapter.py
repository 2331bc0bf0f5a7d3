"""The reference net as a framework of its own: `nncf_ext.adapter.Adapter` without autodiff, so that the core trains without one.

What transforms make of tensors is the product's own arithmetic over `numpy_xp`; gradients are those by hand in `references`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from nncf_ext import numpy_xp
from nncf_ext.adapter import Looks, Table, Values
from nncf_ext.calibration.initialization import micro_batches
from nncf_ext.data import Input, ModelInputs
from nncf_ext.edits import CARRY, Edit, Plan, Removal, Var
from nncf_ext.errors import ConfigError
from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.graph import INPUT, OUTPUT, Edge, Graph, Node, Parameter, Site
from nncf_ext.quantization.quantizers.fixed import fixed
from nncf_ext.step_watch import StepWatch
from tests.contract.reference_net import ReferenceNet
from tests.contract.references import REFERENCES

FIRST, LAST = "/nncf_model_input_0", "/nncf_model_output_0"
ROLE_AT = {
    **{Site(layer, slot): f"{layer}.{slot}" for layer in ("fc1", "fc2") for slot in ("weight", "bias")},
    **{Site(FIRST, "output"): "input", Site("fc1", "input:0"): "input"},
    **{Site("relu", "output"): "relu", Site("fc2", "input:0"): "relu"},
    **{Site("fc2", "output"): "fc2", Site(LAST, "input:0"): "fc2"},
}


class NumpyModel(ReferenceNet):
    """y = relu(x @ W1 + b1) @ W2 + b2 for x of shape (N, 6). plan: what stands on its tensors; None where it is plain."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        super().__init__(dict(weights), {}, {})
        self.make_plain()

    def make_plain(self) -> None:
        self.plan: Plan | None = None
        self.edits, self.variables, self.off = {}, {}, set()
        self.after_forward: Callable[[Any, Any], None] | None = None
        self.watch: StepWatch | None = None
        self.hook = NumpyHook(self)
        self._own: dict[tuple[str, str], Edit] = {}  # as the plan has them; `edits` are those that the gradients by hand take

    def place(self, plan: Plan, values: Values) -> None:
        places = {edit: {ROLE_AT.get(site) for site in edit.sites} for edit in plan}
        for edit, roles in places.items():
            if len(roles) != 1 or None in roles:
                raise ValueError(f"{edit.key}: found {len(edit.sites)} sites, expected those of one tensor of the reference net")
        self.plan = plan
        for edit in plan:
            role, kind = place_of(edit)
            convert = REFERENCES[edit.algorithm].in_layout.get(kind)
            by_hand = edit if convert is None else replace(edit, transform=convert(edit.transform, role, False))
            self.edits.setdefault(role, []).append(by_hand)
            self.variables[role, kind] = {name: np.array(var.value) for name, var in values[edit.key].items()}
            self._own[role, kind] = edit

    def transform(self, role: str, edit: Edit, value: np.ndarray, training: bool) -> np.ndarray:
        own = self._own[role, edit.transform.kind]
        return own.apply(numpy_xp, value, self.variables[role, own.transform.kind], training)

    def forward(self, x: np.ndarray, training: bool, seen: dict[str, np.ndarray] | None = None) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # of infinite inputs, as frameworks do
            return super().forward(x, training, seen)

    def __call__(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        outputs = self.forward(np.asarray(x), training)
        if training and self.after_forward is not None:
            self.after_forward(x, outputs)
        return outputs

    def transformed_weights(self) -> dict[str, np.ndarray]:
        found = dict(self.weights)
        for role in found:
            for edit in self.edits.get(role, ()):
                if (role, edit.transform.kind) not in self.off:
                    found[role] = self.transform(role, edit, found[role], False)
        return found

    def copy(self) -> NumpyModel:
        """Without those who watch it."""
        model = NumpyModel(self.weights)
        if self.plan is not None:
            values = {edit.key: {n: Var(v) for n, v in self.variables[place_of(edit)].items()} for edit in self.plan}
            model.place(self.plan, values)
            model.off = set(self.off)
        return model


def place_of(edit: Edit) -> tuple[str, str]:
    """(role, kind), by which `ReferenceNet` has its variables."""
    return ROLE_AT[edit.site], edit.transform.kind


class NumpyHook:
    """`nncf_ext.optimizer_hook.OptimizerHook`."""

    def __init__(self, model: NumpyModel):
        self._model = model
        self.end()

    def listen(self, dense: Iterable[Edit] = (), after: Mapping[str, Callable[[Any], Any]] | None = None) -> None:
        self._dense, self._after = (*self._dense, *dense), {**self._after, **(after or {})}

    def end(self) -> None:
        self._dense: tuple[Edit, ...] = ()
        self._after: dict[str, Callable[[Any], Any]] = {}
        self._arrived: Callable[[], None] | None = None
        self._found: dict[str, np.ndarray] | None = None

    def request_dense_gradients(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        self._model.off |= {place_of(edit) for edit in self._dense}

    def dense_gradients(self) -> dict[str, np.ndarray] | None:
        found, self._found = self._found, None
        if found is not None:
            self._model.off -= {place_of(edit) for edit in self._dense}
        return found

    def before_step(self, by_weight: dict[str, np.ndarray]) -> None:
        """Keeps what was asked for, and leaves what the masks leave."""
        if self._arrived is None:
            return
        self._found = {edit.key: by_weight[ROLE_AT[edit.site]] for edit in self._dense}
        for edit in self._dense:
            role = ROLE_AT[edit.site]
            by_weight[role] = edit.apply(numpy_xp, by_weight[role], self._model.variables[place_of(edit)], False)

    def after_step(self) -> None:
        for edit in self._model.plan or ():
            if edit.key in self._after:
                role = ROLE_AT[edit.site]
                self._model.weights[role] = self._after[edit.key](self._model.weights[role])
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived()

    def scale_parameter_and_moments(self, site: Site, factor: Any) -> None:
        weights, role = self._model.weights, ROLE_AT[site]
        weights[role] = _in_place_of(weights[role], weights[role] * factor)

    def second_moment(self, site: Site) -> None:
        """None: `SGD` keeps none."""


@dataclass(eq=False)
class SGD:
    rate: float

    def step(self, model: NumpyModel, by_weight: Mapping[str, Any], by_variable: Mapping[tuple[str, str, str], Any]) -> None:
        """by_weight: by role; by_variable: by (role, kind, name)."""
        if model.watch is not None:
            model.watch.step_begins(self)
        by_weight = dict(by_weight)
        model.hook.before_step(by_weight)
        for role, gradient in by_weight.items():
            model.weights[role] = (model.weights[role] - self.rate * gradient).astype(np.float32)
        for (role, kind, name), gradient in by_variable.items():
            values = model.variables[role, kind]
            values[name] = (values[name] - self.rate * gradient).astype(np.float32)
        model.hook.after_step()


@dataclass(frozen=True)
class NumpyTrace:
    graph: Graph


def traced(model: NumpyModel) -> NumpyTrace:
    shapes = {name: value.shape for name, value in model.weights.items()}

    def gemm(name: str) -> Node:
        weight = Parameter("weight", f"{name}.weight", shapes[f"{name}.weight"], channel_axis=1, port=1, input_axis=0)
        bias = Parameter("bias", f"{name}.bias", shapes[f"{name}.bias"], channel_axis=0, port=2)
        return Node(name, "Gemm", name, (weight, bias), {"data_format": "channels_last"})

    nodes = (Node(FIRST, INPUT), gemm("fc1"), Node("relu", "Relu", "relu"), gemm("fc2"), Node(LAST, OUTPUT))
    inputs, hidden = shapes["fc1.weight"]
    sizes = (inputs, hidden, hidden, shapes["fc2.weight"][1])
    edges = [Edge(a.name, b.name, shape=(-1, size)) for a, b, size in zip(nodes, nodes[1:], sizes, strict=False)]
    return NumpyTrace(Graph(nodes, tuple(edges)))


class NumpyAttached:
    """A plan in a `NumpyModel` (`nncf_ext.adapter.Attached`)."""

    def __init__(self, model: NumpyModel, plan: Plan):
        self.model, self.plan, self.traced = model, plan, traced(model)

    @property
    def optimizer_hook(self) -> NumpyHook:
        return self.model.hook

    def variables(self, edit: Edit) -> dict[str, np.ndarray]:
        return dict(self.model.variables[place_of(edit)])

    def tensor_names(self, edit: Edit) -> dict[str, str]:
        return {name: f"{edit.key}.{name}" for name in self.variables(edit)}

    def parameter_names(self, edit: Edit) -> list[str]:
        return [ROLE_AT[site] for site in edit.sites if site.is_parameter]

    def assign(self, edit: Edit, name: str, value: Any) -> None:
        values = self.model.variables[place_of(edit)]
        values[name] = _in_place_of(values[name], value)

    def parameter(self, site: Site) -> np.ndarray:
        return self.model.weights[ROLE_AT[site]]

    def owner(self, site: Site) -> NumpyModel:
        return self.model

    def set_enabled(self, edit: Edit, enabled: bool) -> None:
        (self.model.off.discard if enabled else self.model.off.add)(place_of(edit))

    def enabled(self, edit: Edit) -> bool:
        return place_of(edit) not in self.model.off

    def dropout(self) -> dict[str, float]:
        return {}

    def set_dropout(self, node: str, rate: float) -> None:
        raise KeyError(node)

    def detach(self) -> None:
        self.model.make_plain()


def _in_place_of(present: np.ndarray, value: Any) -> np.ndarray:
    """A copy, of the same type and shape."""
    array = np.array(value, present.dtype)
    if array.shape != present.shape:
        raise ValueError(f"found an array of shape {array.shape}, expected {present.shape}")
    return array


class NumpyData:
    """`nncf_ext.data.Framework`."""

    def expected(self, model: NumpyModel, example: Any = None) -> ModelInputs:
        return ModelInputs((Input("x", ((None, len(model.weights["fc1.weight"])),)),))

    def items(self, data: Any) -> None:
        """None: numpy has no containers of its own."""

    def taken_apart(self, data: Any, batch: Any) -> None:
        """None: no batch tells what is its target."""

    def inputs(self, structure: Any) -> np.ndarray:
        return np.asarray(structure, np.float32)

    def target(self, structure: Any) -> np.ndarray | None:
        return None if structure is None else np.asarray(structure)

    def stacked(self, values: Sequence[Any]) -> np.ndarray:
        return np.stack(values)

    def micro_batches(self, inputs: Any, target: Any) -> Iterator[tuple[Any, Any]]:
        return micro_batches((inputs, target), len(inputs))

    def samples(self, inputs: Any) -> int:
        return len(inputs)

    def named(self, model: NumpyModel, inputs: Any) -> dict[str, np.ndarray]:
        return {"x": inputs}

    def resized(self, model: NumpyModel, inputs: Any, sizes: Mapping[str, Mapping[int, int]]) -> np.ndarray:
        for axis, size in sizes.get("x", {}).items():
            inputs = np.take(inputs, np.arange(size) % inputs.shape[axis], axis)
        return inputs

    def flatten(self, outputs: Any) -> list[tuple[str, np.ndarray]]:
        return [("", outputs)]

    def on_host(
        self, function: Callable[..., Sequence[np.ndarray]], arrays: Sequence[Any], like: Sequence[tuple[tuple[int, ...], str]]
    ) -> list[np.ndarray]:
        return list(function(*arrays))

    def read_tensor(self, path: Path) -> np.ndarray:
        raise ValueError("there are no files of one tensor: expected .npy, .safetensors or .json")


class MeanSquaredError:
    """A loss, with what autodiff would make of it."""

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.mean((outputs - target) ** 2)

    def gradient(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        return 2 * (outputs - target) / outputs.size

    def curvature(self, direction: np.ndarray) -> np.ndarray:
        """Its second derivative by the outputs, times a direction."""
        return 2 * direction / direction.size


class NumpyAdapter:
    """`nncf_ext.adapter.Adapter`. Losses that are to be differentiated are like `MeanSquaredError`."""

    name = "numpy"
    xp: Any = numpy_xp
    data = NumpyData()
    steps_by = "a loop that calls them"

    def trace(self, model: NumpyModel, example: Any) -> NumpyTrace:
        if model.plan is not None:
            raise ValueError("the model is compressed already")
        return traced(model)

    def parameter(self, model: NumpyModel, traced: NumpyTrace, site: Site) -> np.ndarray:
        return model.weights[ROLE_AT[site]]

    def apply(self, model: NumpyModel, traced: NumpyTrace, plan: Plan, values: Values) -> NumpyAttached:
        model.place(plan, values)
        return NumpyAttached(model, plan)

    def inference(
        self, model: NumpyModel, traced: Any = None, sites: Looks | None = None, off: Collection[Edit] = ()
    ) -> Callable[[Any], tuple[np.ndarray, dict[Site, Any]]]:
        def run(inputs: Any) -> tuple[np.ndarray, dict[Site, Any]]:
            before, seen = set(model.off), {}
            try:
                model.off |= {place_of(edit) for edit in off}
                outputs = model.forward(inputs, False, seen)
            finally:
                model.off = before
            tensors = {True: seen, False: dict(model.transformed)}  # where a tensor is made, and where it is read
            return outputs, {site: look(tensors[site.port is None][ROLE_AT[site]]) for site, look in (sites or {}).items()}

        return run

    def batch_statistics(self, model: NumpyModel) -> AbstractContextManager[int]:
        return nullcontext(0)

    def adapt_batchnorm(self, model: NumpyModel, batches: Iterable[Any]) -> None:
        """Nothing: the net has none."""

    def hessian_products(
        self, model: NumpyModel, traced: NumpyTrace, sites: Sequence[Site], loss: Any
    ) -> Callable[[tuple[Any, Any], Sequence[np.ndarray]], list[np.ndarray]]:
        return partial(_hessian_products, model.weights, [ROLE_AT[site] for site in sites], loss)

    def loss_gradients(
        self, model: NumpyModel, loss: Any, batch: tuple[Any, Any], factor: float
    ) -> tuple[float, float, dict[str, np.ndarray]]:
        inputs, target = batch
        outputs = model(inputs)
        gradient = loss.gradient(factor * outputs, target)
        return float(loss(factor * outputs, target)), float(np.sum(gradient * outputs)), model.backward(factor * gradient)[0]

    @contextmanager
    def preserving_state(self, model: NumpyModel) -> Iterator[None]:
        before = self.tensors(model)
        try:
            yield
        finally:
            self.load_tensors(model, before)

    def frozen_copy(self, model: NumpyModel, example: Any = None) -> NumpyModel:
        return model.copy()

    def check_copyable(self, model: NumpyModel, example: Any = None) -> None:
        """Nothing: it is."""

    def tap(
        self,
        model: NumpyModel,
        traced: Any,
        sites: Collection[Site],
        after_forward: Callable[[Any, Any, Mapping[Site, Any]], None],
    ) -> None:
        model.after_forward = lambda x, outputs: after_forward(
            x, outputs, {site: model.transformed[ROLE_AT[site]] for site in sites}
        )

    def watch_training(self, model: NumpyModel, watch: StepWatch, loss: ForwardLoss) -> Callable[[], None]:
        model.watch = watch

        def end() -> None:
            model.watch = None

        return end

    def copied(self, attached: NumpyAttached) -> NumpyAttached:
        return NumpyAttached(attached.model.copy(), attached.plan)

    def strip(self, model: NumpyModel, do_copy: bool, quantizers: bool = False) -> NumpyModel:
        kept = _fixed(model) if quantizers else []
        stripped = model.copy() if do_copy else model
        stripped.weights = model.transformed_weights()
        stripped.make_plain()
        if kept:
            stripped.place(Plan(tuple(edit for edit, _ in kept)), {edit.key: values for edit, values in kept})
        return stripped

    def remove_channels(self, model: NumpyModel, removals: Sequence[Removal], traced: NumpyTrace) -> NumpyModel:
        x = np.linspace(-1, 1, 48, dtype=np.float32).reshape(8, 6)
        smaller = model.copy()
        for removal in removals:
            role = ROLE_AT[removal.site]
            smaller.weights[role] = np.take(smaller.weights[role], removal.keep, removal.axis)
        if not np.allclose(model(x), smaller(x), rtol=1e-5, atol=1e-6):
            raise ConfigError("the reference net computes something else without the channels")
        model.weights = smaller.weights
        return model

    def unsaid(self, model: NumpyModel) -> str:
        return ""

    def tensors(self, model: NumpyModel) -> dict[str, np.ndarray]:
        of_edits = {f"{edit.key}.{name}": value for edit, name, value in _variables(model)}
        return {**{name: value.copy() for name, value in model.weights.items()}, **of_edits}

    def load_tensors(
        self, model: NumpyModel, tensors: Mapping[str, np.ndarray], tables: Mapping[str, Table] | None = None
    ) -> None:
        if tables:
            raise ValueError(f"it has a vocabulary or bins of {next(iter(tables))}, which this model does not have")
        for name, present in model.weights.items():
            if name in tensors:
                model.weights[name] = _in_place_of(present, tensors[name])
        for edit, name, present in list(_variables(model)):
            if f"{edit.key}.{name}" in tensors:
                model.variables[place_of(edit)][name] = _in_place_of(present, tensors[f"{edit.key}.{name}"])

    def tables(self, model: NumpyModel) -> dict[str, Table]:
        return {}

    def broadcast_from_rank0(self, value: Any) -> Any:
        return value

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def in_float32(self, attached: NumpyAttached) -> AbstractContextManager[NumpyAttached]:
        return nullcontext(attached)

    def export_marked(
        self, attached: NumpyAttached, example: Any, free: Mapping[str, Mapping[int, str]], marked: Collection[str]
    ) -> Any:
        return marked_graph(attached.model, marked)


def _variables(model: NumpyModel) -> Iterator[tuple[Edit, str, np.ndarray]]:
    for edit in model.plan or ():
        for name, value in model.variables[place_of(edit)].items():
            yield edit, name, value


def _fixed(model: NumpyModel) -> list[tuple[Edit, dict[str, Var]]]:
    """What a stripped model keeps of its quantizers."""
    on = [edit for edit in (model.plan or ()) if place_of(edit) not in model.off]
    found = (fixed(edit, numpy_xp, model.variables[place_of(edit)], np.asarray) for edit in on)
    return [kept for kept in found if kept is not None]


def _hessian_products(
    weights: Mapping[str, np.ndarray], roles: Sequence[str], loss: Any, batch: tuple[Any, Any], directions: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """H v for y = relu(x W1 + b1) W2 + b2: the gradient, differentiated forwards along v (Pearlmutter 1994)."""
    v = {name: np.zeros_like(value) for name, value in weights.items()} | dict(zip(roles, directions, strict=True))
    x, target = batch
    pre = x @ weights["fc1.weight"] + weights["fc1.bias"]
    on, hidden = pre > 0, np.maximum(pre, 0)
    outputs = hidden @ weights["fc2.weight"] + weights["fc2.bias"]
    g = loss.gradient(outputs, target)
    hidden_moves = on * (x @ v["fc1.weight"] + v["fc1.bias"])
    g_moves = loss.curvature(hidden_moves @ weights["fc2.weight"] + hidden @ v["fc2.weight"] + v["fc2.bias"])
    back = on * (g_moves @ weights["fc2.weight"].T + g @ v["fc2.weight"].T)
    products = {
        "fc1.weight": x.T @ back,
        "fc1.bias": back.sum(0),
        "fc2.weight": hidden.T @ g_moves + hidden_moves.T @ g,
        "fc2.bias": g_moves.sum(0),
    }
    return [products[role] for role in roles]


def marked_graph(model: NumpyModel, marked: Collection[str]) -> ir.Model:
    """For `Adapter.export_marked`: what stands on activations has to be marked."""
    nodes, weights = [], dict(model.weights)

    def at(role: str, tensor: str) -> str:
        """The name of what is made of a tensor."""
        for edit in model.plan or ():
            if ROLE_AT[edit.site] != role or place_of(edit) in model.off or edit.transform.stage == CARRY:
                continue
            if edit.key in marked:
                made = f"{tensor}|{edit.transform.kind}"
                nodes.append(helper.make_node("Quantizer", [tensor], [made], domain="nncf_ext", key=edit.key))
                tensor = made
            else:
                weights[role] = model.transform(role, edit, weights[role], False)
        return tensor

    def add(op: str, inputs: Sequence[str], output: str) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output))
        return output

    def gemm(name: str, x: str) -> str:
        return add("Gemm", [x, *(at(f"{name}.{slot}", f"{name}.{slot}") for slot in ("weight", "bias"))], name)

    hidden = at("relu", add("Relu", [gemm("fc1", at("input", "x"))], "relu"))
    outputs = add("Identity", [at("fc2", gemm("fc2", hidden))], "outputs")
    sizes = {"x": len(weights["fc1.weight"]), outputs: weights["fc2.weight"].shape[1]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in sizes.items())
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "reference_net", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nncf_ext", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
