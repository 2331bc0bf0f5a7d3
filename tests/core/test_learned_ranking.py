"""The search for ranking coefficients: what it proposes, what it returns, and its file."""

import json
import math

import numpy as np
import pytest

from nncf_ext import ConfigError
from nncf_ext.config.filter_pruning import LegrParams
from nncf_ext.sparsity.ranking import TrialController, learn_ranking, load_coefficients, save_coefficients

LAYERS = {"a": 1.0, "b": 0.5, "c": 0.0}


def searched(settings, loss_of):
    tried = []

    def recorded(coefficients):
        tried.append(coefficients)
        return loss_of(coefficients)

    return learn_ranking(LAYERS, LegrParams(**settings), recorded), tried


def distance(coefficients):
    """Smallest where layer a is scaled by 4, b by 1/2, and nothing is shifted."""
    wanted = {"a": math.log(4), "b": -math.log(2), "c": 0.0}
    return sum((math.log(coefficients[k][0]) - wanted[k]) ** 2 + coefficients[k][1] ** 2 for k in wanted)


def test_it_finds_what_is_best():
    best, tried = searched({"generations": 400, "mutate_percent": 0.4}, distance)
    assert len(tried) == 400
    assert distance(best) == min(map(distance, tried))
    assert distance(best) < 0.3 * min(map(distance, tried[:64])) < distance(tried[0])


def test_the_ranking_as_it_is_comes_first_and_random_ones_follow():
    _, tried = searched({"generations": 5, "population_size": 4}, lambda coefficients: 0.0)
    assert tried[0] == dict.fromkeys(LAYERS, (1.0, 0.0))
    assert len({json.dumps(each) for each in tried[:4]}) == 4  # NNCF 2.x proposed one and the same 63 times
    assert all(each["c"][1] == 0 for each in tried)  # a layer without spread is not shifted


def test_the_best_of_those_drawn_is_the_parent():
    """All are drawn: the child differs from the best in one layer."""
    losses = iter([3.0, 1.0, 2.0, 5.0])
    _, tried = searched({"generations": 4, "population_size": 3, "num_samples": 3}, lambda coefficients: next(losses))
    assert sum(tried[3][layer] != tried[1][layer] for layer in LAYERS) == 1


def test_the_oldest_leaves_the_population():
    """The first is the best, and gone after the third: the fourth trial's parent is the second."""
    losses = iter([0.0, 1.0, 2.0, 3.0])
    best, tried = searched({"generations": 4, "population_size": 2, "num_samples": 2}, lambda coefficients: next(losses))
    assert best == tried[0]
    assert sum(tried[3][layer] != tried[1][layer] for layer in LAYERS) == 1


def test_seeds_decide_and_leave_numpys_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    one, two, other = (searched({"generations": 20, "random_seed": seed}, distance)[0] for seed in (1, 1, 2))
    assert one == two != other
    assert (np.random.get_state()[1] == before).all()


def test_a_trial_that_diverged_is_no_result():
    losses = iter([math.nan, 2.0, math.nan])
    best, tried = searched({"generations": 3}, lambda coefficients: next(losses))
    assert best == tried[1]


def test_no_mutations_where_none_are_asked_for():
    _, tried = searched({"generations": 4, "population_size": 1, "mutate_percent": 0}, lambda coefficients: 0.0)
    assert all(each == tried[0] for each in tried)


def test_coefficients_survive_their_file(tmp_path):
    coefficients = {"a": (1.25, -0.1), "b": (1 / 3, 2.0)}
    save_coefficients(tmp_path / "ranking.json", coefficients)
    assert load_coefficients(tmp_path / "ranking.json", ["b", "a"], "x") == coefficients


def test_a_file_of_nncf_names_wrapped_layers(tmp_path):
    (tmp_path / "ranking.json").write_text('{"Net/NNCFConv2d[conv1]/conv2d_0": [2, 0.5]}')
    found = load_coefficients(tmp_path / "ranking.json", ["Net/Conv2d[conv1]/conv2d_0"], "x")
    assert found == {"Net/Conv2d[conv1]/conv2d_0": (2.0, 0.5)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "params.load_ranking_coeffs_path: .* cannot be read: No such file"),
        ("{", "holds no coefficients, expected a .scale, shift. for each layer"),
        ("[1]", "holds no coefficients"),
        ('{"conv1": [1]}', "holds no coefficients"),
        ('{"conv1": [1, 0]}', "has none for conv2, the nearest is conv1"),
    ],
)
def test_files_that_are_something_else(tmp_path, text, words):
    if text is not None:
        (tmp_path / "ranking.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_coefficients(tmp_path / "ranking.json", ["conv2"], "params.load_ranking_coeffs_path")


def test_a_training_loop_finds_what_it_calls():
    controller = TrialController(0.0)
    controller.scheduler.epoch_step()
    controller.scheduler.step(3)
    assert controller.loss() == 0.0
