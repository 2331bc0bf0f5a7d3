"""A Keras model as a `Graph` of ONNX operators, and where in the running model each of its tensors passes.

Functional and Sequential models keep their own graph. A subclassed model, or a layer that the tables do not know, is called on
symbolic tensors, which gives a graph of layers and keras operations (raw `tf.*` calls included). What cannot be called that way
(control flow on data, shapes taken from the data) becomes one opaque node; the layers inside it are still found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from nncf_ext.graph import INPUT, OUTPUT, Edge, Graph, Node, Parameter, Site
from nncf_ext.ops import without_empty
from nncf_ext_tensorflow import keras_private, recurrent
from nncf_ext_tensorflow.attributes import operation_attributes
from nncf_ext_tensorflow.naming import Names, join, names_in
from nncf_ext_tensorflow.operators import Stage, operand_axes, operation_op, stages_of, tf_function_op

Path = tuple[Any, ...]
_FIRST_STATE = 5  # ONNX's port of a recurrent operator's first state


@dataclass(frozen=True)
class Place:
    """Where a tensor passes while the model runs: during the n-th call of `owner`, a layer or an operation of a Functional model.

    point: `input` or `output` of the call, or the name of a tensor inside of it. at: which of several, as a path into the
    structure of the arguments (args, kwargs) or of the outputs.
    """

    owner: Any
    call: int
    point: str
    at: Path = ()


@dataclass
class KerasTrace:
    """places: for activation sites. variables: for parameter sites, the layer, its attribute and the Keras variable.

    programs: by id of every layer whose `call` was traced symbolically, the kinds of the operations in it, in order.
    around: by id of every recurrent cell, the layers that run it step by step. example: what the model was traced with.
    """

    graph: Graph
    places: Mapping[Site, Place]
    variables: Mapping[Site, tuple[Any, str, keras.Variable]]
    programs: Mapping[int, tuple[str, ...]]
    around: Mapping[int, Sequence[Any]]
    example: Any = None


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the graph being built: made by a node's output port, or (`variable`) a weight, or a constant."""

    source: str = ""
    port: int = 0
    shape: tuple[int | None, ...] = ()
    dtype: str = "float32"
    variable: keras.Variable | None = None


def trace(model: keras.Model, example: Any = None) -> KerasTrace:
    """Trace `model` in inference mode.

    example: inputs of the model (arrays, of any batch size); needed for a model that has not been built, or one that is neither
    Functional nor Sequential and takes several inputs. ValueError where it is needed and missing.
    """
    inputs = _symbolic_inputs(model, example)
    tracer = _Tracer(model, inputs, names_in(model))
    tracer.run()
    return tracer.result(example)


