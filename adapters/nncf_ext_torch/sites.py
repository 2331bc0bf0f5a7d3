"""From sites of the traced graph to the modules, parameters and calls where they are found in the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from nncf_ext.graph import OUTPUT, Site
from nncf_ext_torch.computed_weights import computed_in
from nncf_ext_torch.function_mode import CallEdits, FunctionEdits, Step
from nncf_ext_torch.module_classes import ModuleEdits
from nncf_ext_torch.trace import Call, TorchTrace

# In inference these may compute with their children's weights without running the children, or their functions one by one.
# Under any function mode they do not.
_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


def parameter_name(traced: TorchTrace, site: Site) -> str:
    """Full name of the parameter at a site. ValueError where there is none."""
    node = traced.graph.by_name.get(site.node)
    parameter = node.parameter(site.slot) if node is not None else None
    if parameter is None:
        raise ValueError(f"{site}: the model has no such parameter")
    return parameter.name


def module_edits(
    model: nn.Module, traced: TorchTrace, steps: Mapping[Site, tuple[Step, ...]], behind: Mapping[str, ModuleEdits] | None = None
) -> dict[str, ModuleEdits]:
    """What has to happen in which module so that `steps` happen at their sites.

    Steps on a parameter happen wherever the model reads it, once for all its sites. ValueError where a site cannot be placed.
    behind: edits that are there, to which steps on activations are added.
    """
    edits = _Edits(model, behind or {})
    holders: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(tensor), []).append(name)
    known = {name: holders[id(tensor)] for name, tensor in model.named_parameters(remove_duplicate=False)}
    known |= {name: [name] for name in computed_in(model)}
    in_parameters: dict[str, list[Step]] = {}
    position = {node.name: index for index, node in enumerate(traced.graph.nodes)}
    for site in sorted(steps, key=lambda site: position.get(site.node, -1)):
        if site.is_parameter:
            name = parameter_name(traced, site)
            if name not in known:
                raise ValueError(f"{site}: the model has no parameter {name}, as it had when it was traced")
            chain = in_parameters.setdefault(name, [])
            chain.extend(step for step in steps[site] if step not in chain)
        else:
            _place_activation(edits, traced, site, steps[site])
    for name, chain in in_parameters.items():
        for holder in known[name]:
            owner, _, attribute = holder.rpartition(".")
            edits[owner].parameters[attribute] = tuple(chain)
    for reader in _readers(traced, in_parameters.keys()):
        _ = edits[reader]
    edits.leave_fast_paths()
    return edits.by_module


class _Edits:
    """ModuleEdits by module name, made when first asked for."""

    def __init__(self, model: nn.Module, there: Mapping[str, ModuleEdits]) -> None:
        self.model = model
        self.by_module = dict(there)

    def __getitem__(self, name: str) -> ModuleEdits:
        if name not in self.by_module:
            kind = type(self.model.get_submodule(name)).__name__
            self.by_module[name] = ModuleEdits(f"{kind} {name}" if name else kind)
        return self.by_module[name]

    def leave_fast_paths(self) -> None:
        computing = [name for name, edits in self.by_module.items() if edits.wraps_forward]
        for name, module in self.model.named_modules():
            if isinstance(module, _FAST_PATHS) and any(inner == name or inner.startswith(f"{name}.") for inner in computing):
                self[name].mode = True


def _readers(traced: TorchTrace, parameters: Collection[str]) -> set[str]:
    """The modules whose forward may begin a run of the model and read `parameters`: the model, whatever read one when it was
    traced, and what is around that."""
    names = {""} if parameters else set()
    for node in traced.graph.nodes:
        read = {*(parameter.name for parameter in node.parameters), *node.attrs.get("reads", ())}
        if any(name in parameters and name.rpartition(".")[0] != node.module for name in read):
            inside = node.module.split(".")
            names |= {".".join(inside[:depth]) for depth in range(len(inside) + 1)}
    return names


def _place_activation(edits: _Edits, traced: TorchTrace, site: Site, steps: tuple[Step, ...]) -> None:
    call = traced.calls.get(site.node)
    if call is None:
        raise ValueError(f"{site}: the model has no such operator")
    target = edits[call.container]
    if call.function is None:
        whole = target.whole
        if traced.graph[site.node].op == OUTPUT:
            whole.outputs.append((call.inputs[0].item, steps))
        else:
            whole.inputs.append((call.inputs[0], steps))
        return
    if not call.whole_module:
        target.program = traced.programs[call.container]
    where = target.whole if call.whole_module else _call_edits(target.functions, traced.totals, call)
    if site.port is None:
        if call.output is None:
            raise ValueError(f"{site}: {_UNPLACEABLE}")
        where.outputs.append((call.output, steps))
    else:
        if site.port not in call.inputs:
            raise ValueError(f"{site}: {_UNPLACEABLE if site.port == 0 else 'the operator has no such input'}")
        where.inputs.append((call.inputs[site.port], steps))


_UNPLACEABLE = (
    "cannot be transformed, because it is not one tensor that is passed on "
    "(an operator with several results, or one that writes in place and whose result is not used)"
)


def _call_edits(functions: list[FunctionEdits], totals: Mapping[tuple[str, Callable[..., Any]], int], call: Call) -> CallEdits:
    entry = next((e for e in functions if e.function == call.function), None)
    if entry is None:
        assert call.function is not None
        entry = FunctionEdits(call.function, totals[call.container, call.function])
        functions.append(entry)
    return entry.calls.setdefault(call.index, CallEdits())
