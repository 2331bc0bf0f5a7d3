"""What reader and writer of packed files agree on; docs/packed-format.md says it in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncf_ext import numerics, numpy_xp

MAGIC = b"\x89NCP\r\n\x1a\n"
VERSION = 1
PREFIX = 36  # bytes before the data: magic 8, version u32, index offset u64, stored length u64, length u32, crc u32
CHUNK = 1 << 22  # elements that are coded together
MOST_LEVELS = 1 << 12  # distinct values of a code book
LONGEST_GAP = 255  # symbol of as many zeros without a number after them
DEFAULT_LIMIT = 16 << 30  # bytes that decoding may ask for

# Types by the names that safetensors has for them; those that numpy lacks as unsigned integers of their bits.
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(kind): name for name, kind in reversed(DTYPES.items())} | {
    np.dtype(np.uint16): "U16",
    np.dtype(np.uint8): "U8",
}
SIGNS = {"F64": 1 << 63, "F32": 1 << 31, "F16": 1 << 15, "BF16": 1 << 15}  # the bits of -0.0
BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}  # by bytes of an element


def restored(name: str, array: np.ndarray) -> np.ndarray:
    """With the type that its name means, where ml_dtypes knows one that numpy lacks."""
    if name not in ("BF16", "F8_E4M3", "F8_E5M2"):
        return array
    import ml_dtypes

    kinds = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    return array.view(kinds[name])


def product_decoded(
    codebook: np.ndarray, codes: np.ndarray, shape: tuple[int, ...], axis: int, kept: np.ndarray | None
) -> np.ndarray:
    """The array that product codes (see `Product`) stand for, in float32."""
    array = numerics.product_decoded(numpy_xp, codebook, codes.astype(np.int64), shape, axis)
    return np.ascontiguousarray(array if kept is None else np.where(kept, array, np.float32(0)))


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Counts as 16-bit frequencies, none of which is 0."""
    return np.maximum(1, np.round(counts / counts.max() * 65535)).astype("<u2")


def model_of(table: np.ndarray) -> Any:
    """The entropy coder's model of symbols with these frequencies."""
    import constriction

    shares = table.astype(np.float32) / np.float32(table.sum(dtype=np.float64))
    return constriction.stream.model.Categorical(shares, perfect=False)  # pyright: ignore[reportAttributeAccessIssue]
