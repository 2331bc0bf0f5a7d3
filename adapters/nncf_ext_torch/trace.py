"""Capture of a PyTorch model's operators: one forward under a `TorchFunctionMode`, with hooks that tell which module runs."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from nncf_ext.graph import INPUT, OUTPUT, Edge, Graph, Node, Parameter
from nncf_ext.ops import without_empty
from nncf_ext_torch import operators, recurrent
from nncf_ext_torch.attributes import attributes
from nncf_ext_torch.computed_weights import computed_in
from nncf_ext_torch.programs import CallLog, Program, look, nothing_kept, own_arguments
from nncf_ext_torch.torch_private import forward_pre_hooks, pytree


@dataclass(frozen=True)
class ExampleInput:
    """Arguments of one forward."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Argument:
    """Where a tensor is among the arguments of a call: positional and/or by name, and deeper inside by `item`s."""

    position: int | None = None
    name: str | None = None
    item: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Call:
    """How to find a node's operator in a later forward.

    It is the `index`-th call of `function` inside module `container`, the innermost around it that runs once per forward and
    is no `Sequential`, unless that is the model.
    With `whole_module` that module runs nothing else and the tensors are its own arguments and output.
    inputs: input port -> argument; output: where the tensor is in what the call returns, None where that is not one tensor.
    """

    container: str
    function: Callable[..., Any] | None
    index: int
    whole_module: bool
    inputs: Mapping[int, Argument]
    output: tuple[int | str, ...] | None


@dataclass(frozen=True)
class TorchTrace:
    """The graph; the call behind each node; what each container calls, and how often each function; what was run for it."""

    graph: Graph
    calls: Mapping[str, Call]
    totals: Mapping[tuple[str, Callable[..., Any]], int]
    programs: Mapping[str, Program]
    example: ExampleInput | Callable[[nn.Module], Any]

    def __deepcopy__(self, memo: Any) -> TorchTrace:
        """Itself: it names modules and holds none, so it is true of a copy of the model too."""
        return self


def trace(model: nn.Module, example: ExampleInput | Callable[[nn.Module], Any]) -> TorchTrace:
    """Run `model` once, in eval mode and without gradients, and record its operators.

    example: arguments of the forward, or a function that calls the model exactly once.
    Raises ValueError where the model did not run exactly once.
    """
    recorder = _Recorder(model)
    with evaluating(model), torch.no_grad(), recorder.watching(), recorder:
        forward(model, example)
    if recorder.runs[""] != 1:
        raise ValueError(f"the example forward ran {type(model).__name__} {recorder.runs['']} times; expected exactly once")
    return recorder.result(example)


def forward(model: nn.Module, example: ExampleInput | Callable[[nn.Module], Any]) -> None:
    if isinstance(example, ExampleInput):
        example = on_device_of(model, example)
        model(*example.args, **example.kwargs)
    else:
        example(model)


def on_device_of(model: nn.Module, example: ExampleInput) -> ExampleInput:
    """The model may have been moved since the example was made."""
    device = next((parameter.device for parameter in model.parameters()), None)
    if device is None:
        return example
    moved: Any = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), (example.args, dict(example.kwargs)))
    return ExampleInput(*moved)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of `model` in eval mode, and afterwards each in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def leaves(value: Any, path: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], torch.Tensor]]:
    """Tensors in nested tuples, lists, mappings and dataclasses, each with the items that lead to it."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    elif is_dataclass(value) and not isinstance(value, type):
        for key, item in vars(value).items():
            yield from leaves(item, (*path, key))


# `multi_head_attention_forward` reaches a function mode as one call with its operators inside. Its body, which asks no mode:
_attention_forward = types.FunctionType(
    torch.nn.functional.multi_head_attention_forward.__code__,
    {**torch.nn.functional.__dict__, "has_torch_function": lambda tensors: False},
    "multi_head_attention_forward",
    torch.nn.functional.multi_head_attention_forward.__defaults__,
)


def unfolded(function: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any] | None:
    """The Python body of a call that is made of operators, to be run under the mode again; None for an operator."""
    if function is torch.nn.functional.multi_head_attention_forward:
        return _attention_forward
    return recurrent.one_call_each(function, args)


def is_bookkeeping(function: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Counting of batches, which BatchNorm does in training only: not a call of the model's arithmetic."""
    return function is torch.Tensor.add_ and not args[0].is_floating_point()


