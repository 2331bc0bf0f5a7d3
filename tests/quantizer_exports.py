"""What the exports of the quantizers are tested with, in both frameworks: a network of a convolution, a BatchNorm and two linear
layers of 128 and 64 inputs, whose names end in c, bn, fc1 and fc2."""

from __future__ import annotations

from typing import Any


def _quantization(**keys: Any) -> dict[str, Any]:
    return {"algorithm": "quantization", **keys}


def _by_group(**override: Any) -> dict[str, Any]:
    return _quantization(weights={"bits": 4}, scope_overrides={"weights": {"{re}fc": override}})


def _both(**settings: Any) -> dict[str, Any]:
    return _quantization(weights=settings, activations=settings)


# With few levels of activations a sum that differs in its last bit may round to another level: not what is tested here.
EXPORTS: dict[str, dict[str, Any]] = {
    "lsq": _quantization(weights={"quantizer": "lsq", "bits": 4}, activations={"quantizer": "lsq"}),
    "lsq_plus": _quantization(weights={"quantizer": "lsq_plus", "bits": 4}, activations={"quantizer": "lsq_plus"}),
    "pact": _quantization(weights={"bits": 4}, activations={"quantizer": "pact"}),
    "dorefa": _quantization(weights={"quantizer": "dorefa", "bits": 3}, activations={"quantizer": "dorefa"}),
    "dorefa_float_weights": _both(quantizer="dorefa"),
    "apot": _quantization(weights={"quantizer": "apot", "bits": 5}),
    "ternary": _quantization(weights={"quantizer": "stretched_elastic", "levels": 3}),
    "two_bits_stretched": _quantization(weights={"quantizer": "stretched_elastic", "bits": 2}),
    "groups": _by_group(group_size=32),
    "groups_asymmetric": _by_group(group_size=32, mode="asymmetric"),
    "groups_of_weights_alone": _quantization(
        weights={"bits": 4, "group_size": 32}, activations={"ignored_scopes": "{re}.*"}, target_scopes="{re}fc"
    ),
    "groups_of_8_bits": _by_group(group_size=32, bits=8),
    "fp8_e4m3": _both(quantizer="fp8_e4m3"),
    "fp8_e5m2": _both(quantizer="fp8_e5m2"),
    "fp8_weights": _quantization(weights={"quantizer": "fp8_e4m3", "per_channel": False}),
}
