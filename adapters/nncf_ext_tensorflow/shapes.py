"""What Keras remembers of the shapes in a model, made right again after layers have changed their sizes.

Functional models keep a symbolic tensor for every tensor; layers keep the shapes they were built with (a saved model is built
from those) and the sizes that they expect of their inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers as L

from nncf_ext.channels.shrinking import Changes
from nncf_ext_tensorflow import keras_private
from nncf_ext_tensorflow.trace import symbolic_call, symbolic_like

Shape = tuple[int | None, ...]


class Shapes:
    """One pass of shape inference over a model; everything that it changes goes through `changes`.

    resized: layers whose weights have other shapes now.
    """

    def __init__(self, model: Any, resized: Sequence[Any], changes: Changes):
        self._changes = changes
        self._before: dict[int, Shape] = {}  # of symbolic tensors that have got another shape, by id
        self._expected: dict[int, keras.InputSpec] = {}  # by id of the layer
        self._model = model
        for layer in resized:
            self._expect_anything(layer)
        for layer in keras_private.layers_in(model)[1:]:
            graph = keras_private.graph_of(layer)
            for x in graph.inputs if graph is not None and graph is not keras_private.graph_of(model) else ():
                self._set(x, (None,) * len(x.shape))

    def update(self, example: Any) -> None:
        """Bring the whole model up to date. example: inputs of the model (arrays)."""
        graph = keras_private.graph_of(self._model)
        if graph is not None:
            self._graph(graph, graph.inputs)
        if keras_private.functional_of(self._model) is None:
            self.infer(self._model, (keras.tree.map_structure(symbolic_like, example),), {})

    def infer(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Output specifications of `operation` for symbolic arguments, after everything inside of it has been updated."""
        outputs = self._of_layer(operation, args, kwargs) if isinstance(operation, L.Layer) else None
        return operation.compute_output_spec(*args, **kwargs) if outputs is None else outputs

    def _of_layer(self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._remember_build(layer, args, kwargs)
        if isinstance(layer, L.RNN | L.Bidirectional) and args:
            self._remember_cells(layer, args[0])
        self._expect(layer, args)
        graph = keras_private.graph_of(layer)
        if graph is not None:
            self._graph(graph, [x for x in keras.tree.flatten(args[0]) if x is not None])
        if keras_private.functional_of(layer) is not None or keras_private.is_part_of_keras(layer):
            return None
        return self._inside(layer, args, kwargs)

    def _inside(self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A layer or model of the user's: what its `call` calls. None where that cannot run on symbolic tensors."""
        arguments: Any = keras.tree.map_structure(_without_history, (tuple(args), dict(kwargs)))
        fresh_args, fresh_kwargs = arguments
        if keras_private.has_training_argument(layer):
            fresh_kwargs = {**fresh_kwargs, "training": False}
        try:
            nodes, outputs = symbolic_call(layer, fresh_args, fresh_kwargs)
        except Exception:  # whatever a user's `call` may raise on symbolic tensors; the model is run on data afterwards
            return None
        for node in nodes:
            if isinstance(node.operation, L.Layer):
                self.infer(node.operation, node.arguments.args, node.arguments.kwargs)
        return outputs

    def _graph(self, graph: Any, inputs: Sequence[Any]) -> None:
        known = set()
        for x, given in zip(graph.inputs, inputs, strict=False):
            self._set(x, _merged(self._before.get(id(x), x.shape), given.shape))
            known.add(id(x))
        for node in keras_private.nodes_of(graph):
            if any(id(x) not in known for x in node.arguments.keras_tensors):
                continue  # not needed for the outputs from these inputs, Keras skips it too
            outputs = self.infer(node.operation, node.arguments.args, node.arguments.kwargs)
            for x, made in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                self._set(x, made.shape)
                known.add(id(x))

    def _set(self, x: Any, shape: Shape) -> None:
        if tuple(x.shape) != tuple(shape):
            self._before.setdefault(id(x), tuple(x.shape))
            keras_private.set_shape(x, shape, self._changes)

    def _remember_build(self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        built = keras_private.built_shapes(layer)
        if not built:
            return
        if len(built) == 1:
            given: dict[str, Any] = dict.fromkeys(built, args[0] if args else next(iter(kwargs.values()), None))
        else:
            bound = inspect.signature(keras_private.unpatched_class(layer).call).bind(layer, *args, **kwargs).arguments
            given = {name: bound.get(name.removesuffix("_shape")) for name in built}
        shapes = {name: _merged(shape, _shapes_in(given[name])) for name, shape in built.items()}
        keras_private.set_built_shapes(layer, shapes, self._changes)

    def _remember_cells(self, layer: Any, x: Any) -> None:
        """What is run inside of a recurrent layer that reads `x`, a sequence; of a cell, one step."""
        if isinstance(layer, L.Bidirectional):
            for direction in (layer.forward_layer, layer.backward_layer):
                self._remember_build(direction, (x,), {})
                self._remember_cells(direction, x)
        elif isinstance(layer, L.RNN):
            step = keras.KerasTensor((x.shape[0], *x.shape[2:]), x.dtype)
            self._remember_build(layer.cell, (step,), {})
            self._remember_cells(layer.cell, step)
        for cell in layer.cells if isinstance(layer, L.StackedRNNCells) else ():
            self._remember_build(cell, (x,), {})
            x = keras.KerasTensor((x.shape[0], getattr(cell, "output_size", None)), x.dtype)

    def _expect_anything(self, layer: Any) -> None:
        spec = layer.input_spec
        if isinstance(spec, keras.InputSpec) and (spec.axes or spec.shape) and keras_private.keeps_input_spec(layer):
            self._expected[id(layer)] = spec
            keras_private.set_input_spec(layer, _spec_with(spec, dict.fromkeys(spec.axes), None), self._changes)

    def _expect(self, layer: Any, args: Sequence[Any]) -> None:
        spec = self._expected.get(id(layer))
        if spec is None or not args or not isinstance(args[0], keras.KerasTensor):
            return
        shape = tuple(args[0].shape)
        axes = {axis: shape[axis] for axis in spec.axes}
        whole = None if spec.shape is None else _merged(spec.shape, shape)
        keras_private.set_input_spec(layer, _spec_with(spec, axes, whole), self._changes)


def _spec_with(spec: keras.InputSpec, axes: Mapping[int, int | None], shape: Shape | None) -> keras.InputSpec:
    rank = spec.ndim if shape is None else None
    return keras.InputSpec(
        spec.dtype, shape, rank, spec.max_ndim, spec.min_ndim, axes, spec.allow_last_axis_squeeze, spec.name, spec.optional
    )


def _without_history(x: Any) -> Any:
    return keras.KerasTensor(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x


def _shapes_in(given: Any) -> Any:
    return keras.tree.map_structure(lambda x: tuple(x.shape) if isinstance(x, keras.KerasTensor) else x, given)


def _merged(before: Any, now: Any) -> Any:
    """Shapes (in a structure) with the sizes of `now`, but the batch and what was unknown as they were."""
    if _is_shape(before):
        if not _is_shape(now) or len(now) != len(before):
            return before
        sizes = [
            old if index == 0 or old is None or new is None else new
            for index, (old, new) in enumerate(zip(before, now, strict=True))
        ]
        return type(before)(sizes)
    if isinstance(before, dict) and isinstance(now, dict):
        return {name: _merged(shape, now.get(name)) for name, shape in before.items()}
    if isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(now) == len(before):
        return type(before)(_merged(old, new) for old, new in zip(before, now, strict=True))
    return before


def _is_shape(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(size is None or isinstance(size, int) for size in x)
