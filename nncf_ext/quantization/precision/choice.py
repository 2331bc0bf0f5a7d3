"""The way from a config's `initializer.precision` to the bits of each quantizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nncf_ext.channels.costs import flops
from nncf_ext.config.precision import PrecisionInit
from nncf_ext.edits import Edit, Plan
from nncf_ext.errors import ConfigError
from nncf_ext.graph import Graph
from nncf_ext.quantization.names import by_place, select_quantizers
from nncf_ext.quantization.nncf_rules import allowed
from nncf_ext.quantization.precision.adjacency import groups, operators_of
from nncf_ext.quantization.precision.assignment import Choices, Use

if TYPE_CHECKING:
    from nncf_ext.algorithm import PlanningContext


def choose_bits(
    settings: PrecisionInit,
    quantizers: tuple[Edit, ...],
    with_bits: Callable[[Mapping[str, int]], Plan],
    context: PlanningContext,
    json_path: str,
) -> dict[str, int]:
    """Edit key -> bits, of the quantizers whose bits `hawq` or `autoq` chooses; the others keep theirs.

    with_bits: the whole plan with those bits. where: JSON path of `settings`. ConfigError for what cannot be had.
    """
    operators = operators_of(quantizers)
    supported = supported_bits(context.graph, quantizers, operators, context.target_device)
    choices = choices_for(context.graph, quantizers, settings, operators, supported, json_path)
    if not choices.weights:
        raise ConfigError(f"{json_path}: found no quantized weight, expected some to choose bits for")
    to_choose_from = {bits for key in choices.weights for bits in choices.options[key]}
    if to_choose_from == {8} != set(settings.bits):
        raise ConfigError(f"{json_path}.bits: target_device {context.target_device} has 8 bits only, expected NPU, ANY or TRIAL")
    if settings.type == "hawq":
        from nncf_ext.quantization.precision.hawq import hawq

        return hawq(settings, choices, with_bits, context, json_path)
    from nncf_ext.quantization.precision.autoq import autoq

    return autoq(settings, choices, with_bits, context, json_path)


def manual_bits(settings: PrecisionInit, quantizers: Sequence[Edit], graph: Graph, device: str, json_path: str) -> dict[str, int]:
    """Edit key -> bits, as `settings` of the type `manual` say. ConfigError for what cannot be had."""
    supported = supported_bits(graph, quantizers, operators_of(quantizers), device)
    return bits_by_hand(settings.bitwidth_per_scope, quantizers, supported, device, json_path)


def supported_bits(
    graph: Graph, quantizers: Sequence[Edit], operators: Mapping[str, frozenset[str]], device: str
) -> dict[str, tuple[int, ...] | None]:
    """Edit key -> the bits that the device's table has for the quantizer as it is otherwise; None where it takes what comes."""
    tables = {of_weights: allowed(graph, device, of_weights) for of_weights in (True, False)}
    found: dict[str, tuple[int, ...] | None] = {}
    for edit in quantizers:
        transform: Any = edit.transform
        way = ("symmetric" if transform.symmetric else "asymmetric", transform.granularity != "per-tensor")
        table = tables[edit.site.is_parameter]
        known = [
            {bits for bits, *rest in table[node] if tuple(rest) == way and bits <= 8}
            for node in operators[edit.key]
            if node in table
        ]
        found[edit.key] = tuple(sorted(set.intersection(*known))) if known else None
    return found


def bits_by_hand(
    pairs: Sequence[tuple[int, str]],
    quantizers: Sequence[Edit],
    supported: Mapping[str, tuple[int, ...] | None],
    device: str,
    json_path: str,
) -> dict[str, int]:
    """Edit key -> bits, as `bitwidth_per_scope` says. ConfigError for a scope without a quantizer, or bits the device lacks."""
    names = {edit.key: by_place(edit) for edit in quantizers}
    chosen: dict[str, int] = {}
    for index, (bits, scope) in enumerate(pairs):
        path = f"{json_path}.bitwidth_per_scope[{index}]"
        for key in select_quantizers(scope, names, path):
            known = supported[key]
            if known is not None and bits not in known:
                raise ConfigError(
                    f"{path}: found {bits} bits for {key.rpartition('|')[0]}, which target_device {device} does not have there, "
                    f"expected {' or '.join(map(str, known))} (ANY takes what comes)"
                )
            chosen[key] = bits
    return chosen


def choices_for(
    graph: Graph,
    quantizers: tuple[Edit, ...],
    settings: PrecisionInit,
    operators: Mapping[str, frozenset[str]],
    supported: Mapping[str, tuple[int, ...] | None],
    json_path: str,
) -> Choices:
    """What may be chosen: of `settings.bits`, what the device has; the most that it has where that leaves nothing."""
    wanted = tuple(sorted(set(settings.bits)))
    options: dict[str, tuple[int, ...]] = {}
    for key, known in supported.items():
        options[key] = wanted if known is None else tuple(bits for bits in wanted if bits in known) or known[-1:]
    met = tuple((g.weights, g.activations) for g in groups(quantizers, operators) if g.weights)
    strict = settings.bitwidth_assignment_mode == "strict"
    for members in met if strict else ():
        keys = [key for part in members for key in part]
        common = tuple(bits for bits in options[keys[0]] if all(bits in options[key] for key in keys))
        if not common:
            raise ConfigError(
                f"{json_path}.bitwidth_assignment_mode: strict needs a number of bits that all quantizers around "
                f"{keys[0].rpartition('|')[0]} have, found {', '.join(sorted({str(list(options[key])) for key in keys}))}"
            )
        options.update(dict.fromkeys(keys, common))
    cost = flops(graph)
    activations = [edit.key for edit in quantizers if not edit.site.is_parameter]
    uses = {
        edit.key: tuple(
            Use(cost.get(site, 0), tuple(key for key in activations if site.node in operators[key])) for site in edit.sites
        )
        for edit in quantizers
        if edit.site.is_parameter
    }
    return Choices(options, met, uses, strict)
