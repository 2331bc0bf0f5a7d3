"""The compiled kernels of `csrc/fake_quantize.c`: loading them and running them on torch's number of threads."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import torch

SMALLEST_PART = 1 << 17  # elements: less is not worth another thread

_SHAPE = [ctypes.c_float, *[ctypes.c_int64] * 5]  # intervals; size, channels, inner, part, parts


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they could not be built or do not run."""
    found = importlib.util.find_spec("nncf_ext_torch._fake_quantize")
    try:
        if found is None or found.origin is None:
            raise OSError("it was not built: install again with a C compiler at hand")
        kernels = ctypes.CDLL(found.origin)
    except OSError as error:
        logging.getLogger("nncf_ext").warning("Fake quantization on CPU is slower without its compiled kernel: %s", error)
        return None
    kernels.fake_quantize_forward.argtypes = [*[ctypes.c_void_p] * 5, *_SHAPE]
    kernels.fake_quantize_backward.argtypes = [*[ctypes.c_void_p] * 7, *_SHAPE]
    kernels.fake_quantize_forward.restype = kernels.fake_quantize_backward.restype = None
    return kernels


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="nncf_ext")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads stay behind in the parent


def parts(size: int) -> int:
    """How many threads to use for `size` elements."""
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1, size // SMALLEST_PART))


def run(kernel: ctypes._CFuncPtr, count: int, *arguments: object) -> None:
    """Call `kernel(*arguments, part, count)` for all `count` parts at the same time (ctypes lets go of the GIL)."""
    others = [_pool().submit(kernel, *arguments, part, count) for part in range(1, count)]
    kernel(*arguments, 0, count)
    for other in others:
        other.result()
