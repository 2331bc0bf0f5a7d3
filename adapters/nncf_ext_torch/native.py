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
CORES = os.cpu_count() or 1

_SHAPE = [*[ctypes.c_float] * 2, *[ctypes.c_int64] * 5]  # lowest, intervals; size, channels, inner, part, parts


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
    kernels.fake_quantize_backward.argtypes = [*[ctypes.c_void_p] * 8, *_SHAPE]
    kernels.fake_quantize_forward.restype = kernels.fake_quantize_backward.restype = None
    return kernels


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
