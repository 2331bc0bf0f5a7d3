"""What a config asks of single quantizers: overrides by scope, shared ranges, first ranges, and whether the device has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nncf_ext.config.initialization import PerLayerRangeInit, RangeInit
from nncf_ext.config.quantization import QuantizationSettings, ScopeOverride, ScopeOverrides
from nncf_ext.config.section import ScopedConfig
from nncf_ext.errors import ConfigError, as_json
from nncf_ext.graph import INPUT, Graph
from nncf_ext.quantization.names import PlacedQuantizer, by_operator, by_place, is_of_place, precedence, select_quantizers
from nncf_ext.quantization.nncf_rules import ANYTHING, Constraints, allowed
from nncf_ext.quantization.placement import Placement
from nncf_ext.quantization.staged import group_of
from nncf_ext.scopes import matched_by

_BLAMED = ("bits", "mode", "per_channel")


def of_operators(graph: Graph, overrides: Mapping[str, ScopeOverride]) -> dict[str, Constraints]:
    """What overrides of activations ask of the quantizers of whatever a node reads, by the node's name."""
    names = [node.name for node in graph.nodes if node.op != INPUT]
    found: dict[str, Constraints] = {}
    for pattern in sorted(overrides, key=precedence):
        if not is_of_place(pattern):
            for name in matched_by(pattern, names, "", validate=False):
                found[name] = found.get(name, ANYTHING).updated(_constraints(overrides[pattern]))
    return found


def overridden(
    graph: Graph, placements: Sequence[Placement], overrides: ScopeOverrides, json_path: str, validate: bool
) -> tuple[Placement, ...]:
    """The placements as the overrides want them; `of_operators` is taken as done. ConfigError for a scope without a quantizer."""
    result = dict(enumerate(placements))
    for group in ("weights", "activations"):
        of_group: Mapping[str, ScopeOverride] = getattr(overrides, group)
        names = {key: by_operator(graph, p) for key, p in result.items() if group_of(p.sites[0]) == group}
        for pattern in sorted(of_group, key=precedence):
            path = f"{json_path}.scope_overrides.{group}"
            asked = _constraints(of_group[pattern])
            for key in select_quantizers(pattern, names, path, validate, f"quantizer of {group}"):
                already_done = group == "activations" and not is_of_place(pattern) and not _reads_input(graph, result[key])
                if not already_done:
                    result[key] = replace(result[key], spec=result[key].spec.constrained(asked))
    return tuple(result.values())


@dataclass(frozen=True)
class QuantizerRequest:
    """What a config asks of one quantizer, by key, and where in the entry of the algorithm it says so."""

    asked: Mapping[str, tuple[Any, str]]

    def value(self, key: str, default: Any = None) -> Any:
        return self.asked[key][0] if key in self.asked else default

    def json_path(self, key: str) -> str:
        return self.asked[key][1]


def request_of(
    graph: Graph, placement: Placement, settings: QuantizationSettings, overrides: Mapping[str, ScopeOverride], json_path: str
) -> QuantizerRequest:
    """What is asked of the quantizer of a placement: of its group, and of the scopes it is in."""
    group = group_of(placement.sites[0])
    own = settings.model_fields_set - set(ScopedConfig.model_fields) - {"unified_scale_ops"}
    asked = {key: (getattr(settings, key), f"{json_path}.{group}.{key}") for key in own}
    names = {"": by_operator(graph, placement)}
    for pattern in sorted(overrides, key=precedence):
        if select_quantizers(pattern, names, "", validate=False):
            override = overrides[pattern]
            if getattr(override, "quantizer", None) is not None:  # another quantizer has settings of its own
                asked = {key: value for key, value in asked.items() if key not in ("levels", "group_size")}
            for key in override.model_fields_set - {"initializer"}:
                asked[key] = getattr(override, key), f"{json_path}.scope_overrides.{group}[{as_json(pattern)}].{key}"
    return QuantizerRequest({key: (value, path) for key, (value, path) in asked.items() if value is not None})


def unified(
    graph: Graph, placements: Sequence[Placement], groups: Sequence[Sequence[str]], json_path: str, validate: bool
) -> tuple[Placement, ...]:
    """The placements with one activation quantizer for each of `groups` (scopes).

    ConfigError for a scope without a quantizer, for groups that overlap, and where one range cannot serve: other settings, or
    tensors of other ranks (per channel: of other shapes).
    """
    owner: dict[int, int] = {}
    names = {key: by_operator(graph, p) for key, p in enumerate(placements) if not p.of_weight}
    for index, group in enumerate(groups):
        path = f"{json_path}.activations.unified_scale_ops[{index}]"
        members = {
            key for pattern in group for key in select_quantizers(pattern, names, path, validate, "quantizer of activations")
        }
        for key in sorted(members):
            if owner.setdefault(key, index) != index:
                raise ConfigError(
                    f"{path}: {placements[key].sites[0]} is in group {owner[key]} too, expected groups that do not overlap"
                )
        _check_one_range_serves(graph, [placements[key] for key in sorted(members)], path)
    merged: dict[object, Placement] = {}
    for key, placement in enumerate(placements):
        first = merged.setdefault(("group", owner[key]) if key in owner else key, placement)
        if first is not placement:
            operators = tuple(dict.fromkeys((*first.operators, *placement.operators)))
            merged[("group", owner[key])] = replace(first, sites=(*first.sites, *placement.sites), operators=operators)
    return tuple(merged.values())


