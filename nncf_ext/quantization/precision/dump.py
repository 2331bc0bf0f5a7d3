"""What a choice of bits was made from, as numbers and as a picture, in `log_dir`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nncf_ext.errors import ConfigError
from nncf_ext.files.writing import replacing, write_text


def can_draw(json_path: str) -> None:
    """ConfigError, before any work is done, where the picture cannot be made."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"{json_path}.dump_init_precision_data: matplotlib is not installed: pip install matplotlib")


def write(folder: Path, name: str, found: Mapping[str, Any], draw: Callable[[Any, Any], None], json_path: str) -> None:
    """`<name>_precision.json` and, drawn by `draw(axes, found)`, `<name>_precision.png`, in a folder that is made if need be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9), layout="constrained")
    draw(figure.subplots(3, 1), found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}_precision.json", json.dumps(found, indent=4) + "\n")
        with replacing(folder / f"{name}_precision.png") as path:
            figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"{json_path}.dump_init_precision_data: cannot write into log_dir {folder}: {error}") from None


def draw_hawq(axes: Any, found: Mapping[str, Any]) -> None:
    positions = range(len(found["traces"]))
    axes[0].bar(positions, list(found["traces"].values()))
    axes[0].set(title="mean second derivative of the loss", xlabel="weight, in execution order")
    for bits in sorted({bits for by_bits in found["perturbations"].values() for bits in by_bits}):
        sizes = [by_bits.get(bits, float("nan")) for by_bits in found["perturbations"].values()]
        axes[1].plot(positions, sizes, "o-", label=f"{bits} bits")
    axes[1].set(title="squared rounding error", xlabel="weight, in execution order", yscale="symlog")
    axes[1].legend()
    chosen = {name: bits for bits, name in found["bitwidth_per_scope"]}
    axes[2].bar(positions, [chosen[name] for name in found["traces"]])
    axes[2].set(title=f"bits chosen, at ratio {found['compression_ratio']:.3g}", xlabel="weight, in execution order")


def draw_autoq(axes: Any, found: Mapping[str, Any]) -> None:
    trials = found["trials"]
    axes[0].plot([trial["score"] for trial in trials], "o")
    axes[0].axhline(found["float_score"], color="gray", label="float model")
    axes[0].set(title="score", xlabel="model tried")
    axes[0].legend()
    axes[1].plot([trial["size_ratio"] for trial in trials], "o")
    axes[1].set(title="bits of the weights over those of 32-bit floats", xlabel="model tried")
    axes[2].bar(range(len(found["bitwidth_per_scope"])), [bits for bits, _ in found["bitwidth_per_scope"]])
    axes[2].set(title="bits chosen", xlabel="quantizer, in execution order")
