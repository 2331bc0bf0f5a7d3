"""The section `product_quantization`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Boolean, Count, LrMultiplier, Scope, ScopedConfig, Section, Size

Codewords = Annotated[Size, Field(ge=2, le=65536)]


class LinearCodes(Section):
    """Code books of linear layers."""

    subvector: Size = 4
    """Inputs that are coded together: a divisor of their number. All where there are fewer."""

    codewords: Codewords = 32
    """Sub-vectors in a code book; at most as many as it codes."""


class ConvolutionCodes(Section):
    """Code books of convolutions."""

    subvector: Size = 4
    """Input channels that are coded together: a divisor of their number. All where there are fewer."""

    codewords: Codewords = 128
    """Sub-vectors in a code book, which all positions of the kernel share; at most as many as it codes."""


class CodesByScope(Section):
    """What is different in the layers of a scope."""

    subvector: Size | None = None
    """Inputs that are coded together."""

    codewords: Codewords | None = None
    """Sub-vectors in a code book."""


class ProductQuantizationParams(Section):
    """How long sub-vectors are, how many there are to choose from, and when they are chosen."""

    linear: LinearCodes = LinearCodes()
    """Linear layers."""

    conv: ConvolutionCodes = ConvolutionCodes()
    """Convolutions."""

    by_scope: Mapping[Scope, CodesByScope] = {}
    """Other numbers for some layers, by scope; the last scope that is about a layer holds."""

    start_epoch: Count = 0
    """Epoch at whose beginning the weights are coded; 0: when the model is compressed."""

    error_correction: Boolean = True
    """Whether codes are chosen for the layers' responses on the registered data, where there are any, and not for the weights."""

    num_correction_samples: Size = 256
    """Samples of the registered data for that."""


class ProductQuantizationConfig(ScopedConfig):
    """Product quantization (Q-CNN): the weights of a few neighbouring inputs together are one of a few codewords."""

    algorithm: Literal["product_quantization"] = "product_quantization"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: ProductQuantizationParams = ProductQuantizationParams()
    """Code books."""

    compression_lr_multiplier: LrMultiplier | None = None
    """Factor on the gradients of the code books; that of the top level where it is missing."""
