"""Weights coded to the bit, in a file that loads anywhere: see docs/packed-format.md.

`load(path)` gives arrays by name; `Packed(path)` decodes each when it is asked for.
"""

from nncf_ext.packed.convert import pack_file, unpack_file
from nncf_ext.packed.reader import Packed, PackedError, load
from nncf_ext.packed.writer import PackedWriter, Product, Scaled, pack_arrays

__all__ = ["Packed", "PackedError", "PackedWriter", "Product", "Scaled", "load", "pack_arrays", "pack_file", "unpack_file"]
