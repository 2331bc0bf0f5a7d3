"""Transforms on whole modules and on parameters: the module's class is swapped for a subclass of the same name.

The subclass has a property for every transformed parameter, so that a forward of the model computes with the transformed one
while `named_parameters`, `state_dict` and whoever reads the attribute outside a forward have the parameter itself; and a
`forward` around the original.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from nncf_ext_torch.forward_scope import scope
from nncf_ext_torch.function_mode import (
    CallEdits,
    FunctionEdits,
    FunctionMode,
    Step,
    edited_arguments,
    edited_item,
    is_given,
    replaced,
    tensor_at,
)
from nncf_ext_torch.programs import Program
from nncf_ext_torch.realign import Table, table_of
from nncf_ext_torch.recomputation import carry_context_into_recomputation
from nncf_ext_torch.saved_tensors import recomputing_saved
from nncf_ext_torch.sharding import is_sharded
from nncf_ext_torch.torch_private import computing_with_attributes, is_managed_by_fsdp, list_parameters_anew, state_dict_methods


@dataclass
class ModuleEdits:
    """What happens in one module: to its parameters by name, to its arguments and output, to functions called inside.

    label: the module's name for error messages. mode: run under a `FunctionMode` even if that has nothing to count.
    program: all that the module called when it was traced. tables: `functions` as they are called in training, in
    inference, with these arguments. entered: False in a call of another form than the traced one, until it makes one of that.
    forward: what stood on the instance instead of its class's forward (Accelerate's `prepare` puts an autocast there).
    A module without edits may be among the edited ones: for its forward to be known as one of the model.
    """

    label: str
    parameters: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    whole: CallEdits = field(default_factory=CallEdits)
    functions: list[FunctionEdits] = field(default_factory=list)
    mode: bool = False
    forward: Callable[..., Any] | None = None
    program: Program = field(default_factory=Program)
    tables: dict[tuple[Hashable, ...], Table] = field(default_factory=dict)
    entered: bool = True

    def with_steps(self, steps: Mapping[Step, Step]) -> ModuleEdits:
        """The same with what `steps` gives for each step, without those of which it knows nothing."""
        chains = {name: replaced(chain, steps) for name, chain in self.parameters.items()}
        functions = [left for entry in self.functions for left in [entry.with_steps(steps)] if left.calls]
        left = {name: chain for name, chain in chains.items() if chain}
        return replace(self, parameters=left, whole=self.whole.with_steps(steps), functions=functions, tables={})

    def steps(self) -> Iterator[Step]:
        """All steps, on parameters first. One that is in several places comes several times."""
        yield from (step for chain in self.parameters.values() for step in chain)
        for call in (self.whole, *(call for entry in self.functions for call in entry.calls.values())):
            yield from (step for _, chain in (*call.inputs, *call.outputs) for step in chain)

    @property
    def wraps_forward(self) -> bool:
        return bool(self.whole.inputs or self.whole.outputs or self.functions or self.mode)


EDITS = "_nncf_ext"  # attribute of an edited module that holds its ModuleEdits


def install(model: nn.Module, edits: Mapping[str, ModuleEdits], attribute: str = EDITS) -> None:
    """Put `edits` (by module name) into effect. On an error nothing is left of them."""
    try:
        for name, wanted in edits.items():
            module = model.get_submodule(name)
            wanted.forward = vars(module).pop("forward", None)
            subclass = _subclass(type(module), tuple(wanted.parameters), attribute)
            vars(module)[attribute] = wanted
            module.__class__ = subclass
    except BaseException:
        uninstall(model, attribute)
        raise


def uninstall(model: nn.Module, attribute: str = EDITS) -> None:
    """Give every edited module of `model` its own class back."""
    for module in model.modules():
        edits = vars(module).pop(attribute, None)
        if edits is not None and getattr(type(module), "_nncf_ext_attribute", None) == attribute:
            module.__class__ = type(module).__bases__[0]
            if edits.forward is not None:
                vars(module).setdefault("forward", edits.forward)
            if isinstance(module, nn.RNNBase):
                list_parameters_anew(module)


@contextmanager
def in_own_class(module: nn.Module, attribute: str = EDITS) -> Iterator[None]:
    """For the time being `module` has the class that it had without edits; that may change meanwhile."""
    edits: ModuleEdits | None = vars(module).get(attribute)
    if edits is not None:
        module.__class__ = type(module).__bases__[0]
    try:
        yield
    finally:
        if edits is not None:
            module.__class__ = _subclass(type(module), tuple(edits.parameters), attribute)


def edited_modules(model: nn.Module, attribute: str = EDITS) -> Iterator[tuple[nn.Module, ModuleEdits]]:
    for module in model.modules():
        if attribute in vars(module):
            yield module, vars(module)[attribute]


@functools.cache
def _subclass(base: type[nn.Module], parameters: tuple[str, ...], attribute: str) -> type[nn.Module]:
    carry_context_into_recomputation()
    made = {name: inspect.getattr_static(base, name, None) for name in parameters}  # a property where it is parametrized
    namespace: dict[str, Any] = {name: _parameter_property(name, attribute, made[name]) for name in parameters}
    if nn.RNNBase in base.__mro__:
        namespace |= computing_with_attributes
    if issubclass(base, torch.fx.GraphModule):
        namespace["graph"] = property(_graph, base.graph.fset)

    own_class: Any = base

    def reduce(self: nn.Module, protocol: Any) -> Any:
        # the subclass is not importable: copies and pickles are told how to make it again
        _tell_steps(self, attribute, "follow")
        reduced: Any = own_class.__reduce_ex__(self, protocol)
        if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        return _new, (base, parameters, attribute), *reduced[2:]

    def deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
        # `torch.fx.GraphModule` copies itself: into a class of its own, and what its graph names
        _tell_steps(self, attribute, "follow")
        own = vars(self)
        copied: Any = own_class.__deepcopy__(self, memo)
        for kind in ("_parameters", "_buffers"):
            for name, tensor in own[kind].items():
                vars(copied)[kind].setdefault(name, copy.deepcopy(tensor, memo))
        vars(copied)[attribute] = copy.deepcopy(own[attribute], memo)
        if getattr(type(copied), "_nncf_ext_attribute", None) != attribute:
            copied.__class__ = _subclass(type(copied), parameters, attribute)
        return copied

    if hasattr(base, "__deepcopy__"):
        namespace["__deepcopy__"] = deepcopy
    namespace.update(
        forward=_forward(base, attribute),
        __module__=base.__module__,
        __qualname__=base.__qualname__,
        __doc__=base.__doc__,
        __reduce_ex__=reduce,
        **state_dict_methods(
            base,
            saving=lambda module: _tell_steps(module, attribute, "follow"),
            loaded=lambda module: _tell_steps(module, attribute, "accept_written"),
        ),
        _nncf_ext_attribute=attribute,
    )
    metaclass: Any = type(base)
    return metaclass(base.__name__, (base,), namespace)


def _tell_steps(module: nn.Module, attribute: str, what: str) -> None:
    """Call this method of the steps on parameters of a module that have it, see `apply.Applied`."""
    edits: ModuleEdits | None = vars(module).get(attribute)
    for step in () if edits is None else (step for steps in edits.parameters.values() for step in steps):
        getattr(step, what, lambda: None)()


def _new(base: type[nn.Module], parameters: tuple[str, ...], attribute: str) -> nn.Module:
    subclass = _subclass(base, parameters, attribute)
    return subclass.__new__(subclass)


def _parameter_property(name: str, attribute: str, made: Any) -> property:
    """Reads the parameter and, in a forward, transforms it. Written and deleted like any attribute: of a module that holds it not
    as a parameter (a replica of `DataParallel`, what a hook computes, ...) it is that tensor.

    made: the property of the module's own class that computes it (see `computed_weights`), or None.
    """

    def read(self: nn.Module) -> Any:
        if name in self._parameters:
            value: Any = self._parameters[name]
        elif name in vars(self):
            value = vars(self)[name]
        elif isinstance(made, property):
            value = made.fget(self)  # type: ignore[misc]
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if not scope.entered or value is None or is_sharded(value):  # FSDP looks at its shards; a forward has the whole parameter
            return value
        try:
            for step in getattr(self, attribute).parameters[name]:
                value = step(value, self.training)
        except AttributeError as error:  # nn.Module would take it for a missing attribute and give the raw parameter
            raise RuntimeError(f"a transform of {getattr(self, attribute).label}.{name} failed: {error}") from error
        return value

    def write(self: nn.Module, value: Any) -> None:
        if isinstance(made, property):
            made.fset(self, value)  # type: ignore[misc]
        else:
            vars(self)[name] = value

    def delete(self: nn.Module) -> None:
        vars(self).pop(name)

    return property(read, write, delete)


def _graph(self: torch.fx.GraphModule) -> torch.fx.Graph:
    if torch.compiler.is_exporting():  # it runs the graph, past the forward with its transforms
        raise RuntimeError(
            "torch.export of a compressed GraphModule would leave its transforms out: expected a module whose forward calls it, "
            "or controller.export_model"
        )
    return torch.fx.GraphModule.graph.fget(self)  # type: ignore[attr-defined]


def _forward(base: type[nn.Module], attribute: str) -> Callable[..., Any]:
    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        edits: ModuleEdits | None = getattr(self, attribute, None)
        if edits is None:  # called by what stands around it on the instance, after the class went
            return base.forward(self, *args, **kwargs)
        if scope.entered:
            return edited(self, edits, args, kwargs)
        scope.entered = True
        try:
            return edited(self, edits, args, kwargs)
        finally:
            scope.entered = False

    def edited(self: nn.Module, edits: ModuleEdits, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        given = kwargs
        others = [a for a, _ in edits.whole.inputs if is_given(args, kwargs, a) and not tensor_at(args, kwargs, a)]
        if others:
            return in_other_form(self, edits, others[0].name or others[0].position, args, kwargs)
        if not edits.entered:
            edits.entered = True
        for argument, steps in edits.whole.inputs:
            if is_given(args, given, argument):  # an optional one may be left out
                args, given = edited_arguments(args, given, argument, steps, self.training)
        output = counted(self, edits, args, given) if edits.functions or edits.mode else run(self, *args, **given)
        for path, steps in edits.whole.outputs:
            output = edited_item(output, path, steps, self.training)
        return output

    def in_other_form(self: nn.Module, edits: ModuleEdits, which: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call with a batch where a tensor was traced, say, which calls the forward again with that: the one that is edited."""
        edits.entered = False
        output = run(self, *args, **kwargs)
        if not edits.entered:
            edits.entered = True
            raise RuntimeError(
                f"{edits.label} was called with another kind of argument {which!r} than when it was traced, and did not call its "
                "own forward with that: expected such a call in tracing (dummy_forward_fn), or ignored_scopes for its inputs"
            )
        return output

    def counted(self: nn.Module, edits: ModuleEdits, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The forward with its functions edited. What it calls, in training and in inference, is found out in the first one."""
        given = (self.training, len(args), *(name for name, value in kwargs.items() if value is not None))
        if torch.compiler.is_dynamo_compiling() or not edits.functions:
            mode = FunctionMode(edits.tables[given].functions if given in edits.tables else edits.functions, self.training)
            with mode:
                output = run(self, *args, **kwargs)
            mode.check(edits.label)
            return output
        if torch.compiler.is_exporting():  # models ask for that too, and call others then
            exporting = (*given, "exporting")
            if given in edits.tables:
                edits.tables.setdefault(exporting, edits.tables[given])
            given = exporting
        for _ in range(3):  # what the first look at it keeps for later is not made again
            new = given not in edits.tables
            if new:
                edits.tables[given] = table_of(edits, self, args, kwargs, functools.partial(plain, self))
            known = edits.tables[given]
            mode = FunctionMode(known.functions, self.training, known.order)
            try:
                with mode:
                    output = run(self, *args, **kwargs)
                if mode.fits():
                    return output
            except (RuntimeError, ValueError, TypeError, IndexError):  # by a transform in the wrong place?
                if new:
                    raise
            del edits.tables[given]  # another forward than the last one: once more, with what this one calls
        raise RuntimeError(
            f"{edits.label} does not call the same functions when it runs twice on the same inputs: edited operators cannot be "
            "told apart; expected ignored_scopes for them"
        )

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        edits: ModuleEdits = getattr(self, attribute)
        # FSDP frees whole parameters after the forward pass: there is nothing to compute a recipe from
        sharded = is_managed_by_fsdp(self)
        if torch.compiler.is_compiling() or sharded or not edits.parameters:
            return plain(self, *args, **kwargs)
        with recomputing_saved():
            return plain(self, *args, **kwargs)

    def plain(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        own = getattr(self, attribute).forward
        return base.forward(self, *args, **kwargs) if own is None else own(*args, **kwargs)

    # Accelerate unwraps as far as `__wrapped__` leads: to the class's own forward, which has no transforms
    del forward.__wrapped__
    forward.__signature__ = inspect.signature(base.forward)  # type: ignore[attr-defined]
    return forward