@dataclass
class _Frame:
    """A module that is running."""

    name: str
    inputs: dict[int, Argument]  # id of a tensor -> which argument of the module it is
    operators: list[_Recorded] = field(default_factory=list)


@dataclass
class _Recorded:
    node: Node
    function: Callable[..., Any] | None
    counts: dict[str, int]  # container around it -> how often the function had been called there
    inputs: dict[int, Argument]
    module_inputs: dict[int, Argument]  # the same as arguments of the innermost module, as far as they are that
    output: tuple[int | str, ...] | None
    output_id: int
    whole_module: bool = False


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.names = {id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        self.scopes = _scopes(model)
        self.constants = WeakTensorKeyDictionary({tensor: None for tensor in model.buffers()})
        self.constants.update({tensor: name for name, tensor in model.named_parameters()})
        self.computed = computed_in(model)
        self.makers = {
            id(module.get_submodule(f"parametrizations.{name}")): full
            for full, (module, name, how) in self.computed.items()
            if how.hook is None
        }
        self.made: dict[str, tuple[int, ...]] = {}
        self.making = 0  # weights that are being computed: what is called for that is no operator
        self.producers = WeakTensorKeyDictionary()  # tensor -> (node name, output port)
        self.overwritten = WeakTensorKeyDictionary()  # tensor -> the operator that wrote into it
        self.stack: list[_Frame] = []
        self.runs: Counter[str] = Counter()
        self.log = CallLog()
        self.node_names: Counter[str] = Counter()
        self.recorded: list[_Recorded] = []
        self.edges: list[Edge] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every module that keep the stack of running modules."""
        handles = []
        hooks: list[tuple[nn.Module, int, Any]] = []
        try:
            for module in self.model.modules():
                handles.append(module.register_forward_pre_hook(self._enter_module, prepend=True, with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave_module))
            for full, (module, name, how) in self.computed.items():
                for key, hook in forward_pre_hooks(module).items():
                    if hook is how.hook:
                        forward_pre_hooks(module)[key] = partial(self._make, hook, name, full)
                        hooks.append((module, key, hook))
            yield
        finally:
            for module, key, hook in hooks:
                forward_pre_hooks(module)[key] = hook
            for handle in handles:
                handle.remove()

    def _make(self, hook: Callable[..., Any], name: str, full: str, module: nn.Module, *args: Any) -> None:
        self.making += 1
        try:
            hook(module, *args)
        finally:
            self.making -= 1
        self._made(vars(module)[name], full)

    def _made(self, tensor: torch.Tensor, full: str) -> None:
        self.constants[tensor] = full
        self.made[full] = tuple(tensor.shape)

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = self.names[id(module)]
        self.runs[name] += 1
        frame = _Frame(name, {})
        for argument, tensor in _module_arguments(module, args, kwargs):
            frame.inputs.setdefault(id(tensor), argument)
            if not self.stack and tensor not in self.producers:
                node = Node(f"/nncf_model_input_{self.node_names['input']}", INPUT)
                self.node_names["input"] += 1
                self.recorded.append(_Recorded(node, None, {"": 0}, {}, {}, (), id(tensor), whole_module=True))
                self.recorded[-1].inputs[0] = argument
                self.producers[tensor] = (node.name, 0)
        self.stack.append(frame)
        self.making += id(module) in self.makers

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        frame = self.stack.pop()
        if id(module) in self.makers:
            self.making -= 1
            self._made(output, self.makers[id(module)])
        if len(frame.operators) == 1 and isinstance(output, torch.Tensor) and _is_torchs_own(module):
            only = frame.operators[0]
            same = only.node.module == frame.name and only.output_id == id(output)
            if same and only.output == () and set(only.module_inputs) == set(only.inputs):
                only.whole_module = True
        if self.stack:
            self.stack[-1].operators.extend(frame.operators)
            return
        for index, (path, tensor) in enumerate(leaves(output)):
            node = Node(f"/nncf_model_output_{index}", OUTPUT)
            self.recorded.append(_Recorded(node, None, {"": 0}, {0: Argument(item=path)}, {}, None, 0, whole_module=True))
            self._connect(tensor, node.name, 0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        body = unfolded(func, args)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        output = func(*args, **kwargs)
        if not self.stack or is_bookkeeping(func, args):
            return output
        written = [args[0]] if _in_place(func) else []
        counts = {frame.name: self.log.totals[frame.name, func] for frame in self.stack}
        if not self.making:
            output = self._record(func, args, kwargs, output, counts)
        made = [tensor for _, tensor in leaves(output)]
        self.log.add([(frame.name, frame.inputs) for frame in self.stack], func, operands(args, kwargs), [*made, *written])
        return output

    def _record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, counts: dict[str, int]) -> Any:
        result = args[0] if getattr(function, "__name__", "") == "__setitem__" else output
        produced = list(leaves(result))
        if not produced or (isinstance(result, torch.Tensor) and result in self.constants):
            return output
        if recurrent.is_recurrent(function, args):
            return self._record_recurrent(function, args, output, counts)
        inputs, arguments = _inputs(function, args, kwargs)
        given = result if any(result is tensor for _, tensor, _ in inputs.values()) else None
        if given is not None and output is given:
            # `dropout` in inference, `contiguous`, ... return their input, in-place functions write into it: the new tensor
            # tells who reads the result and who the argument
            output = result = torch.ops.aten.alias.default(output)
            produced = [((), result)]

        frame = self.stack[-1]
        name = self._name(frame.name, operators.function_name(function))
        op = operators.operator_type(function, arguments, args, output)
        ports: dict[int, Argument] = {}
        module_ports: dict[int, Argument] = {}
        parameters: dict[str, Parameter] = {}
        reads: list[str] = []
        constants: dict[int, tuple[int, ...]] = {}
        for port, (argument, tensor, formal) in sorted(inputs.items()):
            if tensor in self.constants:
                slot = operators.parameter_slot(function, formal) if formal else "operand" if op in operators.LAYOUT else None
                if slot and self.constants[tensor] and slot not in parameters:
                    parameters[slot] = self._parameter(slot, tensor, function, formal, port)
                elif self.constants[tensor]:
                    reads.append(self.constants[tensor])
                    constants[port] = tuple(tensor.shape)
                else:
                    constants[port] = tuple(tensor.shape)
                continue
            if tensor not in self.producers:
                constants[port] = tuple(tensor.shape)
            ports[port] = argument
            if id(tensor) in frame.inputs:
                module_ports[port] = frame.inputs[id(tensor)]
            self._connect(tensor, name, port)
        attrs = attributes(op, function, arguments, args, kwargs, output)
        attrs |= {key: value for key, value in {"reads": tuple(reads), "constants": constants}.items() if value}
        node = Node(name, op, frame.name, tuple(parameters.values()), types.MappingProxyType(attrs))
        floating = [path for path, tensor in produced if tensor.is_floating_point()]
        where = produced[0][0] if len(produced) == 1 else floating[0] if len(floating) == 1 else None
        recorded = _Recorded(node, function, counts, ports, module_ports, where, id(result))
        self.recorded.append(recorded)
        frame.operators.append(recorded)
        for port, (_, tensor) in enumerate(produced):
            self.producers[tensor] = (name, port)
        if given is not None and _in_place(function):
            self.producers[given], self.overwritten[given] = (name, 0), recorded
        return output

    def _record_recurrent(self, function: Any, args: tuple[Any, ...], output: Any, counts: dict[str, int]) -> Any:
        frame, name = self.stack[-1], self._name(self.stack[-1].name, operators.function_name(function))
        read, ports, parameters = recurrent.operands(function, args), {}, []
        constants: dict[int, tuple[int, ...]] = {}
        reads: list[str] = []
        for operand in read.activations:
            ports[operand.port] = Argument(operand.position, item=operand.item)
            self._connect(operand.tensor, name, operand.port)
            if operand.tensor not in self.producers:
                constants[operand.port] = tuple(operand.tensor.shape)
                reads += filter(None, [self.constants.get(operand.tensor)])
        for index, (port, tensor, *_) in enumerate(read.parameters):
            full, shape = self.constants.get(tensor), tuple(tensor.shape)
            if full is None:
                self._connect(tensor, name, recurrent.port_of_made(index))
            else:
                axes = (0, 1) if len(shape) == 2 else (0, None)  # (gates * channels, inputs)
                slot, trained = full.rpartition(".")[2], self._is_trained(tensor)
                parameters.append(Parameter(slot, full, shape, axes[0], port, trained, axes[1], self._made_by(full)))
        op = operators.operator_type(function, {}, args, output)
        attrs = attributes(op, function, {}, args, {}, output)
        attrs |= {key: value for key, value in {"reads": tuple(reads), "constants": constants}.items() if value}
        if len({parameter.slot for parameter in parameters}) == len(read.parameters):
            attrs |= recurrent.flow(function, args, [parameter.slot for parameter in parameters], len(list(leaves(output))))
        node = Node(name, op, frame.name, tuple(parameters), types.MappingProxyType(attrs))
        produced = list(leaves(output))
        # of several results none is passed on alone; and a step of a loop of any length has no place by its number
        recorded = _Recorded(node, function, counts, ports, {}, None, id(output))
        self.recorded.append(recorded)
        frame.operators.append(recorded)
        for port, (_, tensor) in enumerate(produced):
            self.producers[tensor] = (name, port)
        return output

    def _parameter(self, slot: str, tensor: torch.Tensor, function: Any, formal: str | None, port: int) -> Parameter:
        shape = tuple(tensor.shape)
        axis = operators.channel_axis(function, formal, shape)
        input_axis = operators.input_axis(function, formal, shape)
        name = self.constants[tensor]
        return Parameter(slot, name, shape, axis, port, self._is_trained(tensor), input_axis, self._made_by(name))

    def _is_trained(self, tensor: torch.Tensor) -> bool:
        module, _, how = self.computed.get(self.constants[tensor], (None, "", None))
        return tensor.requires_grad if module is None or how is None else how.is_trained(module)

    def _made_by(self, name: str) -> str:
        return self.computed[name][2].made_by if name in self.computed else ""

    def _connect(self, tensor: torch.Tensor, target: str, port: int) -> None:
        source = self.producers.get(tensor)
        if source is not None:
            overwriter = self.overwritten.get(tensor)
            if overwriter is not None:  # read through the argument, where a transform of the result does not get to
                overwriter.output = None
                overwriter.inputs.pop(0, None)
            dtype = str(tensor.dtype).removeprefix("torch.")
            self.edges.append(Edge(source[0], target, source[1], port, tuple(tensor.shape), dtype))

    def _name(self, module: str, function: str) -> str:
        prefix = f"{self.scopes[module]}/{function}"
        self.node_names[prefix] += 1
        return f"{prefix}_{self.node_names[prefix] - 1}"

    def result(self, example: ExampleInput | Callable[[nn.Module], Any]) -> TorchTrace:
        calls = {}
        for entry in self.recorded:
            container = next(name for name in reversed(entry.counts) if self._contains_calls(name))
            whole = entry.whole_module and (entry.function is None or container == entry.node.module)
            inputs = entry.module_inputs if whole and entry.function is not None else entry.inputs
            calls[entry.node.name] = Call(container, entry.function, entry.counts[container], whole, inputs, entry.output)
        nodes = tuple(_keeping_heads(_stating_scattered_output(entry), self.model) for entry in self.recorded)
        totals = {key: count for key, count in self.log.totals.items() if self.runs[key[0]] == 1}
        functional = {call.container for call in calls.values() if call.function is not None and not call.whole_module}
        programs = {container: self.log.program(container) for container in functional}
        owned = {parameter.name for node in nodes for parameter in node.parameters}
        held = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        for full, shape in self.made.items():  # the parameters that it is made of are no weights beside it
            _, name, how = self.computed[full]
            for own in how.source:
                held.pop(f"{full.removesuffix(name)}{own}", None)
            held[full] = shape
        others = {name: shape for name, shape in held.items() if name not in owned}
        graph = Graph(without_empty(nodes), tuple(self.edges), types.MappingProxyType(others))
        return TorchTrace(graph, calls, totals, programs, example)

    def _contains_calls(self, name: str) -> bool:
        """Whether calls are counted in this module: it ran once, and whatever runs its children runs it. A `Sequential` is often
        run layer by layer by others (`checkpoint_sequential`)."""
        by_others = name != "" and type(self.model.get_submodule(name)).forward is nn.Sequential.forward
        return self.runs[name] == 1 and not by_others


def program_of(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], forward: Callable[..., Any]) -> Program:
    """What `forward`, the one of `module`, calls with these arguments. The module is afterwards as it was, and so are they."""
    with nothing_kept(module):
        args, kwargs = own_arguments(args, kwargs)
        watcher = _Watcher(module)
        with watcher.watching(), watcher.inside(module, args, kwargs), watcher:
            forward(*args, **kwargs)
    return watcher.log.program("")


class _Watcher(TorchFunctionMode):
    """Logs the calls of one forward of a module that may be compressed."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names = {id(inner): name for name, inner in reversed(list(module.named_modules(remove_duplicate=False)))}
        self.log = CallLog()
        self.stack: list[tuple[str, dict[int, Any]]] = []
        self.depth = look.depth

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        try:
            for inner in self.module.modules():
                handles.append(inner.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True))
                handles.append(inner.register_forward_hook(self._leave, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def inside(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
        self._enter(module, tuple(args), dict(kwargs))
        yield

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if look.depth != self.depth:
            return
        inputs: dict[int, Any] = {}
        for argument, tensor in _module_arguments(module, args, kwargs):
            inputs.setdefault(id(tensor), argument)
        self.stack.append((self.names[id(module)], inputs))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if look.depth != self.depth:
            return
        name, _ = self.stack.pop()
        for _, tensor in leaves(output):
            self.log.returned(name, tensor)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if look.depth != self.depth:
            return func(*args, **kwargs)
        body = unfolded(func, args)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        output = func(*args, **kwargs)
        if not is_bookkeeping(func, args):
            given = operands(args, kwargs)
            if any(output is x for x in given) and isinstance(output, torch.Tensor):
                output = torch.ops.aten.alias.default(output)
            made = [tensor for _, tensor in leaves(output)] + ([args[0]] if _in_place(func) else [])
            self.log.add(self.stack, func, given, made)
        return output


def operands(args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments of a call, and what is in lists of them."""
    return [item for value in (*args, *kwargs.values()) for item in (value if isinstance(value, list | tuple) else (value,))]


def _stating_scattered_output(entry: _Recorded) -> Node:
    if entry.function is None or entry.output is not None:
        return entry.node
    return replace(entry.node, attrs=types.MappingProxyType({**entry.node.attrs, "scattered_output": True}))


def _keeping_heads(node: Node, model: nn.Module) -> Node:
    """Torch's attention needs the sizes that its own parameters have: they are among `reads` too, of which no channel may go."""
    if not node.parameters or not isinstance(model.get_submodule(node.module), nn.MultiheadAttention):
        return node
    own = [p.name for p in node.parameters if p.name.rpartition(".")[0] == node.module]
    reads = (*node.attrs.get("reads", ()), *own)
    return replace(node, attrs=types.MappingProxyType({**node.attrs, "reads": reads})) if reads else node


def _in_place(function: Callable[..., Any]) -> bool:
    name = getattr(function, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _inputs(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[int, tuple[Argument, torch.Tensor, str | None]], dict[str, Any]]:
    """Tensor arguments by input port: (where, tensor, argument's name), and all arguments by name, as far as these are known.

    Without a known signature an argument's port is its position; a list of tensors takes one port for each.
    """
    signature = operators.signature(function)
    if signature is not None:
        arguments = {**dict(zip(signature.arguments, args, strict=False)), **kwargs}
        found: dict[int, tuple[Argument, torch.Tensor, str | None]] = {}
        for name, port in signature.ports.items():
            tensor = arguments.get(name)
            if isinstance(tensor, torch.Tensor):
                where = Argument(name=name) if name in kwargs else Argument(signature.arguments.index(name))
                found[port] = (where, tensor, name)
        return found, arguments
    found = {}
    port = 0
    for where, value in [(Argument(i), v) for i, v in enumerate(args)] + [(Argument(name=k), v) for k, v in kwargs.items()]:
        tensors = list(leaves(value))
        for offset, (path, tensor) in enumerate(tensors):
            found[port + offset] = (Argument(where.position, where.name, path), tensor, None)
        port += max(1, len(tensors))
    return found, kwargs


def _is_torchs_own(module: nn.Module) -> bool:
    """Whether its forward runs the same operators in training and for all arguments: one of a user's may branch on anything."""
    return "forward" not in vars(module) and str(type(module).forward.__module__).startswith("torch.")


def _module_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[Argument, torch.Tensor]]:
    """Tensors among a module's arguments; each argument by its name in `forward` and, where it has one, its position."""
    names = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    for position, value in enumerate(args):
        name = names[position] if position < len(names) else None
        for path, tensor in leaves(value):
            yield Argument(position, name, path), tensor
    for name, value in kwargs.items():
        position = names.index(name) if name in names else None
        for path, tensor in leaves(value):
            yield Argument(position, name, path), tensor


def _scopes(model: nn.Module) -> dict[str, str]:
    """Each module's path in NNCF's spelling: `ResNet/Sequential[layer1]/BasicBlock[0]`."""
    scopes = {"": parametrize.type_before_parametrizations(model).__name__}
    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            parent, _, attribute = name.rpartition(".")
            kind = parametrize.type_before_parametrizations(module).__name__  # the one that a stripped model has
            scopes[name] = f"{scopes[parent]}/{kind}[{attribute}]"
    return scopes