def range_inits(
    quantizers: Mapping[str, PlacedQuantizer],
    graph: Graph,
    general: RangeInit | Sequence[PerLayerRangeInit],
    overrides: ScopeOverrides,
    json_path: str,
    validate: bool,
) -> dict[str, RangeInit]:
    """How each quantizer's range starts. ConfigError where none or two of the array's entries are about one of them."""
    found: dict[str, RangeInit] = {}
    for group in ("weights", "activations"):
        ours = {key: q for key, q in quantizers.items() if group_of(q.sites[0]) == group}
        names = {key: by_operator(graph, quantizer) for key, quantizer in ours.items()}
        of_group: Mapping[str, ScopeOverride] = getattr(overrides, group)
        for pattern in sorted(of_group, key=precedence):
            own = of_group[pattern].initializer.range
            if own is not None:
                found.update(dict.fromkeys(select_quantizers(pattern, names, "", validate=False), own))
    if isinstance(general, RangeInit):
        return {key: found.get(key, general) for key in quantizers}
    entries = [
        _quantizers_of(entry, quantizers, f"{json_path}.initializer.range[{i}]", validate) for i, entry in enumerate(general)
    ]
    for key, quantizer in quantizers.items():
        about = [index for index, keys in enumerate(entries) if key in keys]
        if key not in found:
            if len(about) != 1:
                raise ConfigError(
                    f"{json_path}.initializer.range: "
                    f"{f'entries {about[0]} and {about[1]} are both' if about else 'no entry is'} about {quantizer.sites[0]}, "
                    "expected one entry for every quantizer"
                )
            found[key] = general[about[0]]
    return found


def check_device(
    graph: Graph,
    placements: Sequence[Placement],
    target_device: str,
    overrides: ScopeOverrides,
    json_path: str,
) -> None:
    """ConfigError where the table of the target device does not have what is asked for. ANY and TRIAL have everything."""
    tables = {group: allowed(graph, target_device, group == "weights") for group in ("weights", "activations")}
    for placement in placements:
        group, spec = group_of(placement.sites[0]), placement.spec
        wanted = (spec.bits, spec.mode, spec.per_channel)
        for name in placement.operators:
            has = tables[group].get(name)
            if has is None or wanted in has:
                continue
            position = next((i for i in range(3) if wanted[i] not in {each[i] for each in has}), None)
            if position is None:
                found, expected = " ".join(map(as_json, wanted)), sorted(f"{b} {m} {as_json(c)}" for b, m, c in has if b <= 8)
                key = f"{group}: found bits, mode, per_channel"
            else:
                found, expected = as_json(wanted[position]), sorted({as_json(each[position]) for each in has if each[0] <= 8})
                key = f"{_path(graph, placement, group, _BLAMED[position], overrides)}: found"
            raise ConfigError(
                f"{json_path}.{key} {found} for {placement.sites[0]}, but {graph[name].op} on {target_device} takes "
                f"{' or '.join(expected)} (ANY takes what comes)"
            )


def _constraints(override: ScopeOverride) -> Constraints:
    return Constraints(override.mode, override.bits, override.signed, override.per_channel)


def _reads_input(graph: Graph, placement: Placement) -> bool:
    return any(graph[site.node].op == INPUT for site in placement.sites)


def _check_one_range_serves(graph: Graph, members: Sequence[Placement], path: str) -> None:
    for other in members[1:]:
        first = members[0]
        if other.spec != first.spec:
            raise ConfigError(f"{path}: {first.sites[0]} has {first.spec} and {other.sites[0]} {other.spec}, expected the same")
        shapes = [graph.shape_of(placement.sites[0]) for placement in (first, other)]
        if len(shapes[0]) != len(shapes[1]) or (first.spec.per_channel and shapes[0] != shapes[1]):
            raise ConfigError(
                f"{path}: {first.sites[0]} has shape {shapes[0]} and {other.sites[0]} {shapes[1]}, "
                f"expected {'the same' if first.spec.per_channel else 'as many axes'}"
            )


def _quantizers_of(entry: PerLayerRangeInit, quantizers: Mapping[str, PlacedQuantizer], path: str, validate: bool) -> set[str]:
    """The quantizers that an entry is about."""
    names = {
        key: by_place(quantizer)
        for key, quantizer in quantizers.items()
        if entry.target_quantizer_group in (None, group_of(quantizer.sites[0]))
    }

    def matched(patterns: Iterable[str], key: str) -> set[str]:
        return {each for pattern in patterns for each in select_quantizers(pattern, names, f"{path}.{key}", validate)}

    target = set(names) if entry.target_scopes is None else matched(entry.target_scopes, "target_scopes")
    return target - matched(entry.ignored_scopes or (), "ignored_scopes")


def _path(graph: Graph, placement: Placement, group: str, key: str, overrides: ScopeOverrides) -> str:
    """Where in the entry the value of `key` comes from."""
    of_group: Mapping[str, ScopeOverride] = getattr(overrides, group)
    names: Mapping[str, Collection[str]] = {"": by_operator(graph, placement)}
    for pattern in sorted(of_group, key=precedence, reverse=True):
        if getattr(of_group[pattern], key) is not None and select_quantizers(pattern, names, "", validate=False):
            return f"scope_overrides.{group}[{as_json(pattern)}].{key}"
    return f"{group}.{key}"
