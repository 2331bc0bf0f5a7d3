"""The quantizers of `"algorithm": "quantization"`, by their names in the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nncf_ext.quantization.quantizers.apot import APoT
from nncf_ext.quantization.quantizers.dorefa import DoReFaActivation, DoReFaWeight
from nncf_ext.quantization.quantizers.fixed import FixedQuantizer
from nncf_ext.quantization.quantizers.float8 import Float8
from nncf_ext.quantization.quantizers.groups import GroupQuantizer
from nncf_ext.quantization.quantizers.lsq import LSQ, LSQPlus
from nncf_ext.quantization.quantizers.pact import PACT
from nncf_ext.quantization.quantizers.stretched_elastic import StretchedElastic
from nncf_ext.quantization.quantizers.uniform import NNCFQuantizer, QuantizerSpec, QuantizerTransform, UniformQuantizer

__all__ = [
    "GROUPED",
    "QUANTIZERS",
    "TRANSFORMS",
    "NNCFQuantizer",
    "QuantizerFactory",
    "QuantizerSpec",
    "QuantizerTransform",
    "UniformQuantizer",
]


@dataclass(frozen=True)
class QuantizerFactory:
    """A class of quantizers, and how one is made for a place."""

    kind: type[QuantizerTransform]
    make: Callable[[QuantizerSpec], QuantizerTransform]


def _of(kind: type[QuantizerTransform]) -> QuantizerFactory:
    return QuantizerFactory(kind, kind.at)


_LSQ, _QUANTIZER = _of(LSQ), _of(NNCFQuantizer)
_E4M3, _E5M2 = QuantizerFactory(Float8, Float8.e4m3), QuantizerFactory(Float8, Float8.e5m2)
GROUPED = _of(GroupQuantizer)  # `nncf` with a `group_size`

QUANTIZERS: Mapping[str, Mapping[str, QuantizerFactory]] = MappingProxyType(
    {
        "weights": {
            "nncf": _QUANTIZER,
            "lsq": _LSQ,
            "lsq_plus": QuantizerFactory(LSQ, LSQ.of_lsq_plus),
            "dorefa": _of(DoReFaWeight),
            "stretched_elastic": _of(StretchedElastic),
            "apot": _of(APoT),
            "fp8_e4m3": _E4M3,
            "fp8_e5m2": _E5M2,
        },
        "activations": {
            "nncf": _QUANTIZER,
            "lsq": _LSQ,
            "lsq_plus": _of(LSQPlus),
            "pact": _of(PACT),
            "dorefa": _of(DoReFaActivation),
            "fp8_e4m3": _E4M3,
            "fp8_e5m2": _E5M2,
        },
    }
)
TRANSFORMS: tuple[type[Any], ...] = (
    NNCFQuantizer,
    LSQ,
    LSQPlus,
    PACT,
    DoReFaWeight,
    DoReFaActivation,
    StretchedElastic,
    APoT,
    GroupQuantizer,
    Float8,
    FixedQuantizer,
)
