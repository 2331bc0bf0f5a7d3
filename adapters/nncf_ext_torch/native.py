"""The compiled kernels of `csrc/`: loading them and running them on torch's number of threads."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import Parameter

from nncf_ext_torch.torch_private import is_dispatch_watched, is_tracing

SMALLEST_PART = 1 << 17  # elements: less is not worth another thread
CORES = os.cpu_count() or 1

_GRID = [*[ctypes.c_float] * 2, *[ctypes.c_int64] * 5]  # lowest, intervals; size, channels, inner, part, parts
_ARGUMENTS = {  # of each kernel: so many pointers, then these
    "fake_quantize_forward": (5, _GRID),
    "fake_quantize_backward": (8, _GRID),
    "masked_by_score_forward": (6, [ctypes.c_int64] * 3),  # size, part, parts
    "masked_by_score_backward": (8, [ctypes.c_int64] * 3),
    "kept_count_forward": (2, [ctypes.c_int64] * 3),
    "kept_count_backward": (3, [ctypes.c_int64] * 3),
    "decoded_forward": (4, [ctypes.c_int64] * 4),  # levels, size, part, parts
    "decoded_backward": (5, [ctypes.c_int64] * 4),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they could not be built or do not run."""
    found = importlib.util.find_spec("nncf_ext_torch._kernels")
    try:
        if found is None or found.origin is None:
            raise OSError("it was not built: install again with a C compiler at hand")
        kernels = ctypes.CDLL(found.origin)
    except OSError as error:
        logging.getLogger("nncf_ext").warning("Training on CPU is slower without the compiled kernels: %s", error)
        return None
    for name, (pointers, others) in _ARGUMENTS.items():
        kernel = getattr(kernels, name)
        kernel.argtypes, kernel.restype = [*[ctypes.c_void_p] * pointers, *others], None
    return kernels


def serves(*tensors: Tensor) -> bool:
    """Whether kernels may compute with these: float32 in the CPU's memory, and nobody wants to see operators go by."""
    if torch.compiler.is_compiling() or is_tracing() or is_dispatch_watched():
        return False
    return library() is not None and all(_is_plain(tensor) for tensor in tensors)


def _is_plain(tensor: Tensor) -> bool:
    kind = type(tensor)
    return (kind is Tensor or kind is Parameter) and tensor.dtype is torch.float32 and tensor.is_cpu and not tensor.is_sparse


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES, thread_name_prefix="nncf_ext")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads stay behind in the parent


def parts(size: int) -> int:
    """How many threads to use for `size` elements."""
    return 1 if size < 2 * SMALLEST_PART else min(torch.get_num_threads(), CORES, size // SMALLEST_PART)


def run(kernel: str, count: int, *arguments: object) -> None:
    """Call the kernel of that name with (*arguments, part, count) for all `count` parts at once (ctypes lets go of the GIL)."""
    function = getattr(library(), kernel)
    others = [_pool().submit(function, *arguments, part, count) for part in range(1, count)]
    function(*arguments, 0, count)
    for other in others:
        other.result()
