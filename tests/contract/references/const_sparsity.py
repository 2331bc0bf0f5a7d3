from __future__ import annotations

from typing import Any

from tests.contract.references.reference import AlgorithmReference, masked


def _begins(net: Any, algorithm: Any, epoch: int, step: int | None) -> None:
    for (role, kind), variables in net.variables.items():
        if kind == "mask" and epoch < 0:
            variables["mask"] = net.weights[role] != 0


def _vjp(transform: Any, x: Any, variables: Any, g: Any) -> Any:
    return g * variables["mask"], {}


REFERENCE = AlgorithmReference(begins=_begins, forwards={"mask": masked}, vjps={"mask": _vjp})
