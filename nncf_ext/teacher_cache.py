"""A teacher's answers in a file: it runs once over the data, and training reads what it said.

A sample is known by a hash of its inputs, so data may come in any order and batches, through any loader, in Keras' `fit` too; an
augmented sample is another sample. Of an answer the `top_k` largest probabilities are kept, softmax of the logits over the
temperature, and the sum of the others: see `distillation.cached_cross_entropy` for what the loss makes of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from nncf_ext import reference
from nncf_ext.adapter import Adapter
from nncf_ext.config.errors import ConfigError
from nncf_ext.files.writing import replacing

FORMAT = 1
_HEADER = "nncf_ext_teacher"
_PARTS = ("indices", "probabilities", "rest")


@dataclass(frozen=True)
class CachedAnswer:
    """Of one output of the teacher for a batch: class numbers and probabilities (..., top_k), the largest first, and the
    probability of all other classes together (...). shape: of the output."""

    indices: Any
    probabilities: Any
    rest: Any
    shape: tuple[int | None, ...]


class TeacherCache:
    """Stands in for a teacher. The file, which `controller.cache_teacher` wrote, is mapped into memory, not read into it.

    temperature: of the probabilities. shapes: of the teacher's outputs for one sample.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """FileNotFoundError, or ConfigError for a file that is no teacher's cache."""
        self.path = Path(path)
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(length) if length < 2**24 else b"")
                about = json.loads(header.pop("__metadata__")[_HEADER])
            except (ValueError, KeyError, UnicodeDecodeError):
                raise ConfigError(f"{path} is no teacher's cache: controller.cache_teacher writes one") from None
        if about["format"] != FORMAT:
            raise ConfigError(f"{path} has cache format {about['format']}, expected {FORMAT}")
        self.temperature = float(about["temperature"])
        self.shapes = tuple(tuple(shape) for shape in about["shapes"])
        self._arrays = {name: self._mapped(8 + length, item) for name, item in header.items()}
        self._keys = np.array(self._arrays["keys"])

    def _mapped(self, start: int, item: Mapping[str, Any]) -> np.ndarray:
        dtype = {"U64": np.uint64, "I32": np.int32, "F32": np.float32}[item["dtype"]]
        return np.memmap(self.path, dtype, "r", start + item["data_offsets"][0], tuple(item["shape"]))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._keys)

    def rows(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """For a batch of inputs: class numbers, probabilities and rest of each output. ConfigError for an unknown sample."""
        keys = keys_of(inputs)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        unknown = np.flatnonzero(self._keys[at] != keys)
        if len(unknown):
            raise ConfigError(
                f"{self.path}: the cache has no answer for {len(unknown)} of {len(keys)} samples, number {unknown[0]} for one: "
                "it knows samples by their inputs, which must be as they were, without augmentation"
            )
        return tuple(np.asarray(self._arrays[f"{i}.{part}"][at]) for i in range(len(self.shapes)) for part in _PARTS)

    def answering(self, adapter: Adapter, model: Any) -> Callable[[Any], list[CachedAnswer]]:
        """The function from a batch, as `Adapter.tap` gives it, to the answers of the outputs."""
        like = [
            (tuple(self._arrays[f"{i}.{part}"].shape[1:]), self._arrays[f"{i}.{part}"].dtype.name)
            for i in range(len(self.shapes))
            for part in _PARTS
        ]

        def answer(inputs: Any) -> list[CachedAnswer]:
            given = adapter.inputs(model, inputs)
            found = adapter.on_host(self.rows, [given[name] for name in sorted(given)], like)
            triples = [found[i : i + 3] for i in range(0, len(found), 3)]
            return [CachedAnswer(p[0], p[1], p[2], (None, *shape)) for p, shape in zip(triples, self.shapes, strict=True)]

        return answer


def keys_of(inputs: Sequence[np.ndarray]) -> np.ndarray:
    """For each sample of a batch 64 bits of a hash of its values: floats as float32, other numbers as int64."""
    arrays = [np.asarray(a) for a in inputs]
    size = next((len(a) for a in arrays if a.ndim), 1)
    plain = [np.ascontiguousarray(a, np.float32 if np.issubdtype(a.dtype, np.floating) else np.int64) for a in arrays]
    whole = [a.shape[:1] != (size,) for a in plain]  # an argument that is not of one sample each

    def key(i: int) -> int:
        digest = blake2b(digest_size=8)
        for array, is_whole in zip(plain, whole, strict=True):
            digest.update((array if is_whole else array[i]).tobytes())
        return int.from_bytes(digest.digest(), "little")

    return np.array([key(i) for i in range(size)], np.uint64)


def write_cache(
    path: str | os.PathLike[str], adapter: Adapter, teacher: Any, batches: Iterable[Any], top_k: int, temperature: float
) -> None:
    """Run `teacher` once over `batches` (model inputs) and write its answers. ConfigError where these are no class scores.

    A sample that comes twice is kept once. Held in memory until it is written: `top_k` numbers a position, not all classes.
    """
    keys: list[np.ndarray] = []
    parts: list[list[np.ndarray]] = []
    shapes: list[tuple[int, ...]] = []
    for batch in batches:
        given = adapter.inputs(teacher, batch)
        keys.append(keys_of([adapter.to_numpy(given[name]) for name in sorted(given)]))
        outputs = [adapter.to_numpy(output) for output in adapter.flatten(adapter.infer(teacher, batch))]
        now = [output.shape[1:] for output in outputs]
        if any(len(shape) not in (1, 2) or not 1 <= top_k <= shape[-1] for shape in now):
            raise ConfigError(f"cache_teacher: found outputs of shapes {now} per sample, expected class scores, {top_k} or more")
        if shapes and now != shapes:
            raise ConfigError(f"cache_teacher: found outputs of shapes {now} after {shapes}: pad sequences to one length")
        shapes = now
        parts.append([part for output in outputs for part in top_of(output, top_k, temperature)])
    if not keys:
        raise ConfigError("cache_teacher: the data gave no batch")
    unique, first = np.unique(np.concatenate(keys), return_index=True)
    tensors = {"keys": unique}
    for number, pieces in enumerate(zip(*parts, strict=True)):
        tensors[f"{number // 3}.{_PARTS[number % 3]}"] = np.concatenate(pieces)[first]
    about = {"format": FORMAT, "temperature": temperature, "shapes": shapes}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={_HEADER: json.dumps(about)}))


def top_of(logits: np.ndarray, top_k: int, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class numbers and probabilities of the `top_k` likeliest classes, and the sum of the others: added up, not 1 less a sum, so
    that a small one is exact."""
    p = reference.softmax(logits.astype(np.float64) / temperature)
    indices = np.argsort(-p, axis=-1, kind="stable")[..., :top_k]
    probabilities = np.take_along_axis(p, indices, -1)
    np.put_along_axis(p, indices, 0, -1)
    return indices.astype(np.int32), probabilities.astype(np.float32), p.sum(-1).astype(np.float32)
