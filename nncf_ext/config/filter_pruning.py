"""The section `filter_pruning`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nncf_ext.config.initialization import Initializer
from nncf_ext.config.section import Boolean, Count, Level, Number, ScopedConfig, Section, Size, without_effect
from nncf_ext.errors import refusal


class LegrParams(Section):
    """The evolutionary search of learned_ranking (Chin et al. 2020, LeGR)."""

    generations: Size = 400
    """Rankings that are tried."""

    train_steps: Count = 200
    """Optimizer steps that the model is trained for with each of them."""

    max_pruning: Level | None = None
    """Share that is pruned in a trial: of the filters, or of the FLOPs with pruning_flops_target; the target where missing."""

    random_seed: Count = 42
    """Seed of the search."""

    population_size: Size = 64
    """Rankings that the search chooses parents from; as many are tried at random first."""

    num_samples: Size = 16
    """Rankings drawn from the population, the best of which is the next one's parent."""

    mutate_percent: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Share of the layers whose coefficients differ from the parent's."""

    scale_sigma: Annotated[Number, Field(ge=0)] = 1.0
    """Standard deviation of the logarithm of the scales at the start; mutations become smaller from trial to trial."""


class FilterPruningParams(Section):
    """The schedule of the pruning level, and which filters go."""

    renamed = MappingProxyType({"weight_importance": "filter_importance"})
    without_effect = frozenset({"prune_last_conv", "zero_grad"})

    schedule: Literal["exponential", "exponential_with_bias", "baseline"] = "exponential"
    """exponential: the share that is kept falls by the same factor every epoch; exponential_with_bias: three quarters of the
    target are reached after an eighth of pruning_steps; baseline: the target at once."""

    pruning_target: Level = 0.5
    """Share of the filters that are pruned in the end."""

    pruning_flops_target: Level | None = None
    """Share of the floating-point operations that pruning takes away in the end; stands instead of pruning_target."""

    num_init_steps: Count = 0
    """Epochs of training before pruning starts."""

    pruning_steps: Count = 100
    """Epochs in which the level rises to the target; after them the masks stay as they are. 0, 1: the target at once."""

    filter_importance: Literal["L2", "L1", "geometric_median"] = "L2"
    """Which filters go first: those with the smallest L2 or L1 norm, or the smallest sum of distances to the others
    (He et al. 2019)."""

    interlayer_ranking_type: Literal["unweighted_ranking", "learned_ranking"] = "unweighted_ranking"
    """How filters of different layers compare under all_weights: as they are, or by coefficients that a search learns."""

    all_weights: Boolean = False
    """false: every layer loses the same share, and keeps a multiple of 8 filters; true: layers share it as their filters deserve.
    learned_ranking: true where it is missing, and cannot be false."""

    prune_first_conv: Boolean = False
    """Whether the convolutions that the model's inputs reach first are pruned. learned_ranking: true where it is missing."""

    prune_downsample_convs: Boolean = False
    """Whether convolutions with a stride are pruned. learned_ranking: true where it is missing."""

    prune_batch_norms: Boolean = True
    """Whether pruned filters lose scale and shift of their BatchNorm too. false: they still add their shift, and are left in the
    stripped model. Other normalizations always lose theirs."""

    legr_params: LegrParams = LegrParams()
    """learned_ranking: the search."""

    save_ranking_coeffs_path: str | None = None
    """learned_ranking: JSON file to write the learned coefficients to."""

    load_ranking_coeffs_path: str | None = None
    """learned_ranking: JSON file of save_ranking_coeffs_path; the search is skipped."""

    @property
    def target(self) -> float:
        """The last level of the schedule: of FLOPs with pruning_flops_target, else of filters."""
        return self.pruning_target if self.pruning_flops_target is None else self.pruning_flops_target

    @model_validator(mode="before")
    @classmethod
    def _learned_ranking_compares_all(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("interlayer_ranking_type") != "learned_ranking":
            return data
        if data.get("all_weights") is False:
            raise refusal("found false with learned_ranking, expected true: it ranks the filters of all layers", "all_weights")
        return {"all_weights": True, "prune_first_conv": True, "prune_downsample_convs": True, **data}

    @model_validator(mode="after")
    def _one_target(self) -> FilterPruningParams:
        if self.pruning_flops_target is not None and "pruning_target" in self.model_fields_set:
            raise refusal("found beside pruning_target, expected one of the two", "pruning_flops_target")
        return self

    @model_validator(mode="after")
    def _coefficients_are_of_learned_ranking(self) -> FilterPruningParams:
        for key in ("save_ranking_coeffs_path", "load_ranking_coeffs_path"):
            if getattr(self, key) is not None and self.interlayer_ranking_type != "learned_ranking":
                without_effect(key, "unweighted_ranking")
        return self


class FilterPruningConfig(ScopedConfig):
    """Filter pruning: whole filters (output channels) become zero, more of them from epoch to epoch; stripping removes them."""

    algorithm: Literal["filter_pruning"] = "filter_pruning"
    """Name of the algorithm."""

    pruning_init: Level = 0.0
    """Level at the start, of what the target is about; with num_init_steps it begins after them."""

    initializer: Initializer = Initializer()
    """What data decides before training."""

    params: FilterPruningParams = FilterPruningParams()
    """Schedule and importance."""

    @model_validator(mode="after")
    def _rises(self) -> FilterPruningConfig:
        target = self.params.target
        biased = self.params.schedule == "exponential_with_bias"
        if self.pruning_init > target:
            raise refusal(f"found {self.pruning_init}, expected at most the target {target}", "pruning_init")
        if biased and target > 0 and self.pruning_init >= target * 5 / 7:
            raise refusal(
                f"found {self.pruning_init}, expected less than 5/7 of the target {target}: exponential_with_bias is steep first",
                "pruning_init",
            )
        return self
