"""A teacher's answers in a file: it runs once over the data, and training reads what it said.

A sample is known by a hash of its inputs, so data may come in any order and batches, through any loader, in Keras' `fit` too; an
augmented sample is another sample. Of an answer the `top_k` largest probabilities are kept, softmax of the logits over the
temperature, and the sum of the others: see `distillation.cached_cross_entropy` for what the loss makes of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import save

from nncf_ext import numpy_xp
from nncf_ext.adapter import Adapter
from nncf_ext.errors import ConfigError, as_json
from nncf_ext.files.json_text import Unreadable, refused_as, value_of
from nncf_ext.files.schema import Saved, Size, expect
from nncf_ext.files.tensors import Stored, header_of
from nncf_ext.files.writing import replacing

FORMAT = 1
_HEADER = "nncf_ext_teacher"
_PARTS = ("indices", "probabilities", "rest")


_TYPES = {"U64": np.uint64, "I32": np.int32, "F32": np.float32}
_ROWS = 1 << 16  # that are looked at together
_SLACK = 1e-3  # of a sum of probabilities


class _About(Saved):
    format: Literal[1]
    temperature: Annotated[float, Field(gt=0)]
    shapes: Annotated[list[Annotated[list[Size], Field(min_length=1, max_length=2)]], Field(min_length=1)]


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
        with refused_as(ConfigError, f"{path} is no teacher's cache, which controller.cache_teacher writes"):
            header, metadata = header_of(self.path, _TYPES)
            about = value_of(metadata.get(_HEADER, "{}").encode())
            if isinstance(about, dict) and about.get("format", FORMAT) != FORMAT:
                raise ConfigError(f"{path} has cache format {as_json(about['format'])}, expected {FORMAT}")
            saved = expect(_About, about)
            self.temperature, self.shapes = saved.temperature, tuple(tuple(shape) for shape in saved.shapes)
            self._arrays = {name: self._mapped(stored) for name, stored in header.items()}
            self._check()
        self._keys = np.array(self._arrays["keys"])

    def _mapped(self, stored: Stored) -> np.ndarray:
        if stored.start == stored.stop:
            return np.empty(stored.shape, _TYPES[stored.dtype])
        return np.memmap(self.path, _TYPES[stored.dtype], "r", stored.start, stored.shape)

    def _check(self) -> None:
        """Unreadable where the arrays are not those that `write_cache` writes for such outputs. Reads the file once."""
        keys = self._arrays.get("keys")
        if keys is None or keys.dtype != np.uint64 or keys.ndim != 1 or not keys.size or (keys[1:] <= keys[:-1]).any():
            raise Unreadable("its keys are not ascending")
        for i, shape in enumerate(self.shapes):
            parts = [self._arrays.get(f"{i}.{part}") for part in _PARTS]
            if any(part is None for part in parts):
                raise Unreadable(f"output {i} lacks a part")
            indices, probabilities, rest = (part for part in parts if part is not None)
            like = (len(keys), *shape[:-1])
            top = indices.shape[-1] if indices.ndim else 0
            fits = indices.shape == probabilities.shape == (*like, top) and rest.shape == like and 0 < top <= shape[-1]
            if not fits or [part.dtype.name for part in (indices, probabilities, rest)] != ["int32", "float32", "float32"]:
                raise Unreadable(f"output {i} has the parts {indices.shape}, {probabilities.shape}, {rest.shape}")
            for start in range(0, len(keys), _ROWS):
                rows = slice(start, start + _ROWS)
                if indices[rows].min() < 0 or indices[rows].max() >= shape[-1]:
                    raise Unreadable(f"output {i} has the number of a class beyond {shape[-1]}")
                for part in (probabilities[rows], rest[rows]):
                    if not (part.min() >= 0 and part.max() <= 1 + _SLACK):  # NaN neither
                        raise Unreadable(f"output {i} has a probability outside of 0 to 1")

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
            given = adapter.data.named(model, inputs)
            found = adapter.data.on_host(self.rows, [given[name] for name in sorted(given)], like)
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
    infer = adapter.inference(teacher)
    for batch in batches:
        given = adapter.data.named(teacher, batch)
        keys.append(keys_of([adapter.to_numpy(given[name]) for name in sorted(given)]))
        outputs = [adapter.to_numpy(output) for _, output in adapter.data.flatten(infer(batch)[0])]
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
    p = numpy_xp.softmax(logits.astype(np.float64) / temperature)
    indices = np.argsort(-p, axis=-1, kind="stable")[..., :top_k]
    probabilities = np.take_along_axis(p, indices, -1)
    np.put_along_axis(p, indices, 0, -1)
    return indices.astype(np.int32), probabilities.astype(np.float32), p.sum(-1).astype(np.float32)
