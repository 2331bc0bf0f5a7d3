"""Only what setup.cfg cannot say: the compiled kernel of the torch adapter, which an install can do without."""

import sys

from setuptools import Extension, setup

flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd", "-fvisibility=hidden"]

setup(
    ext_modules=[
        Extension(
            "nncf_ext_torch._fake_quantize",
            ["adapters/nncf_ext_torch/csrc/fake_quantize.c"],
            extra_compile_args=[] if sys.platform == "win32" else flags,
            optional=True,
        )
    ]
)