def symbolic_call(layer: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """(recorded calls in the order of evaluation, output structure) of `layer.call` on symbolic tensors.

    args, kwargs hold KerasTensors without history. Whatever `call` raises passes through; ValueError where its result does not
    depend on the arguments alone.
    """
    with keras_private.recording(layer):
        cls: Any = keras_private.unpatched_class(layer)
        outputs = cls.call(layer, *args, **kwargs)
        nodes = keras_private.in_order_of_creation(list(_calls_that_make(keras.tree.flatten(outputs))))
    if keras_private.drop_symbolic_losses(layer):
        raise ValueError(f"{layer.name} adds a loss that depends on its inputs")
    for node in nodes:
        if _has_unknown_size(node):
            raise ValueError(f"{layer.name} takes a size from the data")
    return nodes, outputs


def _calls_that_make(outputs: Sequence[Any]) -> Iterator[Any]:
    """Recorded calls that `outputs` depend on, each after those that it depends on, depth first in the order of the arguments."""
    done: set[int] = set()
    stack = [keras_private.producer_of(x) for x in reversed(outputs) if isinstance(x, keras.KerasTensor)]
    while stack:
        node = stack[-1]
        if node is None or id(node) in done:
            stack.pop()
            continue
        waiting = [p for x in reversed(node.arguments.keras_tensors) if (p := keras_private.producer_of(x)) and id(p) not in done]
        if waiting:
            stack.extend(waiting)
            continue
        done.add(id(node))
        stack.pop()
        yield node


def _has_unknown_size(node: Any) -> bool:
    """Whether an operation was given a shape with an unknown dimension: fine for shape inference, an error when it runs."""
    if isinstance(node.operation, keras.Layer):
        return False
    given = [getattr(node.operation, name, ()) for name in ("shape", "newshape", "repeats")]
    given += [a for a in (*node.arguments.args, *node.arguments.kwargs.values()) if isinstance(a, (list, tuple))]
    return any(_is_shape(sizes) and any(size is None for size in sizes) for sizes in given)


def _is_shape(sizes: Any) -> bool:
    return isinstance(sizes, list | tuple) and all(size is None or isinstance(size, int) for size in sizes)


def _symbolic_inputs(model: Any, example: Any) -> Any:
    functional = keras_private.functional_of(model)
    if functional is None and example is not None and not (model.built and _all_built(model)):
        model(example, training=False)
        functional = keras_private.functional_of(model)
    if functional is not None:
        return list(functional.inputs)
    if not model.built:
        raise ValueError(f"model {model.name!r} has not been built: call it once on data, or pass an example of its inputs")
    if example is not None:
        return keras.tree.map_structure(symbolic_like, example)
    shape = keras_private.build_shape(model)
    if isinstance(shape, (list, tuple)) and all(d is None or isinstance(d, int) for d in shape):
        return keras.KerasTensor((None, *shape[1:]), dtype=model.input_dtype)
    raise ValueError(f"model {model.name!r} is neither Functional nor Sequential: pass an example of its inputs")


def _all_built(model: Any) -> bool:
    return all(layer.built for layer in keras_private.sublayers(model))


def symbolic_like(array: Any) -> keras.KerasTensor:
    """A symbolic tensor for an array, with a free batch axis."""
    return keras.KerasTensor((None, *array.shape[1:]), dtype=keras.backend.standardize_dtype(array.dtype))


def is_tensor(x: Any) -> bool:
    """Whether an argument of a call is a tensor (symbolic, eager, graph, numpy) or a variable."""
    return isinstance(x, (keras.KerasTensor, keras.Variable)) or keras.ops.is_tensor(x) or type(x).__module__ == "numpy"


def tensors_in(args: Any, kwargs: Any) -> list[tuple[Path, Any]]:
    """The tensors among the arguments of a call, with their paths into (args, kwargs)."""
    return [(tuple(path), x) for path, x in keras.tree.flatten_with_path((tuple(args), dict(kwargs))) if is_tensor(x)]


def signature_of(operation: Any) -> str:
    """Kind of an operation: what operators of two traces of one layer are matched by."""
    if isinstance(operation, keras_private.TFOp):
        return operation.function_name
    return _snake_case(keras_private.unpatched_class(operation).__name__)


def names_of(signatures: Sequence[str]) -> list[str]:
    """`add_0`, `relu_0`, `add_1`, ... for the operations of one symbolic call."""
    counts: Counter[str] = Counter()
    names = []
    for signature in signatures:
        names.append(f"{signature}_{counts[signature]}")
        counts[signature] += 1
    return names


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@dataclass
class _Tracer:
    model: Any
    inputs: Any
    names: Names
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    places: dict[Site, Place] = field(default_factory=dict)
    variables: dict[Site, tuple[Any, str, keras.Variable]] = field(default_factory=dict)
    programs: dict[int, tuple[str, ...]] = field(default_factory=dict)
    around: dict[int, list[Any]] = field(default_factory=dict)
    calls: Counter[int] = field(default_factory=Counter)
    several: list[Site] = field(default_factory=list)

    def run(self) -> None:
        tensors = []
        for index, x in enumerate(keras.tree.flatten(self.inputs)):
            name = f"/nncf_model_input_{index}"
            self._add(Node(name, INPUT), [])
            self.places[Site(name, "output")] = Place(self.model, 0, "input", (index,))
            tensors.append(_Tensor(name, 0, x.shape, x.dtype))
        outputs = self._container(self.model, "", (self.inputs,), {}, tensors)
        if outputs is None:
            outputs = self._opaque(self.model, "", tensors, _output_specs(self.model, tensors))
        for index, tensor in enumerate(outputs):
            name = f"/nncf_model_output_{index}"
            self._add(Node(name, OUTPUT), [(0, tensor)])
            self.places[Site(name, "input:0")] = Place(self.model, 0, "output", (index,))

    def result(self, example: Any) -> KerasTrace:
        owned = {parameter.name for node in self.nodes.values() for parameter in node.parameters}
        shapes = {self.names.variables[id(v)]: tuple(v.shape) for v in keras_private.learned_variables(self.model)}
        others = {name: shape for name, shape in shapes.items() if name not in owned}
        graph = Graph(without_empty(self.nodes.values()), tuple(self.edges), others)
        for site in self.several:
            place = self.places.pop(site)
            ports = {edge.source_port for edge in graph.outputs_of.get(site.node, ())}
            if len(ports) == 1:
                self.places[site] = replace(place, at=(ports.pop(),))
        return KerasTrace(graph, self.places, self.variables, self.programs, self.around, example)

    # Layers ---------------------------------------------------------------------------------------------------------------

    def _container(
        self, layer: Any, path: str, args: Any, kwargs: Mapping[str, Any], tensors: Sequence[_Tensor]
    ) -> list[_Tensor] | None:
        """Trace what runs inside of a layer; `tensors` are those in (args, kwargs), in order. None where that cannot be told."""
        functional = keras_private.functional_of(layer)
        if functional is not None:
            known = {id(x): tensor for x, tensor in zip(functional.inputs, tensors, strict=False)}
            return self._walk(path, keras_private.nodes_of(functional), known, functional.outputs, functional)
        symbolic = iter([keras.KerasTensor(t.shape, t.dtype) for t in tensors])
        given: list[keras.KerasTensor] = []

        def fresh(x: Any) -> Any:
            if not is_tensor(x):
                return x
            given.append(next(symbolic))
            return given[-1]

        symbolic_arguments: Any = keras.tree.map_structure(fresh, (tuple(args), dict(kwargs)))
        args, kwargs = symbolic_arguments
        if keras_private.has_training_argument(layer):
            kwargs = {**kwargs, "training": False}
        try:
            nodes, outputs = symbolic_call(layer, args, kwargs)
        except Exception:  # whatever a user's `call` may raise on symbolic tensors
            return None
        self.programs.setdefault(
            id(layer), tuple(signature_of(n.operation) for n in nodes if not isinstance(n.operation, keras.Layer))
        )
        known = {id(x): tensor for x, tensor in zip(given, tensors, strict=True)}
        results = [x for x in keras.tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]
        return self._walk(path, nodes, known, results, layer)

    def _walk(self, path: str, nodes: Any, known: dict[int, _Tensor], outputs: Sequence[Any], owner: Any) -> list[_Tensor]:
        """Trace recorded calls. `known` maps symbolic tensors (by id) to tensors of the graph."""
        keep_names = keras_private.is_functional(owner)
        call = self.calls[id(owner)] - 1 if owner is not self.model else 0
        counts: Counter[str] = Counter()
        for node in nodes:
            arguments = tensors_in(node.arguments.args, node.arguments.kwargs)
            if keep_names and any(isinstance(x, keras.KerasTensor) and id(x) not in known for _, x in arguments):
                continue  # not needed for the outputs from these inputs, Keras skips it too
            tensors = [(at, self._tensor(x, known)) for at, x in arguments]
            operation = node.operation
            if isinstance(operation, keras.Layer):
                made = self._layer(operation, path, node, tensors)
            else:
                signature = signature_of(operation)
                local = operation.name if id(owner) in self.names.saved else f"{signature}_{counts[signature]}"
                counts[signature] += 1
                program = None if keep_names else (owner, call)
                made = self._operation(operation, join(path, local), local, tensors, node, program)
            for x, tensor in zip(node.outputs, made, strict=False):
                known[id(x)] = _Tensor(tensor.source, tensor.port, x.shape, x.dtype)
        return [known.get(id(x)) or self._tensor(x, known) for x in outputs]

    def _tensor(self, x: Any, known: Mapping[int, _Tensor]) -> _Tensor:
        if id(x) in known:
            return known[id(x)]
        if isinstance(x, keras.Variable):
            return _Tensor(shape=tuple(x.shape), dtype=x.dtype, variable=x)
        return _Tensor(shape=tuple(x.shape))

    def _layer(self, layer: Any, path: str, node: Any, tensors: list[tuple[Path, _Tensor]]) -> list[_Tensor]:
        name = self.names.layers.setdefault(id(layer), join(path, layer.name))
        call = self.calls[id(layer)]
        self.calls[id(layer)] += 1
        if call:
            name = f"{name}^{call}"
        shape = tensors[0][1].shape if tensors else ()
        stages = stages_of(layer, shape)
        if stages is not None:
            if stages[0].op == "Gather":  # an Embedding casts what it gets to whole numbers
                tensors = [(at, replace(tensor, dtype="int32")) for at, tensor in tensors]
            return self._stages(layer, name, call, stages, tensors, node.outputs)
        if isinstance(layer, keras.layers.MultiHeadAttention) and keras_private.computes_attention_in_steps(layer):
            return self._attention(layer, name, call, tensors, node)
        cells = recurrent.cells_of(layer)
        if cells is not None:
            return self._recurrent(layer, name, call, cells, tensors, node.outputs)
        inner = [tensor for _, tensor in tensors]
        if keras_private.functional_of(layer) is not None or not keras_private.is_part_of_keras(layer):
            made = self._container(layer, name, node.arguments.args, node.arguments.kwargs, inner)
            if made is not None:
                return made
        made = self._opaque(layer, name, inner, node.outputs)
        self._place_ends(layer, name, call, tensors, len(node.outputs))
        return made

    def _stages(
        self,
        layer: Any,
        name: str,
        call: int,
        stages: Sequence[Stage],
        tensors: list[tuple[Path, _Tensor]],
        outputs: Sequence[Any],
    ) -> list[_Tensor]:
        """Nodes of a layer that is a chain of operators: its inputs go to the first, its outputs come from the last."""
        made = [_Tensor(name, 0, x.shape, x.dtype) for x in outputs]
        current, arriving = [tensor for _, tensor in tensors], [Place(layer, call, "input", at) for at, _ in tensors]
        for index, stage in enumerate(stages):
            is_last = index == len(stages) - 1
            stage_name = f"{name}/{stage.name}" if stage.name else name
            parameters = tuple(self._parameter(layer, stage_name, weight) for weight in stage.weights)
            ports = range(stage.data_port, stage.data_port + len(current))
            self._add_operator(stage.op, stage_name, layer, parameters, stage.attrs, list(zip(ports, current, strict=True)))
            for port, place in zip(ports, arriving, strict=True):
                if place.point:
                    self.places[Site(stage_name, f"input:{port}")] = place
            leaving = Place(layer, call, "output" if is_last else stage.point, (0,) if is_last else ())
            if leaving.point:
                self.places[Site(stage_name, "output")] = leaving
            first = outputs[0]
            current, arriving = [_Tensor(stage_name, 0, stage.output_shape or first.shape, first.dtype)], [leaving]
            made = [_Tensor(stage_name, port, x.shape, x.dtype) for port, x in enumerate(outputs)]
        return made

    def _parameter(self, layer: Any, node: str, weight: Any) -> Parameter:
        variable = getattr(layer, weight.attribute)
        self.variables[Site(node, weight.slot)] = (layer, weight.attribute, variable)
        name, shape = self.names.variables[id(variable)], tuple(variable.shape)
        return Parameter(weight.slot, name, shape, weight.channel_axis, weight.port, variable.trainable, weight.input_axis)

    def _attention(self, layer: Any, name: str, call: int, tensors: list[tuple[Path, _Tensor]], node: Any) -> list[_Tensor]:
        """MultiHeadAttention as its projections, two products and a softmax (apply.py runs it that way where a site needs it)."""
        given = _bind(node, ("query", "value", "key"))
        symbols = tensors_in(node.arguments.args, node.arguments.kwargs)
        by_id = {id(x): tensor for (_, tensor), (_, x) in zip(tensors, symbols, strict=True)}
        query, value = by_id[id(given["query"])], by_id[id(given["value"])]
        key = by_id[id(given["key"])] if given.get("key") is not None else value

        def project(dense: Any, x: _Tensor) -> _Tensor:
            spec = keras.KerasTensor(_einsum_shape(dense.equation, x.shape, dense.kernel.shape), x.dtype)
            self.names.layers.setdefault(id(dense), f"{name}/{dense.name}")
            count = self.calls[id(dense)]
            self.calls[id(dense)] += 1
            dense_name = f"{self.names.layers[id(dense)]}^{count}" if count else self.names.layers[id(dense)]
            stages = stages_of(dense, x.shape) or []
            return self._stages(dense, dense_name, count, stages, [((0, 0), x)], [spec])[0]

        def inner(part: str, op: str, shape: Any, *inputs: _Tensor, **attrs: Any) -> _Tensor:
            part_name = f"{name}/{part}"
            self._add_operator(op, part_name, layer, (), attrs, list(enumerate(inputs)))
            for port in range(len(inputs)):
                self.places[Site(part_name, f"input:{port}")] = Place(layer, call, f"{part}|input:{port}")
            self.places[Site(part_name, "output")] = Place(layer, call, f"{part}|output")
            return _Tensor(part_name, 0, shape, inputs[0].dtype)

        gate_dense = keras_private.attention_gate(layer)
        scores_equation, context_equation = keras_private.attention_equations(layer)
        gate = None if gate_dense is None else project(gate_dense, query)
        q, k, v = project(layer.query_dense, query), project(layer.key_dense, key), project(layer.value_dense, value)
        scaled = inner("scale", "Mul", q.shape, q)
        scores_shape = _einsum_shape(scores_equation, k.shape, q.shape)
        scores = inner("scores", "MatMul", scores_shape, scaled, k, equation=_swapped(scores_equation))
        normalized = tuple(range(-keras_private.attention_rank(layer), 0))
        weights = inner("softmax", "Softmax", scores_shape, scores, axis=normalized)
        context_shape = _einsum_shape(context_equation, scores_shape, v.shape)
        context = inner("context", "MatMul", context_shape, weights, v, equation=context_equation)
        if gate is not None:
            context = inner("gated", "Mul", context.shape, context, gate)
        made = [project(layer.output_dense, context)]
        return [*made, weights][: len(node.outputs)]

    def _recurrent(
        self,
        layer: Any,
        name: str,
        call: int,
        cells: recurrent.Cells,
        tensors: list[tuple[Path, _Tensor]],
        outputs: Sequence[Any],
    ) -> list[_Tensor]:
        """One node, whatever the layer stacks or runs in two directions: nothing passes between these that could be reached.

        The sequence is on port 0; first states, a mask and constants, which nothing is placed on, from ONNX's port of states on.
        """
        weights = [(cell, weight) for start, cell in cells for weight in recurrent.weights_of(start, cell)]
        parameters = tuple(self._parameter(cell, name, weight) for cell, weight in weights)
        for _, cell in cells if not recurrent.is_step(layer) else ():
            self.around.setdefault(id(cell), []).append(layer)
        attrs: dict[str, Any] = {"cell": True} if recurrent.is_step(layer) else {}
        if len(outputs) > 1 or attrs:
            attrs["scattered_output"] = True
        ports = (0, *range(_FIRST_STATE, _FIRST_STATE + len(tensors)))
        inputs = [(port, tensor) for port, (_, tensor) in zip(ports, tensors, strict=False)]
        states = [port for port, (at, _) in zip(ports, tensors, strict=False) if recurrent.is_state(at)]
        attrs |= recurrent.flow(layer, cells, states, len(outputs))
        self._add_operator(recurrent.operator_of(cells), name, layer, parameters, attrs, inputs)
        self.places[Site(name, "input:0")] = Place(layer, call, "input", tensors[0][0])
        if len(outputs) == 1:
            self.places[Site(name, "output")] = Place(layer, call, "output", (0,))
        return [_Tensor(name, port, x.shape, x.dtype) for port, x in enumerate(outputs)]

    def _opaque(self, layer: Any, name: str, tensors: Sequence[_Tensor], outputs: Sequence[keras.KerasTensor]) -> list[_Tensor]:
        """One node for what is not known, with the known layers inside of it hanging on it."""
        name = name or layer.name
        self._add(Node(name, keras_private.unpatched_class(layer).__name__, name), list(enumerate(tensors)))
        self._inner_layers(layer, name)
        return [_Tensor(name, port, x.shape, x.dtype) for port, x in enumerate(outputs)]

    def _inner_layers(self, layer: Any, source: str) -> None:
        for child in keras_private.sublayers(layer):
            shape = keras_private.build_shape(child)
            simple = isinstance(shape, (list, tuple)) and all(d is None or isinstance(d, int) for d in shape)
            stages = stages_of(child, tuple(shape)) if simple and not self.calls[id(child)] else None
            cells = recurrent.cells_of(child) if simple and child.built and not self.calls[id(child)] else None
            if cells is not None and not recurrent.is_step(child):
                self.calls[id(child)] += 1
                given = [((0, 0), _Tensor(source, 0, (None, *shape[1:])))]
                made = keras.tree.flatten(child.compute_output_spec(keras.KerasTensor((None, *shape[1:]))))
                self._recurrent(child, self.names.layers[id(child)], 0, cells, given, made)
                continue
            if stages is None or not child.built or not any(stage.weights for stage in stages):
                self._inner_layers(child, source)
                continue
            self.calls[id(child)] += 1
            given = [((0, 0), _Tensor(source, 0, (None, *shape[1:])))]
            output = keras.KerasTensor(child.compute_output_shape((None, *shape[1:])))
            self._stages(child, self.names.layers[id(child)], 0, stages, given, [output])

    def _place_ends(self, layer: Any, name: str, call: int, tensors: list[tuple[Path, _Tensor]], outputs: int) -> None:
        for port, (at, _) in enumerate(tensors):
            self.places[Site(name, f"input:{port}")] = Place(layer, call, "input", at)
        self._place_outputs(name, layer, call, "output", outputs)

    def _place_outputs(self, name: str, owner: Any, call: int, point: str, count: int) -> None:
        """The site `output` of a node. That of several tensors is the one that is used, if one alone is: known in the end."""
        self.places[Site(name, "output")] = Place(owner, call, point, (0,))
        if count > 1:
            self.several.append(Site(name, "output"))

    # Operations -----------------------------------------------------------------------------------------------------------

    def _operation(
        self,
        operation: Any,
        name: str,
        local: str,
        tensors: list[tuple[Path, _Tensor]],
        node: Any,
        program: tuple[Any, int] | None,
    ) -> list[_Tensor]:
        """Node of a keras.ops or tf.* call. program: (layer, call) that it is part of; None in a Functional model."""
        is_tf = isinstance(operation, keras_private.TFOp)
        op = tf_function_op(operation.function_name) if is_tf else operation_op(operation)
        operands = {port: tensor.variable for port, (_, tensor) in enumerate(tensors) if tensor.variable is not None}
        found = {port: self._operand(name, op, operation, port, variable) for port, variable in operands.items()}
        parameters = tuple(parameter for parameter in found.values() if parameter is not None)
        reads = tuple(self.names.variables.get(id(operands[port]), "") for port, parameter in found.items() if parameter is None)
        constants = {
            port: tuple(tensor.shape) for port, (_, tensor) in enumerate(tensors) if not tensor.source and found.get(port) is None
        }
        attrs = operation_attributes(op, operation, node)
        attrs |= {key: value for key, value in {"reads": reads, "constants": constants}.items() if value}
        inputs = [(port, tensor) for port, (_, tensor) in enumerate(tensors)]
        self._add_operator(op, name, None, parameters, attrs, inputs)
        owner, call = (operation, self.calls[id(operation)]) if program is None else program
        self.calls[id(operation)] += 1
        prefix = "" if program is None else f"{local}|"
        for port, (at, tensor) in enumerate(tensors):
            if tensor.source:
                self.places[Site(name, f"input:{port}")] = Place(owner, call, f"{prefix}input", at)
        self._place_outputs(name, owner, call, f"{prefix}output", len(node.outputs))
        return [_Tensor(name, port, x.shape, x.dtype) for port, x in enumerate(node.outputs)]

    def _operand(self, node: str, op: str, operation: Any, port: int, variable: Any) -> Parameter | None:
        """A variable that an operation was given directly, where it has a meaning there."""
        if id(variable) not in self.names.owners or op not in _WITH_OPERANDS or Site(node, _slot(op)) in self.variables:
            return None
        self.variables[Site(node, _slot(op))] = (*self.names.owners[id(variable)], variable)
        rank = len(variable.shape)
        channel_axis, input_axis = operand_axes(op, operation, port, rank) if rank > 1 else (rank - 1, None)
        name, shape = self.names.variables[id(variable)], tuple(variable.shape)
        return Parameter(_slot(op), name, shape, channel_axis, port, variable.trainable, input_axis)

    # Nodes and edges ------------------------------------------------------------------------------------------------------

    def _add_operator(
        self,
        op: str,
        name: str,
        layer: Any,
        parameters: tuple[Parameter, ...],
        attrs: Mapping[str, Any],
        inputs: list[tuple[int, _Tensor]],
    ) -> None:
        module = self.names.layers.get(id(layer), "") if layer is not None else ""
        if op != "Silu":
            self._add(Node(name, op, module, parameters, dict(attrs)), inputs)
            return
        # ONNX has no Silu: x * sigmoid(x)
        gate = f"{name}/sigmoid"
        self._add(Node(gate, "Sigmoid", module), inputs)
        x = inputs[0][1]
        self._add(Node(name, "Mul", module, parameters, dict(attrs)), [(0, x), (1, _Tensor(gate, 0, x.shape, x.dtype))])

    def _add(self, node: Node, inputs: Sequence[tuple[int, _Tensor]]) -> None:
        assert node.name not in self.nodes, node.name
        self.nodes[node.name] = node
        for port, tensor in inputs:
            if tensor.source:
                shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
                self.edges.append(Edge(tensor.source, node.name, tensor.port, port, shape, tensor.dtype))


# What is added is a bias, what is multiplied with a weight; an operand is laid out for another operation.
_LAYOUT = ("Expand", "Concat", "Reshape", "Unsqueeze")
_WITH_OPERANDS = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "Add", "Sub", "Mul", "Div", *_LAYOUT))


