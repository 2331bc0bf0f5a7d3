"""A plan that lives in a torch model."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nncf_ext.adapter import Values
from nncf_ext.edits import Edit, Plan, Var
from nncf_ext.graph import Site
from nncf_ext.quantization.quantizers.fixed import fixed
from nncf_ext_torch import xp
from nncf_ext_torch.computed_weights import computed_in, raw
from nncf_ext_torch.followers import Follower
from nncf_ext_torch.framework_operators import is_exporting, operators_of
from nncf_ext_torch.function_mode import Step
from nncf_ext_torch.module_classes import EDITS, edited_modules, in_own_class, install, uninstall
from nncf_ext_torch.optimizer_hook import TorchOptimizerHook
from nncf_ext_torch.sharding import overwrite, to_numpy, whole
from nncf_ext_torch.sites import module_edits, parameter_name
from nncf_ext_torch.taps import remove_tap
from nncf_ext_torch.torch_private import Dropout, without_function_modes
from nncf_ext_torch.trace import TorchTrace

PREFIX = "nncf_ext_"  # of the transforms' variables, which are parameters and buffers of the module that is edited


class Variables(Mapping[str, torch.Tensor]):
    """An edit's variables, looked up in the module that owns them: that may replace its buffers at any time (`model.to`).

    prefix: how the names of its attributes begin.
    """

    def __init__(self, owner: nn.Module, prefix: str, names: Iterable[str]) -> None:
        self.owner = owner
        self.prefix = prefix
        self.attributes = {name: f"{prefix}_{name}" for name in names}

    def __getitem__(self, name: str) -> torch.Tensor:
        return getattr(self.owner, self.attributes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.attributes)

    def __len__(self) -> int:
        return len(self.attributes)

    def delete(self) -> None:
        for attribute in self.attributes.values():
            if hasattr(self.owner, attribute):
                delattr(self.owner, attribute)


class Applied:
    """One edit at work: a step of `module_classes`. All its sites share this object.

    stand_in: what is called instead where it is set (`export_model` puts a marker there). follower: of a copy that has no
    controller.
    """

    def __init__(self, edit: Edit, variables: Variables) -> None:
        self.edit = edit
        self.variables = variables
        self.enabled = True
        self.stand_in: Step | None = None
        self.follower: Follower | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "follower": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Applied:
        self.follow()
        copied = memo[id(self)] = Applied.__new__(Applied)
        vars(copied).update(copy.deepcopy(self.__getstate__(), memo))
        if self.follower is None:
            copied.follower = Follower(self, copied.variables)
        else:
            copied.follower = self.follower.copied(copied.variables)
        return copied

    def follow(self) -> None:
        """Of an averaged copy of the model: have its masks be the model's."""
        if self.follower is not None:
            self.follower.follow()

    def accept_written(self) -> None:
        """Of a copy: what was written into it until now is no average."""
        if self.follower is not None:
            self.follower.accept_written()

    def __call__(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        if self.follower is not None and not torch.compiler.is_compiling():
            if training and torch.is_grad_enabled():
                self.follower = None  # it is trained by itself
            else:
                self.follow()
        if not self.enabled:
            return x
        if self.stand_in is not None:
            return self.stand_in(x, training)
        with without_function_modes():  # a function mode around must not take these for the model's operators
            y = operators_of(self.edit, x, self.variables) if is_exporting() else self.edit.apply(xp, x, self.variables, training)
            return y if y.dtype == x.dtype else y.to(x.dtype)


class TorchAttached:
    """Implements `nncf_ext.adapter.Attached`. A deepcopy of it has a copy of the model."""

    def __init__(self, model: nn.Module, plan: Plan, traced: TorchTrace, applied: dict[str, Applied]) -> None:
        self.model = model
        self.plan = plan
        self.traced = traced
        self._applied = applied
        self._optimizer_hook: TorchOptimizerHook | None = None
        names = {site: parameter_name(traced, site) for edit in plan for site in edit.sites if site.is_parameter}
        self._parameters = {site: _split(model, name) for site, name in names.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for applied in self._applied.values():
            applied.follower = None

    def variables(self, edit: Edit) -> Mapping[str, torch.Tensor]:
        return {name: whole(variable) for name, variable in self._of(edit).variables.items()}

    def tensor_names(self, edit: Edit) -> Mapping[str, str]:
        variables = self._of(edit).variables
        owner = next(name for name, module in self.model.named_modules() if module is variables.owner)
        return {name: f"{owner}.{attribute}".lstrip(".") for name, attribute in variables.attributes.items()}

    def parameter_names(self, edit: Edit) -> list[str]:
        held = [self._parameters[site] for site in edit.sites if site.is_parameter]
        ours = {id(module._parameters[name]) for module, name in held if name in module._parameters}
        made = [parameter_name(self.traced, s) for s in edit.sites if s.is_parameter and self._is_computed(s)]  # once stripped
        return [name for name, p in self.model.named_parameters(remove_duplicate=False) if id(p) in ours] + made

    def assign(self, edit: Edit, name: str, value: Any) -> None:
        variable = self._of(edit).variables[name]
        value = torch.as_tensor(value, device=variable.device)
        if value.shape != variable.shape:
            raise ValueError(f"{edit.key} {name}: found shape {tuple(value.shape)}, expected {tuple(variable.shape)}")
        overwrite(variable, value)

    def parameter(self, site: Site) -> torch.Tensor:
        return whole(raw(*self._parameters[site]))

    def owner(self, site: Site) -> nn.Module:
        return self._parameters[site][0]

    def set_enabled(self, edit: Edit, enabled: bool) -> None:
        self._of(edit).enabled = enabled

    def enabled(self, edit: Edit) -> bool:
        return self._of(edit).enabled

    def dropout(self) -> Mapping[str, float]:
        return {node: layer.p for node, layer in self._dropout_layers().items()}

    def set_dropout(self, node: str, rate: float) -> None:
        self._dropout_layers()[node].p = rate

    def _dropout_layers(self) -> dict[str, Any]:
        called = {node: self.model.get_submodule(c.container) for node, c in self.traced.calls.items() if c.whole_module}
        return {node: layer for node, layer in called.items() if isinstance(layer, Dropout)}

    def detach(self) -> None:
        self.optimizer_hook.end()
        detach(self.model)
        self._applied.clear()

    def _raw(self, site: Site) -> torch.nn.Parameter:
        module, name = self._parameters[site]
        if self._is_computed(site):
            raise ValueError(f"{site}: expected a parameter, found a weight that {type(module).__name__} computes")
        value = module._parameters[name]
        assert value is not None
        return value

    def _is_computed(self, site: Site) -> bool:
        module, name = self._parameters[site]
        return name not in module._parameters

    @property
    def optimizer_hook(self) -> TorchOptimizerHook:
        if self._optimizer_hook is None:
            self._optimizer_hook = TorchOptimizerHook(self._applied, self._raw)
        return self._optimizer_hook

    def _of(self, edit: Edit) -> Applied:
        if edit.key not in self._applied:
            raise ValueError(f"{edit.key} is not in this model: it was stripped, or the edit is of another plan")
        return self._applied[edit.key]


def apply(model: nn.Module, traced: TorchTrace, plan: Plan, values: Values) -> TorchAttached:
    """Place `plan` in `model`, in place; `values` are the first values of the variables, by edit key.

    Raises ValueError where the model is compressed already or a site cannot be placed; the model is then as it was.
    """
    refuse_compressed(model)
    applied: dict[str, Applied] = {}
    steps: dict[Site, list[Applied]] = {}
    by_parameter: dict[tuple[str, str], str] = {}
    variables: list[tuple[Variables, Mapping[str, Var]]] = []
    for edit in plan:
        if edit.key in applied:
            raise ValueError(f"{edit.key}: found twice in the plan, expected once")
        owner, prefix = _owner(model, traced, edit)
        first = values.get(edit.key, {})
        applied[edit.key] = Applied(edit, Variables(owner, f"{prefix}_{edit.transform.kind}", first))
        taken = [name for name in applied[edit.key].variables.attributes.values() if hasattr(owner, name)]
        if taken:
            raise ValueError(f"{edit.key}: its variable {taken[0]} would hide an attribute of {type(owner).__name__}")
        variables.append((applied[edit.key].variables, first))
        for site in edit.sites:
            steps.setdefault(site, []).append(applied[edit.key])
            if site.is_parameter:
                name = parameter_name(traced, site)
                other = by_parameter.setdefault((name, edit.transform.kind), edit.key)
                if other != edit.key:
                    raise ValueError(f"{name} is shared by {other} and {edit.key}: expected one {edit.transform.kind} for both")
    edits = module_edits(model, traced, {site: tuple(chain) for site, chain in steps.items()})
    attached = TorchAttached(model, plan, traced, applied)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        for target, first in variables:
            for name, var in first.items():
                _register(target.owner, target.attributes[name], var, device)
        install(model, edits)
    except BaseException:
        for target, _ in variables:
            target.delete()
        raise
    return attached


def refuse_compressed(model: nn.Module) -> None:
    """ValueError for a model that is compressed already."""
    if any(True for _ in edited_modules(model)):
        raise ValueError(
            f"{type(model).__name__} is compressed already, or was stripped with its quantizers: strip it with quantizers=False "
            "first, or compress an uncompressed copy"
        )


def strip(model: nn.Module, quantizers: bool = False) -> None:
    """Make a compressed model plain again: parameters become what their transforms make of them in inference, all else goes.

    quantizers: what `nncf_ext.quantization.quantizers.fixed` says of the quantizers stays.
    """
    make_plain(model)
    baked: dict[int, tuple[nn.Parameter, torch.Tensor]] = {}
    with torch.no_grad():
        for module, edits in edited_modules(model):
            for name, steps in edits.parameters.items():
                parameter = module._parameters[name]
                assert parameter is not None
                value: torch.Tensor = parameter
                for step in steps:
                    value = step(value, False)
                baked[id(parameter)] = (parameter, value)
        for parameter, value in baked.values():
            parameter.copy_(value)
    if quantizers:
        _fix_quantizers(model)
    else:
        detach(model)


def make_plain(model: nn.Module) -> None:
    """Have every weight that a layer computes be a parameter with the value that it has in inference, in place."""
    found = list(computed_in(model).values())
    with torch.no_grad():
        values = [nn.Parameter(how.value(module).clone(), how.is_trained(module)) for module, _, how in found]
    for module, _, how in found:
        with in_own_class(module):
            how.plain(module)
    for (module, name, _), value in zip(found, values, strict=True):
        vars(module).pop(name, None)
        module._parameters[name] = value


def _fix_quantizers(model: nn.Module) -> None:
    """In place of every edit what a stripped model keeps of it, in the same places."""
    kept: dict[Step, Applied] = {}
    for step in applied_in(model):
        with torch.no_grad():
            found = fixed(step.edit, xp, {n: whole(v) for n, v in step.variables.items()}, to_numpy) if step.enabled else None
        owner, prefix = step.variables.owner, step.variables.prefix
        device = next((v.device for v in (*step.variables.values(), *owner.parameters(), *model.parameters())), None)
        step.variables.delete()
        if found is not None:
            edit, values = found
            prefix = f"{prefix.removesuffix(step.edit.transform.kind)}{edit.transform.kind}"
            kept[step] = Applied(edit, Variables(owner, prefix, values))
            for name, var in values.items():
                _register(owner, kept[step].variables.attributes[name], var, device or torch.device("cpu"))
    modules = [(name, vars(module)[EDITS]) for name, module in model.named_modules() if EDITS in vars(module)]
    edits = {name: edits.with_steps(kept) for name, edits in modules} if kept else {}
    uninstall(model)
    remove_tap(model)
    install(model, edits)


def detach(model: nn.Module) -> None:
    """Take everything out that `apply` put into the model; its parameters stay as they are."""
    applied = applied_in(model)
    uninstall(model)
    for step in applied:
        step.variables.delete()
    remove_tap(model)


def accept_written(model: nn.Module) -> None:
    """Somebody wrote values into the whole model that belong together."""
    for applied in applied_in(model):
        applied.accept_written()


def applied_in(model: nn.Module) -> list[Applied]:
    """The edits at work in a compressed model, each once."""
    found = {id(step): step for _, edits in edited_modules(model) for step in edits.steps() if isinstance(step, Applied)}
    return list(found.values())


def _owner(model: nn.Module, traced: TorchTrace, edit: Edit) -> tuple[nn.Module, str]:
    """The module that owns an edit's variables, and how their names begin there."""
    site = edit.site
    if site.is_parameter:
        module, name = _split(model, parameter_name(traced, site))
        return module, f"{PREFIX}{name}"
    call = traced.calls.get(site.node)
    if call is None:
        raise ValueError(f"{site}: the model has no such operator")
    where = site.slot
    if not call.whole_module:
        where = f"{site.node.split('/')[-1]}_{where}" if call.container == traced.graph[site.node].module else f"{site}"
    elif call.function is None:
        where = f"{site.node.removeprefix('/nncf_model_')}"
    return model.get_submodule(call.container), PREFIX + re.sub(r"\W+", "_", where)


def _split(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    owner, _, name = parameter.rpartition(".")
    return model.get_submodule(owner), name


def _register(owner: nn.Module, attribute: str, var: Var, device: torch.device) -> None:
    value = np.asarray(var.value)
    tensor = torch.tensor(value, dtype=torch.float32 if value.dtype == np.float64 else None, device=device)
    if var.trainable:
        owner.register_parameter(attribute, nn.Parameter(tensor))
    else:
        owner.register_buffer(attribute, tensor)
