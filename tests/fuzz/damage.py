"""Damage to bytes and to JSON data, drawn from a seeded generator."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

NUMBERS = [-1, 0, 1, 2, 255, 1 << 20, 1 << 40, 1 << 63, 10**30, 0.5, -0.5, 1e308]
TEXTS = ["", "x", "{re}(", "{re}a{99999999}", "\x00", "é" * 40]
ODD = [None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], {"a": {}}, [1, 2, 3]]
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


def damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to three flips, cuts, insertions, repetitions or overwritten numbers."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            found[at:at] = rng.randbytes(rng.randint(1, 9))
        elif kind == 3:
            found[at : at + 8] = rng.choice([0, 1, 255, 1 << 20, 1 << 40, (1 << 64) - 1]).to_bytes(8, "little")
        elif kind == 4:
            del found[at : at + rng.randint(1, 64)]
        else:
            found[at:at] = found[at : at + rng.randint(1, 64)]
    return bytes(found)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in JSON data."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


def damaged_data(rng: random.Random, value: Any, finite: bool = False) -> Any:
    """JSON data with one to three values replaced, left out, nested, doubled or under another key."""
    value = deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        at = places(value)
        if not at:
            return rng.choice(ODD)
        *path, key = rng.choice(at)
        parent = value
        for step in path:
            parent = parent[step]
        kind = rng.randrange(7)
        if kind <= 2:
            parent[key] = deepcopy(rng.choice(ODD if finite else ODD + NOT_FINITE))
        elif kind == 3:
            del parent[key]
        elif kind == 4:
            depth = rng.choice([1, 3, 30, 300])
            for _ in range(depth):
                parent[key] = [parent[key]]
            if depth == 300:  # Python itself copies no deeper ones
                return value
        elif kind == 5 and isinstance(parent, dict):
            parent[rng.choice(["", "x", "type", "params", f"{key}s"])] = deepcopy(parent[key])
        else:
            other = value
            for step in rng.choice(at):
                try:
                    other = other[step]
                except (KeyError, IndexError, TypeError):
                    break
            parent[key] = deepcopy(other)
    return value


def as_text(value: Any) -> bytes:
    """As JSON, with what JSON lacks (NaN) as Python writes it."""
    return json.dumps(value).encode()