def _slot(op: str) -> str:
    return "bias" if op in ("Add", "Sub") else "operand" if op in _LAYOUT else "weight"


def _bind(node: Any, names: Sequence[str]) -> dict[str, Any]:
    """Arguments of a recorded call by name, for a `call` whose first parameters are `names`."""
    return {**dict(zip(names, node.arguments.args, strict=False)), **node.arguments.kwargs}


def _swapped(equation: str) -> str:
    """The equation of the same product with its factors in the other order."""
    operands, output = equation.split("->")
    first, second = operands.split(",")
    return f"{second},{first}->{output}"


def _einsum_shape(equation: str, a: Sequence[int | None], b: Sequence[int | None]) -> tuple[int | None, ...]:
    operands, output = equation.split("->")
    sizes: dict[str, int | None] = {}
    for labels, shape in zip(operands.split(","), (a, b), strict=True):
        sizes.update(zip(labels, shape, strict=True))
    return tuple(sizes[label] for label in output)


def _output_specs(layer: Any, tensors: Sequence[_Tensor]) -> list[keras.KerasTensor]:
    """Outputs of a layer that cannot be called symbolically, as far as it tells them."""
    try:
        specs = [keras.KerasTensor(t.shape, t.dtype) for t in tensors]
        outputs = layer.compute_output_spec(*specs) if len(specs) > 1 else layer.compute_output_spec(specs[0])
    except Exception:  # a layer that does not say
        return [keras.KerasTensor(())]
    return keras.tree.flatten(outputs)
