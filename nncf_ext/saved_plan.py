"""Plans out of files: the JSON that `Plan.to_json` wrote, read against the transforms that the algorithms have."""

from __future__ import annotations

import re
from typing import Any

from nncf_ext.algorithms import ALGORITHMS
from nncf_ext.checkpoint import CheckpointError, SavedPlan
from nncf_ext.edits import Edit, Plan
from nncf_ext.errors import as_json
from nncf_ext.files.json_text import Unreadable, refused_as
from nncf_ext.files.schema import expect
from nncf_ext.graph import Site


def plan_from_json(data: Any) -> Plan:
    """The plan that `Plan.to_json` wrote. CheckpointError where it is none, or has a transform that is not known."""
    with refused_as(CheckpointError, "the plan"):
        saved = expect(SavedPlan, data)
    edits: dict[str, Edit] = {}
    for item in saved.edits:
        known = {t.model_fields["kind"].default: t for t in getattr(ALGORITHMS.get(item.algorithm), "transforms", ())}
        kind = item.transform.get("kind")
        if not isinstance(kind, str) or kind not in known:
            raise CheckpointError(
                f"the plan has a transform {str(kind)[:60]!r} of {item.algorithm[:60]!r}, which this version does not know"
            )
        with refused_as(CheckpointError, f"the plan's {kind} at {item.sites[0]}"):
            transform = expect(known[kind], item.transform)
            sites = tuple(_site(text) for text in item.sites)
        edit = Edit(sites, transform, item.algorithm, item.lr_multiplier, tuple(item.operators))
        if edit.key in edits:
            raise CheckpointError(f"the plan has {edit.key} twice")
        edits[edit.key] = edit
    return Plan(tuple(edits.values()), tuple((name, reason) for name, reason in saved.skipped))


def _site(text: str) -> Site:
    site = Site.parse(text)
    if not site.node or not re.fullmatch(r"input:\d{1,6}|[^:]+", site.slot):
        raise Unreadable(f"found the site {as_json(text)}, expected node|slot")
    return site
