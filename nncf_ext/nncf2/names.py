"""How NNCF 2.x names in its state dicts what our transforms have: where another release adds a name, it is added here."""

from __future__ import annotations

import re

_OF_PARAMETER = re.compile(r"(?P<module>.*?)\.?pre_ops\.\w+\.op\.(?P<name>(?:\w+_ctx\.)?\w+)$")
_OF_ACTIVATION = re.compile(
    r"(?:_nncf\.)?external_quantizers\.(?P<scope>.*)\|(?P<point>OUTPUT|INPUT(?P<port>\d+)?)\.(?P<name>\w+)$"
)
_WRAPPED_CLASS = re.compile(r"(?<![A-Za-z0-9_])NNCF(?=\w+\[)")

# NNCF 2.x's names of transform variables -> (kind of transform, variable) here
VARIABLES = {
    "scale": ("quantizer", "scale"),
    "_scale_param_storage": ("quantizer", "scale"),
    "input_low": ("quantizer", "low"),
    "input_range": ("quantizer", "span"),
    "_input_range_param_storage": ("quantizer", "span"),
    "_binary_mask": ("mask", "mask"),
    "binary_mask": ("mask", "mask"),
    "weight_importance": ("movement_mask", "score"),
    "weight_ctx._binary_mask": ("movement_mask", "mask"),
    "bias_importance": ("movement_mask", "score"),
    "bias_ctx._binary_mask": ("movement_mask", "mask"),
    "_mask": ("rb_mask", "scores"),
    "_binary_filter_pruning_mask": ("filter_mask", "mask"),
    "binary_filter_pruning_mask": ("filter_mask", "mask"),
}
# Variables here that its states do not have, by kind of transform.
UNSAVED = {"rb_mask": ("rows", "level")}
# What NNCF keeps of a quantizer beside them, and the field of the transform that must be the same.
SETTINGS = {"_num_bits": "bits", "signed_tensor": "signed"}
# Other names that it had for algorithms. Configs may use these; states and reports have the present name.
ALGORITHMS = {"experimental_quantization": "quantization"}


def place_in(name: str) -> tuple[str, str] | None:
    """(place, what is kept) that an NNCF 2.x name is about; the place is a module's name, `<module>|bias` or `<node>|<slot>`."""
    of_parameter = _OF_PARAMETER.match(name)
    if of_parameter is not None:
        module, name = of_parameter["module"], of_parameter["name"]
        return f"{module}|bias" if name.startswith("bias_") else module, name
    match = _OF_ACTIVATION.match(name)
    if match is None:
        return None
    slot = "output" if match["point"] == "OUTPUT" else f"input:{match['port'] or 0}"
    return f"{_WRAPPED_CLASS.sub('', match['scope'])}|{slot}", match["name"]
