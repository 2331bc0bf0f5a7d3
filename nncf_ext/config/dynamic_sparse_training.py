"""The section `dynamic_sparse_training`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Count, Distribution, Level, Number, ScopedConfig, Section, Size
from nncf_ext.errors import refusal

N_OF_M = re.compile(r"([1-9]\d*):([1-9]\d*)")


def _structure(value: str) -> str:
    names = ("unstructured", "constant_fan_in", "block", "channel")
    ratio = N_OF_M.fullmatch(value)
    if value not in names and (ratio is None or int(ratio[1]) >= int(ratio[2])):
        raise refusal(f"found {value!r}, expected one of {', '.join(names)}, or n:m with n < m, 2:4 say")
    return value


class DynamicSparsityParams(Section):
    """How many connections there are, where they may be, and how they move."""

    method: Literal["static", "set", "rigl", "top_kast", "ac_dc", "granet", "sr_ste"] = "rigl"
    """static: random connections that stay. set: the weakest are dropped, random ones grow (Mocanu 2018). rigl: those with the
    largest gradient grow (Evci 2020). top_kast: the largest weights act, some more are trained (Jayakumar 2020). ac_dc: sparse
    and dense phases take turns (Peste 2021). granet: as rigl, from many connections to few (Liu 2021). sr_ste: the largest n of
    each m in every forward (Zhou 2021), for structure n:m."""

    sparsity_target: Level | None = None
    """Share of weights without a connection; what structure n:m says, where it is that."""

    distribution: Distribution = "erk"
    """How the layers share in it. uniform: each has the same level. erk: small layers keep more (Erdos-Renyi-Kernel). Or levels
    by scope; layers in none of these have sparsity_target."""

    structure: Annotated[str, AfterValidator(_structure)] = "unstructured"
    """unstructured; constant_fan_in: every output has as many connections; block: rectangles of the weight; channel: whole
    outputs; n:m (2:4, 4:8): n of each m neighbouring inputs."""

    block: tuple[Size, Size] = (4, 4)
    """Structure block: outputs and inputs of a rectangle."""

    sparse_initialization: bool = False
    """static, set, rigl, granet: whether the first weights grow by the root of (inputs of an output / those with a connection)
    (Evci et al. 2022). For models without normalization that train from scratch: the first weights of dense layers leave signals
    through sparse ones too small."""

    update_interval: Size = 100
    """Optimizer steps from one change of the connections to the next."""

    end: Size | None = None
    """Optimizer step after which the connections stay (RigL: at three quarters of the training); none where it is missing."""

    drop_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.3
    """set, rigl, granet: share of the connections that move in the first update."""

    anneal: Literal["cosine", "constant"] | None = None
    """How that share goes on: to zero at `end`, or as it is. cosine where there is an `end` and the method is not set."""

    sparsity_init: Level = 0.5
    """granet: the level at the start."""

    extra_density: Annotated[Number, Field(gt=0, le=1)] = 0.1
    """top_kast: share of the weights that are trained besides those that act."""

    regularization: Annotated[Number, Field(ge=0)] = 1e-4
    """top_kast: factor of the squares of the weights in the loss; of those that do not act, over the layer's density."""

    decay: Annotated[Number, Field(ge=0)] = 2e-4
    """sr_ste: how strongly weights without a connection are pulled to zero."""

    warmup_epochs: Count = 0
    """ac_dc: dense epochs at the start."""

    compressed_epochs: Size = 5
    """ac_dc: length of a sparse phase."""

    decompressed_epochs: Size = 5
    """ac_dc: length of a dense phase."""

    final_epoch: Count | None = None
    """ac_dc: epoch from which on it is sparse."""

    @property
    def ratio(self) -> tuple[int, int] | None:
        """(n, m) of structure n:m."""
        found = N_OF_M.fullmatch(self.structure)
        return None if found is None else (int(found[1]), int(found[2]))

    @property
    def level(self) -> float:
        if self.ratio is not None:
            return 1 - self.ratio[0] / self.ratio[1]
        assert self.sparsity_target is not None
        return self.sparsity_target

    @property
    def is_annealed(self) -> bool:
        return self.end is not None and (self.anneal or ("constant" if self.method == "set" else "cosine")) == "cosine"

    @model_validator(mode="after")
    def _fits(self) -> DynamicSparsityParams:
        if self.ratio is None and self.sparsity_target is None:
            raise refusal("missing, expected the share of weights without a connection, 0.9 say", "sparsity_target")
        if self.ratio is not None and self.sparsity_target not in (None, self.level):
            raise refusal(f"found {self.sparsity_target}, expected none: structure {self.structure} says it", "sparsity_target")
        if self.ratio is not None and isinstance(self.distribution, dict):
            raise refusal(f"found levels with structure {self.structure}, which says the level of every layer", "distribution")
        if (self.method == "sr_ste") != (self.ratio is not None) and self.method in ("sr_ste", "top_kast", "ac_dc", "granet"):
            expected = "n:m for sr_ste" if self.method == "sr_ste" else f"another for {self.method}"
            raise refusal(f"found {self.structure!r}, expected {expected}", "structure")
        for name in ("anneal", "method"):
            if self.end is None and getattr(self, name) == {"anneal": "cosine", "method": "granet"}[name]:
                raise refusal(f"missing, expected the optimizer step at which {getattr(self, name)} is through", "end")
        if self.method == "ac_dc" and self.final_epoch is None:
            raise refusal("missing, expected the epoch from which on the model is sparse", "final_epoch")
        if self.sparse_initialization and self.method not in ("static", "set", "rigl", "granet"):
            raise refusal(
                f"found true, expected false for {self.method}, which has no random first connections", "sparse_initialization"
            )
        if self.method == "granet" and self.sparsity_init > self.level:
            raise refusal(f"found {self.sparsity_init}, expected at most the target {self.level}", "sparsity_init")
        return self


class DynamicSparseTrainingConfig(ScopedConfig):
    """Dynamic sparse training: the network is sparse from the first step on, and its connections move while it trains."""

    algorithm: Literal["dynamic_sparse_training"] = "dynamic_sparse_training"
    """Name of the algorithm."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: DynamicSparsityParams
    """Connections."""

    @model_validator(mode="before")
    @classmethod
    def _asked_for_a_level(cls, data: Any) -> Any:
        return data if not isinstance(data, dict) or "params" in data else {**data, "params": {}}
