"""Where the schedules are, in the compression states that checkpoints of NNCF 2.x hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nncf_ext.nncf2.names import ALGORITHMS as FORMER_NAMES


def nncf2_schedules(state: Any) -> dict[str, Mapping[str, Any]] | None:
    """What NNCF 2.x saved of each algorithm's scheduler, in its compression or controller state; None where it is none."""
    saved = state.get("ctrl_state", state) if isinstance(state, Mapping) else None
    if not isinstance(saved, Mapping) or not saved:
        return None
    if not all(isinstance(part, Mapping) and isinstance(part.get("scheduler_state"), Mapping) for part in saved.values()):
        return None
    return {FORMER_NAMES.get(name) or name: part["scheduler_state"] for name, part in saved.items()}
