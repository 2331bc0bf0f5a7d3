"""The section of filter pruning: defaults, schedule, and what its mistakes are told."""

import pytest

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.algorithms.filter_pruning import FilterPruning


def read(**keys) -> FilterPruning:
    (algorithm,) = NNCFConfig.from_dict({"compression": {"algorithm": "filter_pruning", **keys}}).algorithms()
    return algorithm


def test_defaults_are_those_of_nncf():
    params = read().params
    assert (params.schedule, params.pruning_target, params.pruning_steps, params.num_init_steps) == ("exponential", 0.5, 100, 0)
    assert (params.filter_importance, params.all_weights, params.prune_batch_norms) == ("L2", False, True)
    assert (params.prune_first_conv, params.prune_downsample_convs) == (False, False)
    legr = params.legr_params
    assert (legr.generations, legr.train_steps, legr.random_seed, legr.population_size) == (400, 200, 42, 64)
    assert (legr.num_samples, legr.mutate_percent, legr.scale_sigma, legr.max_pruning) == (16, 0.1, 1, None)


def test_learned_ranking_compares_and_prunes_everything():
    params = read(params={"interlayer_ranking_type": "learned_ranking"}).params
    assert params.all_weights and params.prune_first_conv and params.prune_downsample_convs
    assert not read(params={"interlayer_ranking_type": "learned_ranking", "prune_first_conv": False}).params.prune_first_conv


def test_levels_by_epoch():
    """Density 1 -> 1/4 in two epochs: it halves every epoch. Two epochs pass before."""
    pruning = read(params={"pruning_target": 0.75, "pruning_steps": 3, "num_init_steps": 2})
    assert [pruning.level(epoch) for epoch in range(6)] == pytest.approx([0, 0, 0, 0.5, 0.75, 0.75])
    at_once = read(pruning_init=0.3, params={"schedule": "baseline", "num_init_steps": 1})
    assert [at_once.level(epoch) for epoch in range(3)] == [0, 0.5, 0.5]
    biased = read(pruning_init=0.1, params={"schedule": "exponential_with_bias", "pruning_steps": 17})
    assert [biased.level(epoch) for epoch in (0, 2, 16, 17)] == pytest.approx([0.1, 0.375, 0.5, 0.5])
    flops = read(params={"pruning_flops_target": 0.36, "pruning_steps": 3})
    assert flops.level(1) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"params": {"pruning_target": 1}}, r"compression.params.pruning_target: found 1, expected less than 1"),
        ({"params": {"pruning_target": 0.3, "pruning_flops_target": 0.3}}, "pruning_flops_target: found beside pruning_target"),
        ({"params": {"filter_importance": "l2"}}, 'filter_importance: found "l2", expected one of L2, L1'),
        (
            {"params": {"interlayer_ranking_type": "learned_ranking", "all_weights": False}},
            r"compression.params.all_weights: found false with learned_ranking, expected true",
        ),
        ({"params": {"legr_params": {"sigma_scale": 1}}}, "legr_params.sigma_scale: unknown key, expected one of generations"),
        ({"params": {"legr_params": {"mutate_percent": 2}}}, "mutate_percent: found 2, expected less than or equal to 1"),
        ({"pruning_init": 0.6}, r"compression.pruning_init: found 0.6, expected at most the target 0.5"),
        ({"pruning_init": 0.4, "params": {"schedule": "exponential_with_bias"}}, "expected less than 5/7 of the target 0.5"),
    ],
)
def test_mistakes(keys, words):
    with pytest.raises(ConfigError, match=words):
        read(**keys)
