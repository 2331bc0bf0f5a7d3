"""A model without the channels that were pruned, its quantizers as they are in the model with all channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nncf_ext.adapter import Adapter, Attached
from nncf_ext.channels.removal import variables_left
from nncf_ext.edits import QUANTIZE, Plan, Removal
from nncf_ext.graph import Graph


def without_channels(
    adapter: Adapter, attached: Attached, graph: Graph, example: Any, removals: Sequence[Removal], do_copy: bool
) -> tuple[Attached, Graph]:
    """The compressed model, or a copy, smaller and with its quantizers alone; and its graph. graph: of the model as it is."""
    edits = [edit for edit in attached.plan if edit.transform.stage == QUANTIZE]
    values = {e.key: {n: adapter.to_numpy(v) for n, v in attached.variables(e).items()} for e in edits}
    enabled = {edit.key: attached.enabled(edit) for edit in edits}
    plain = adapter.strip(attached.model, do_copy)
    model = adapter.remove_channels(plain, removals, adapter.trace(plain, example))
    traced = adapter.trace(model, example)
    left = {e.key: variables_left(e, values[e.key], graph, traced.graph, removals) for e in edits}
    smaller = adapter.apply(model, traced, Plan(tuple(edits)), left)
    for edit in edits:
        smaller.set_enabled(edit, enabled[edit.key])
    return smaller, traced.graph
