"""A plan in a Keras model: the class of every touched layer is swapped, in place, for a subclass of the same name.

A weight is transformed when the layer reads it: the subclass has a property in place of the attribute that holds the variable,
and gives the transformed tensor while the layer's `call` runs, the variable itself at any other time (so saving, loading and
optimizers see the plain weight). Activations are transformed at the inputs and outputs of a call, and between a layer and its own
activation function. An operation of a Functional model is an object too and is treated as a layer is. Operations in the `call` of
the user's own layer or model are reached by calling it on symbolic tensors, once for every trace of TensorFlow, and running what
that recorded; so its weights stay weights, and `training` is what it is.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import Any

import keras

from nncf_ext.forward_loss import ForwardLoss
from nncf_ext.graph import Site
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.framework_operators import in_keras_loop
from nncf_ext_tensorflow.recurrent import cells_of
from nncf_ext_tensorflow.taps import Tap
from nncf_ext_tensorflow.trace import KerasTrace, Place, is_tensor, names_of, signature_of, symbolic_call, tensors_in

Function = Callable[[Any], Any]  # of one tensor
_RECORD = "_nncf_ext"  # key in the __dict__ of a patched layer


class _Running(threading.local):
    """What is being run right now in this thread: how often each owner was called in this forward, patched calls underway, and
    weights that were transformed for all steps of one, by owner and attribute."""

    def __init__(self) -> None:
        self.counts: Counter[int] | None = None
        self.calls: dict[int, int] = {}
        self.held: dict[tuple[int, str], Any] = {}


_running = _Running()


class Record:
    """What happens in one patched layer or operation."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[int, str, tuple[Any, ...]], list[Function]] = {}
        self.weights: dict[str, list[Function]] = {}
        self.program: tuple[str, ...] = ()
        self.tap: Tap | None = None
        self.loss: ForwardLoss | None = None
        self.task_weight = 1.0

    @property
    def runs_program(self) -> bool:
        return any("|" in point and point.partition("|")[0] in names_of(self.program) for _, point, _ in self.tensors)

    def through(self, call: int, point: str, at: tuple[Any, ...], x: Any) -> Any:
        for function in self.tensors.get((call, point, at), ()):
            x = function(x)
        return x

    def arguments(self, call: int, point: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a call, transformed."""
        paths = [at for c, p, at in self.tensors if c == call and p == point]
        if not paths:
            return args, kwargs
        flat = keras.tree.flatten_with_path((tuple(args), dict(kwargs)))
        changed = [self.through(call, point, tuple(at), x) for at, x in flat]
        return keras.tree.pack_sequence_as((tuple(args), dict(kwargs)), changed)

    def outputs(self, call: int, point: str, outputs: Any) -> Any:
        if not any(c == call and p == point for c, p, _ in self.tensors):
            return outputs
        changed = [self.through(call, point, (index,), x) for index, x in enumerate(keras.tree.flatten(outputs))]
        return keras.tree.pack_sequence_as(outputs, changed)


def record_of(owner: Any) -> Record:
    return vars(owner)[_RECORD]


class PatchedLayer:
    """Mixin of the subclass that a touched layer or operation gets."""

    unpatched: type

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A new object of the class (a clone of the layer, say) is a plain one."""
        return cls.unpatched(*args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        original = super().call  # type: ignore[misc]
        if keras_private.in_symbolic_scope():
            return original(*args, **kwargs)
        record = record_of(self)
        call = _next_call(self)
        args, kwargs = record.arguments(call, "input", args, kwargs)
        with _calling(self, call):
            outputs = _run_program(self, record, call, args, kwargs) if record.runs_program else original(*args, **kwargs)
        return record.outputs(call, "output", outputs)


class PatchedRecurrent:
    """Mixin for a layer that runs cells step by step: their weights are transformed once for all steps."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        before = dict(_running.held)
        if not keras_private.in_symbolic_scope():
            for _, cell in cells_of(self) or ():
                for attribute in record_of(cell).weights if _RECORD in vars(cell) else ():
                    _running.held[id(cell), attribute] = _transformed(cell, attribute)
        try:
            return super().call(*args, **kwargs)  # type: ignore[misc]
        finally:
            _running.held = before


class PatchedActivation:
    """Mixin for a layer with a transform between its operator and its activation function."""

    @property
    def activation(self) -> Any:
        function = vars(self)["activation"]
        call, record = _running.calls.get(id(self)), record_of(self)
        if call is None:
            return function
        return lambda x: function(record.through(call, "activation", (), x))

    @activation.setter
    def activation(self, value: Any) -> None:
        vars(self)["activation"] = value


class PatchedSeparableConv:
    """Mixin for a separable convolution with a transform between its two convolutions."""

    def call(self, inputs: Any) -> Any:
        layer: Any = self
        call, record = _running.calls.get(id(self)), record_of(self)
        if call is None:
            return super().call(inputs)  # type: ignore[misc]
        common = {"padding": layer.padding, "data_format": layer.data_format}
        x = keras.ops.depthwise_conv(
            inputs, layer.depthwise_kernel, strides=layer.strides, dilation_rate=layer.dilation_rate, **common
        )
        x = keras.ops.conv(record.through(call, "pointwise", (), x), layer.pointwise_kernel, strides=1, **common)
        if layer.use_bias:
            last = layer.data_format == "channels_last"
            shape = (1,) * (layer.rank + 1) + (-1,) if last else (1, -1) + (1,) * layer.rank
            x = keras.ops.add(x, keras.ops.reshape(layer.bias, shape))
        return x if layer.activation is None else layer.activation(x)


class PatchedAttention(keras_private.AttentionInSteps):
    """Mixin for MultiHeadAttention with a transform inside."""

    def inside(self) -> Callable[[str, Any], Any] | None:
        call, record = _running.calls.get(id(self)), record_of(self)
        return None if call is None else lambda point, x: record.through(call, point, (), x)


class PatchedFunctional(keras_private.ReplacedInputs):
    """Mixin for the Functional model at the root: transforms on the model's inputs and outputs."""

    def replaced(self, inputs: list[Any]) -> list[Any]:
        if keras_private.in_symbolic_scope():
            return inputs
        record = record_of(self)
        return [record.through(0, "model_input", (index,), x) for index, x in enumerate(inputs)]


class PatchedModel:
    """Mixin for the root: begins a forward, calls what `tap` registered at its end, and adds to the loss in training."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        if keras_private.in_symbolic_scope():
            return super().call(*args, **kwargs)  # type: ignore[misc]
        record = record_of(self)
        trained = keras_private.trained_now()
        if record.loss is not None:
            record.loss.forward(trained)
        inputs = args[0] if args else next(iter(kwargs.values()), None)
        before, _running.counts = _running.counts, Counter()
        try:
            if args and not isinstance(self, PatchedFunctional):
                args = (_at_each(record, "model_input", args[0]), *args[1:])
            outputs = super().call(*args, **kwargs)  # type: ignore[misc]
            outputs = _at_each(record, "model_output", outputs)
        finally:
            _running.counts = before
        if record.tap is not None and trained:
            record.tap(inputs, outputs)
        return outputs

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        with in_keras_loop():
            return super().train_step(*args, **kwargs)  # type: ignore[misc]

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with in_keras_loop():
            return super().test_step(*args, **kwargs)  # type: ignore[misc]

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        with in_keras_loop():
            return super().predict_step(*args, **kwargs)  # type: ignore[misc]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        record = record_of(self)
        if record.loss is None or not kwargs.get("training", True):
            return super().compute_loss(*args, **kwargs)  # type: ignore[misc]
        record.loss.claim()
        total = super().compute_loss(*args, **kwargs)  # type: ignore[misc]
        if record.task_weight != 1:
            total = total * record.task_weight
        term = record.loss.for_compute_loss()
        return total if term is None else total + keras_private.scaled_as_additional_loss(self, term)


def _at_each(record: Record, point: str, structure: Any) -> Any:
    if not any(p == point for _, p, _ in record.tensors):
        return structure
    changed = [record.through(0, point, (index,), x) for index, x in enumerate(keras.tree.flatten(structure))]
    return keras.tree.pack_sequence_as(structure, changed)


def _next_call(owner: Any) -> int:
    """How often `owner` was called in this forward before now; 0 outside of the model's own forward."""
    if _running.counts is None:
        return 0
    call = _running.counts[id(owner)]
    _running.counts[id(owner)] += 1
    return call


@contextmanager
def _calling(owner: Any, call: int) -> Iterator[None]:
    before = _running.calls.get(id(owner))
    _running.calls[id(owner)] = call
    try:
        yield
    finally:
        if before is None:
            del _running.calls[id(owner)]
        else:
            _running.calls[id(owner)] = before


def _transformed(layer: Any, attribute: str) -> Any:
    variable = vars(layer)[attribute]
    with keras_private.without_autocast():
        weight = keras.ops.convert_to_tensor(variable)
    for function in record_of(layer).weights.get(attribute, ()):
        weight = function(weight)
    return keras.ops.cast(weight, variable.dtype)


def _weight_property(attribute: str) -> property:
    def get(self: Any) -> Any:
        try:
            variable = vars(self)[attribute]
        except KeyError:
            raise AttributeError(attribute) from None
        held = _running.held.get((id(self), attribute))
        if held is not None:
            return held
        return variable if id(self) not in _running.calls else _transformed(self, attribute)

    def set_(self: Any, value: Any) -> None:
        vars(self)[attribute] = value

    return property(get, set_)


def _run_program(layer: Any, record: Record, call: int, args: Any, kwargs: Any) -> Any:
    """`layer.call` with its operations intercepted: called on symbolic tensors, then run as recorded."""
    given = tensors_in(args, kwargs)
    symbols = [keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype)) for _, x in given]
    waiting = iter(symbols)
    symbolic: Any = keras.tree.map_structure(lambda x: next(waiting) if is_tensor(x) else x, (tuple(args), dict(kwargs)))
    symbolic_args, symbolic_kwargs = symbolic
    if keras_private.has_training_argument(layer) and symbolic_kwargs.get("training") is None:
        symbolic_kwargs["training"] = keras_private.training_now()
    nodes, outputs = symbolic_call(layer, symbolic_args, symbolic_kwargs)
    names = _match(layer, record, nodes)
    known = {id(symbol): x for symbol, (_, x) in zip(symbols, given, strict=True)}

    def value(x: Any) -> Any:
        return known[id(x)] if isinstance(x, keras.KerasTensor) else x

    for node in nodes:
        arguments: Any = keras.tree.map_structure(value, (node.arguments.args, node.arguments.kwargs))
        its_args, its_kwargs = arguments
        name = names.get(id(node))
        if name is None:
            made = node.operation(*its_args, **its_kwargs)
        else:
            its_args, its_kwargs = record.arguments(call, f"{name}|input", its_args, its_kwargs)
            made = record.outputs(call, f"{name}|output", node.operation(*its_args, **its_kwargs))
        known.update({id(x): y for x, y in zip(node.outputs, keras.tree.flatten(made), strict=True)})
    return keras.tree.map_structure(value, outputs)


