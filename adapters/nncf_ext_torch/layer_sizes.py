"""The sizes that layers keep as attributes, after their parameters have become smaller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from nncf_ext_torch.cut import Cut
from nncf_ext_torch.torch_private import Convolution, NormWithStatistics, TransposedConvolution, has_one_width


def sizes(module: nn.Module, cuts: Mapping[str, Cut]) -> dict[str, Any]:
    """New values of the attributes of a layer whose parameters are cut already; `cuts` by the parameters' names in the layer.

    ValueError where this kind of layer cannot have these sizes.
    """
    if isinstance(module, nn.MultiheadAttention):
        return _multihead_attention(module)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return _recurrent(module)
    weight = module._parameters.get("weight")
    if weight is None or "weight" not in cuts:
        return {}
    shape = tuple(weight.shape)
    if isinstance(module, Convolution):
        groups = _groups(module.groups, cuts["weight"])
        grouped, other = shape[0], shape[1] * groups
        inputs, outputs = (grouped, other) if isinstance(module, TransposedConvolution) else (other, grouped)
        return {"groups": groups, "in_channels": inputs, "out_channels": outputs}
    if isinstance(module, nn.Linear):
        return {"out_features": shape[0], "in_features": shape[1]}
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    if isinstance(module, NormWithStatistics):
        return {"num_features": shape[0]}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": shape[0], "num_groups": _groups(module.num_groups, cuts["weight"])}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": shape}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if hasattr(module, "nf") and hasattr(module, "nx"):  # transformers' Conv1D, a Linear with its weight transposed
        return {"nx": shape[0], "nf": shape[1]}
    return {}


def _groups(groups: int, cut: Cut) -> int:
    """How many groups are left, where axis 0 lies in groups one after the other."""
    if 0 not in cut.keep:
        return groups
    left = Counter(index // (cut.shape[0] // groups) for index in cut.keep[0])
    if len(set(left.values())) != 1:
        raise ValueError(f"its {groups} groups keep {min(left.values())} to {max(left.values())} channels, expected equally many")
    return len(left)


def _multihead_attention(module: nn.MultiheadAttention) -> dict[str, Any]:
    if has_one_width(module):
        width = module.in_proj_weight.shape[1]
        widths, inputs = [module.in_proj_weight.shape[0] / 3], (width, width)
    else:
        query, key, value = (w.shape for w in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight))
        width = query[1]
        widths, inputs = [query[0], key[0], value[0]], (key[1], value[1])
    if {*widths, module.out_proj.weight.shape[1]} != {width} or width % module.head_dim:
        raise ValueError("torch's MultiheadAttention has as many channels in its heads as in its queries")
    return {"embed_dim": width, "num_heads": width // module.head_dim, "kdim": inputs[0], "vdim": inputs[1]}


def _recurrent(module: nn.RNNBase | nn.RNNCellBase) -> dict[str, Any]:
    """Of all layers and directions, which have the same sizes."""
    first = "" if isinstance(module, nn.RNNCellBase) else "_l0"
    projected = isinstance(module, nn.RNNBase) and module.proj_size > 0
    kernel, recurrence = module._parameters[f"weight_ih{first}"], module._parameters[f"weight_hh{first}"]
    reader = module._parameters[f"weight_hr{first}"] if projected else recurrence
    assert kernel is not None and recurrence is not None and reader is not None
    sizes = {"input_size": kernel.shape[1], "hidden_size": reader.shape[1]}
    if projected:
        sizes["proj_size"] = recurrence.shape[1]
    others = {p.shape for name, p in module._parameters.items() if p is not None and name.startswith("weight_hh")}
    if len(others) > 1:
        raise ValueError("its layers would have different numbers of hidden units")
    return sizes


HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_key_value_heads", "num_kv_heads", "n_kv_heads")
_WIDTHS = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim")
_TOTALS = ("all_head_size", "inner_dim", "split_size")


def head_counts(module: nn.Module, smaller: Mapping[int, int]) -> dict[str, int]:
    """New numbers of heads of an attention module, by the names that transformers and others use.

    smaller: old -> new sizes of the axes that were cut in its projections.
    """
    attributes = {name: value for name, value in vars(module).items() if type(value) is int}
    width = next((attributes[name] for name in _WIDTHS if name in attributes), None)
    if not width or any(new % width for old, new in smaller.items() if old % width == 0):
        return {}
    found = {}
    for name, value in attributes.items():
        if name in HEADS and value * width in smaller:
            found[name] = smaller[value * width] // width
        elif name in _TOTALS and value in smaller:
            found[name] = smaller[value]
        elif name == "num_key_value_groups":
            outputs = [
                child.weight.shape[0] for child in map(module._modules.get, ("q_proj", "k_proj")) if isinstance(child, nn.Linear)
            ]
            found |= {name: outputs[0] // outputs[1]} if len(outputs) == 2 else {}
    return found
