"""Mean second derivatives of weights from a file. Never a pickle that could run code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nncf_ext.config import ConfigError

_TORCH = (".pt", ".pth", "")  # NNCF 2.x's own dump has no suffix


def read_traces(path: Path, names: Sequence[str], read_tensor: Callable[[Path], np.ndarray], where: str) -> np.ndarray:
    """One number for each of `names`: by name where the file has names, else in their order.

    read_tensor: the framework's reader of its own files. ConfigError where the file is not there or does not fit.
    """
    if not path.is_file():
        raise ConfigError(f"{where}: {path} is not there")
    try:
        found = _read(path, read_tensor)
        if isinstance(found, dict):
            missing = [name for name in names if name not in found]
            if missing:
                raise ValueError(f"it has nothing for {missing[0]}")
            found = [found[name] for name in names]
        traces = np.asarray(found, np.float64).reshape(-1)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"{where}: {path} cannot be used: {error}") from None
    if len(traces) != len(names):
        raise ConfigError(f"{where}: {path} has {len(traces)} numbers, expected one for each of {len(names)} quantized weights")
    if not np.isfinite(traces).all():
        raise ConfigError(f"{where}: {path} has numbers that are not finite")
    return traces


def _read(path: Path, read_tensor: Callable[[Path], np.ndarray]) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        return data.get("traces", data) if isinstance(data, dict) else data
    if suffix == ".safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(path)
        return next(iter(tensors.values())) if len(tensors) == 1 else tensors
    if suffix in _TORCH:
        return read_tensor(path)
    raise ValueError(f"found a {suffix} file, expected .npy, .safetensors, .json, .pt or .pth")