def _match(layer: Any, record: Record, nodes: Iterable[Any]) -> dict[int, str]:
    """Names, as in the trace, of the operations among `nodes`. In training, or with masks, `call` may run others in between."""
    operations = [node for node in nodes if not isinstance(node.operation, keras.Layer)]
    found = [signature_of(node.operation) for node in operations]
    wanted = names_of(record.program)
    names = {}
    for block in SequenceMatcher(None, record.program, found, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            names[id(operations[block.b + offset])] = wanted[block.a + offset]
    lost = {point.partition("|")[0] for _, point, _ in record.tensors} & (set(wanted) - set(names.values()))
    if lost:
        raise RuntimeError(f"{layer.name}: its call no longer runs {sorted(lost)[0]}, where the compression plan has a transform")
    return names


# Patching -----------------------------------------------------------------------------------------------------------------

_MIXINS: list[type] = [
    *(PatchedModel, PatchedFunctional, PatchedLayer, PatchedRecurrent),
    *(PatchedActivation, PatchedSeparableConv, PatchedAttention),
]
_classes: dict[tuple[Any, ...], type] = {}


def _patched_class(owner: Any, mixins: tuple[type, ...], attributes: Iterable[str]) -> type:
    base = keras_private.unpatched_class(owner)
    mixins = tuple(sorted(mixins, key=lambda mixin: _MIXINS.index(mixin) if mixin in _MIXINS else -1))
    key = (base, mixins, tuple(sorted(attributes)))
    if key not in _classes:
        namespace: dict[str, Any] = {name: _weight_property(name) for name in key[2]}
        namespace |= {
            "unpatched": base,
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
        }
        _classes[key] = type(base.__name__, (*mixins, base), namespace)
    return _classes[key]


class Patch:
    """All records that one plan (or one observation) put into a model; `remove` takes them out again."""

    def __init__(self, model: Any, traced: KerasTrace, root_mixins: tuple[type, ...] = ()):
        self._model, self._traced = model, traced
        self._mixins: dict[int, set[type]] = {}
        self._owners: dict[int, Any] = {}
        self._root_mixins = root_mixins
        self.record(model)

    def record(self, owner: Any) -> Record:
        if id(owner) not in self._owners:
            self._owners[id(owner)] = owner
            self._mixins[id(owner)] = {PatchedLayer}
            vars(owner)[_RECORD] = Record()
            if owner is self._model:
                self._mixins[id(owner)] |= {PatchedModel, *self._root_mixins}
            self._swap(owner)
        return record_of(owner)

    def at_place(self, site: Site, function: Function) -> None:
        """Have `function` applied to the tensor at an activation site. ValueError where the model offers no such place."""
        place = self._traced.places.get(site)
        if place is None:
            raise ValueError(f"{site}: no tensor passes there that can be replaced while the model runs")
        place = self._at_root(place)
        record = self.record(place.owner)
        record.program = self._traced.programs.get(id(place.owner), ())
        record.tensors.setdefault((place.call, place.point, place.at), []).append(function)
        mixin = _POINT_MIXINS.get(place.point) or (PatchedAttention if _is_inside_attention(place) else None)
        if place.point == "model_input" and keras_private.functional_of(self._model) is not None:
            mixin = PatchedFunctional
        if mixin is not None and mixin not in self._mixins[id(place.owner)]:
            self._mixins[id(place.owner)].add(mixin)
        self._swap(place.owner)

    def at_weight(self, site: Site, function: Function) -> None:
        """Have `function` applied to the parameter at a site, wherever the layer reads it."""
        layer, attribute, _ = self._traced.variables[site]
        self.record(layer).weights.setdefault(attribute, []).append(function)
        self._swap(layer)
        for outer in self._traced.around.get(id(layer), ()):
            self.record(outer)
            self._mixins[id(outer)].add(PatchedRecurrent)
            self._swap(outer)

    def take_out(self, functions: Collection[Function]) -> None:
        """Take functions at activation sites out again."""
        for record in map(record_of, self._owners.values()):
            left = {at: [f for f in chain if f not in functions] for at, chain in record.tensors.items()}
            record.tensors = {at: chain for at, chain in left.items() if chain}

    def _at_root(self, place: Place) -> Place:
        if place.owner is not self._model:
            return place
        if place.point not in ("input", "output"):
            return place
        functional = keras_private.functional_of(self._model)
        owner = functional if functional is not None and place.point == "input" else self._model
        return Place(owner, 0, f"model_{place.point}", place.at)

    def _swap(self, owner: Any) -> None:
        cls = _patched_class(owner, tuple(self._mixins[id(owner)]), record_of(owner).weights)
        object.__setattr__(owner, "__class__", cls)

    def remove(self) -> None:
        for owner in self._owners.values():
            self._release(owner)
        self._owners.clear()

    @staticmethod
    def _release(owner: Any) -> None:
        object.__setattr__(owner, "__class__", keras_private.unpatched_class(owner))
        vars(owner).pop(_RECORD, None)

    @contextmanager
    def also(self, functions: Mapping[Site, Function]) -> Iterator[None]:
        """With `functions` at activation sites besides what is there."""
        owners, mixins = dict(self._owners), {owner: set(kinds) for owner, kinds in self._mixins.items()}
        records = {key: record_of(owner) for key, owner in owners.items()}
        before = {key: (dict(r.tensors), r.program) for key, r in records.items()}
        for key, record in records.items():
            record.tensors = {at: list(chain) for at, chain in before[key][0].items()}
        try:
            for site, function in functions.items():
                self.at_place(site, function)
            yield
        finally:
            for key, owner in list(self._owners.items()):
                if key not in owners:
                    self._release(owner)
            self._owners, self._mixins = owners, mixins
            for key, record in records.items():
                record.tensors, record.program = before[key]
                self._swap(owners[key])

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The model with the classes that the user gave its layers (records stay)."""
        classes = [(owner, type(owner)) for owner in self._owners.values()]
        for owner, _ in classes:
            object.__setattr__(owner, "__class__", keras_private.unpatched_class(owner))
        try:
            yield
        finally:
            for owner, cls in classes:
                object.__setattr__(owner, "__class__", cls)


_POINT_MIXINS: Mapping[str, type] = {"activation": PatchedActivation, "pointwise": PatchedSeparableConv}


def _is_inside_attention(place: Place) -> bool:
    return isinstance(place.owner, keras.layers.MultiHeadAttention) and "|" in place.point
