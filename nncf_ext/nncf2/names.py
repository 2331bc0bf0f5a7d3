"""How NNCF 2.x names in its state dicts what our transforms have: where another release adds a name, it is added here."""

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
# What NNCF keeps of a quantizer beside them, and the field of the transform that must be the same.
SETTINGS = {"_num_bits": "bits", "signed_tensor": "signed"}
# Other names that it had for algorithms. Configs may use these; states and reports have the present name.
ALGORITHMS = {"experimental_quantization": "quantization"}
