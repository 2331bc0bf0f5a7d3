"""Only what setup.cfg cannot say: the compiled kernels of the torch adapter, which an install can do without."""

import platform
import sys

from setuptools import Extension, setup

flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd", "-fvisibility=hidden"]
if platform.machine() in ("x86_64", "AMD64"):
    flags.append("-mprefer-vector-width=512")  # in the variants that have it

setup(
    ext_modules=[
        Extension(
            "nncf_ext_torch._kernels",
            [f"adapters/nncf_ext_torch/csrc/{name}.c" for name in ("codes", "fake_quantize", "masks")],
            extra_compile_args=[] if sys.platform == "win32" else flags,
            optional=True,
        )
    ]
)
