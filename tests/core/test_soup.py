"""Soups of arrays and files: numbers worked by hand, masks, messages, and how often what is read."""

import json
import tracemalloc
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncf_ext.algorithms.filter_pruning import FilterMask
from nncf_ext.algorithms.magnitude_sparsity import BinaryMask
from nncf_ext.algorithms.movement_sparsity import MovementMask
from nncf_ext.algorithms.product_quantization import ProductQuantizer
from nncf_ext.algorithms.rb_sparsity import RandomMask
from nncf_ext.checkpoint import TensorFile, load_checkpoint, save_checkpoint, save_tensors
from nncf_ext.data import ModelInputs
from nncf_ext.edits import Edit, Plan
from nncf_ext.graph import Site
from nncf_ext.quantization.quantizers import NNCFQuantizer
from nncf_ext.soup import SoupError, Trial, WeightAverage, make_soup, uniform, wise_ft
from nncf_ext.soup.ingredients import ingredient
from nncf_ext.soup.learning import Shares, layer_of

SITE = Site("Net/Linear[fc]/linear_0", "weight")
FLOATS = arrays(np.float32, (3, 2), elements=st.floats(-(2.0**60), 2.0**60, width=32))


def model(value=1.0, **others):
    return {"fc.weight": np.full((2, 2), value, np.float32), "fc.bias": np.array([value, -value], np.float32), **others}


def compressed(transform, variables, weight, algorithm="magnitude_sparsity"):
    """What a checkpoint of one layer with one transform has, as (tensors, state)."""
    edit = Edit((SITE,), transform, algorithm)
    state = {
        "builder_state": {"format": 1, "plan": Plan((edit,)).to_json()},
        "variables": {edit.key: {name: f"fc.{name}" for name in variables}},
        "parameters": {edit.key: ["fc.weight"]},
    }
    tensors = {"fc.weight": np.asarray(weight, np.float32), **{f"fc.{name}": value for name, value in variables.items()}}
    return SimpleNamespace(tensors=tensors, state=state)


def masked(mask, weight=((1, 2), (3, 4))):
    return compressed(BinaryMask(), {"mask": np.asarray(mask, np.float32)}, weight)


def test_the_mean_of_two():
    soup = uniform([model(1.0), model(2.0)])
    np.testing.assert_array_equal(soup.tensors["fc.weight"], np.full((2, 2), 1.5, np.float32))
    assert soup.shares == {"ingredient 1": 0.5, "ingredient 2": 0.5}
    assert soup.tensors["fc.weight"].dtype == np.float32


@given(FLOATS, st.integers(2, 7))
def test_a_soup_of_copies_is_the_model_bit_for_bit(weight, copies):
    soup = uniform([{"w": weight}] * copies)
    assert soup.tensors["w"].tobytes() == weight.tobytes()


@given(st.lists(FLOATS, min_size=2, max_size=5))
def test_the_mean_is_exact_before_its_one_rounding(weights):
    found = uniform([{"w": weight} for weight in weights]).tensors["w"]
    exact = [sum(map(Fraction, map(float, column))) / len(weights) for column in zip(*(w.flat for w in weights), strict=True)]
    largest = np.max(np.abs(weights), axis=0).reshape(-1)
    for value, mean, size in zip(found.flat, exact, largest, strict=True):
        assert (
            abs(Fraction(float(value)) - mean)
            <= Fraction(float(np.spacing(np.float32(abs(float(mean)))))) / 2 + Fraction(float(size)) / 2**48
        )


@given(FLOATS, FLOATS)
def test_the_ends_of_wise_ft_are_the_ingredients_bit_for_bit(first, second):
    for alpha, end in ((0.0, first), (1.0, second)):
        assert wise_ft([{"w": first}, {"w": second}], alpha).tensors["w"].tobytes() == end.tobytes()


def test_wise_ft_by_hand():
    soup = wise_ft([model(1.0), model(3.0)], 0.25)
    np.testing.assert_array_equal(soup.tensors["fc.bias"], np.array([1.5, -1.5], np.float32))
    with pytest.raises(SoupError, match="alpha: found 1.5, expected between 0 and 1"):
        wise_ft([model(), model()], 1.5)
    with pytest.raises(SoupError, match="wise-ft: found 3 ingredients, expected two"):
        wise_ft([model()] * 3)


@given(arrays(np.float64, (3, 4, 2), elements=st.floats(-9, 9)), arrays(np.float64, (5, 4), elements=st.floats(-9, 9)))
def test_a_linear_model_computes_the_mean_of_the_outputs(weights, inputs):
    soup = uniform([{"w": weight} for weight in weights]).tensors["w"]
    np.testing.assert_allclose(inputs @ soup, np.mean([inputs @ weight for weight in weights], 0), atol=1e-12)


def test_integers_and_booleans_are_those_of_the_first():
    pair = [model(bn=np.int64(7), flag=np.array([True])), model(bn=np.int64(9), flag=np.array([False]))]
    soup = uniform(pair).tensors
    assert soup["bn"] == 7 and soup["bn"].dtype == np.int64 and soup["flag"].tolist() == [True]
    assert wise_ft(pair, 1.0).tensors["bn"] == 9  # all of the second


def test_half_precision_stays_and_does_not_overflow():
    soup = uniform([{"w": np.full(2, 60000, np.float16)}] * 4).tensors["w"]
    assert soup.dtype == np.float16 and soup.tolist() == [60000, 60000]


def test_ranges_of_quantizers_are_averaged():
    pair = [
        compressed(NNCFQuantizer(bits=8, symmetric=True, signed=True), {"scale": np.full((1, 1), s, np.float32)}, np.eye(2))
        for s in (1.0, 2.0)
    ]
    for one in pair:
        one.state["builder_state"]["plan"]["edits"][0]["algorithm"] = "quantization"
    soup = uniform(pair)
    assert soup.tensors["fc.scale"] == 1.5 and soup.state == pair[0].state


# masks


def test_the_same_mask_stays():
    mask = [[1, 0], [0, 1]]
    soup = uniform([masked(mask), masked(mask, [[5, 9], [9, 8]])])
    np.testing.assert_array_equal(soup.tensors["fc.mask"], mask)
    np.testing.assert_array_equal(soup.tensors["fc.weight"] * soup.tensors["fc.mask"], [[3, 0], [0, 6]])


DIFFERENT = [masked([[1, 0], [1, 1]]), masked([[1, 1], [0, 1]], [[3, 4], [5, 6]])]


def test_different_masks_are_refused():
    with pytest.raises(SoupError, match="ingredient 2: its mask differs from that of ingredient 1 in 2 of 4 places at Net"):
        uniform(DIFFERENT)


def test_code_books_of_the_same_codes_have_a_mean():
    def coded(books, codes):
        variables = {"codebook": np.array(books, np.float32).reshape(1, 2, 2), "codes": np.array([codes], np.int32)}
        return compressed(ProductQuantizer(subvector=2, codewords=2, axis=1), variables, np.ones((2, 2)), "product_quantization")

    soup = uniform([coded([1, 2, 3, 4], [0, 1]), coded([3, 4, 5, 6], [0, 1])])
    assert soup.tensors["fc.codebook"].reshape(-1).tolist() == [2, 3, 4, 5] and soup.tensors["fc.codes"].tolist() == [[0, 1]]
    with pytest.raises(SoupError, match="ingredient 2: 2 of 2 codes of Net.* differ from those of ingredient 1"):
        uniform([coded([1, 2, 3, 4], [0, 1]), coded([3, 4, 1, 2], [1, 0])])


def test_a_union_of_masks_is_the_mean_of_what_the_models_compute_with():
    soup = uniform(DIFFERENT, "union").tensors
    np.testing.assert_array_equal(soup["fc.mask"], [[1, 1], [1, 1]])
    np.testing.assert_array_equal(soup["fc.weight"], [[2, 2], [1.5, 5]])  # (1+3)/2, (0+4)/2, (3+0)/2, (4+6)/2


def test_an_intersection_of_masks():
    soup = uniform(DIFFERENT, "intersection").tensors
    np.testing.assert_array_equal(soup["fc.mask"], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(soup["fc.weight"] * soup["fc.mask"], [[2, 0], [0, 5]])


def scores(values):
    variables = {"scores": np.asarray(values, np.float32), "rows": np.zeros(1, np.int32), "level": np.float32(0)}
    return compressed(RandomMask(), variables, [[1, 2], [3, 4]], "rb_sparsity")


def movement(values, threshold=0.0):
    variables = {
        "score": np.asarray(values, np.float32),
        "mask": np.ones((2, 2), np.uint8),
        "schedule": np.array([threshold, 0, 1], np.float32),
    }
    return compressed(MovementMask(shape=(2, 2), block=(1, 2)), variables, [[1, 2], [3, 4]], "movement_sparsity")


def filters(values):
    mask = {"mask": np.asarray(values, np.float32).reshape(2, 1)}
    return compressed(FilterMask(axes=(0,)), mask, [[1, 2], [3, 4]], "filter_pruning")


@pytest.mark.parametrize(
    "pair, expected",
    [
        ([scores([[2, -1], [1, 3]]), scores([[1, 1], [-2, 1]])], [[1, 1], [1.5, 4]]),
        ([movement([[2], [-1]]), movement([[1], [1]])], [[1, 2], [1.5, 2]]),
        ([filters([1, 0]), filters([1, 1])], [[1, 2], [1.5, 2]]),
    ],
    ids=["rb", "movement", "filters"],
)
def test_every_kind_of_mask(pair, expected):
    """Also where a mask is the sign of a learned score: refused, and united, when the signs differ."""
    with pytest.raises(SoupError, match="its mask differs"):
        uniform(pair)
    soup = uniform(pair, "union")
    np.testing.assert_array_equal(soup.tensors["fc.weight"], expected)
    again = uniform([soup, soup])  # the mask is one that the transform knows
    np.testing.assert_array_equal(again.tensors["fc.weight"], expected)


def test_scores_of_one_mask_are_averaged():
    soup = uniform([scores([[2, -1], [1, 3]]), scores([[4, -3], [1, 1]])]).tensors
    np.testing.assert_array_equal(soup["fc.scores"], [[3, -2], [1, 2]])


def test_a_result_that_would_have_another_mask_is_refused():
    """Neither keeps the first row, one by its score and one by its frozen mask: of the means, both would keep it."""
    pair = [movement([[-1], [1]]), movement([[3], [1]])]
    pair[1].tensors["fc.mask"] = np.array([[0, 0], [1, 1]], np.uint8)
    for masks in ("refuse", "union"):
        with pytest.raises(SoupError, match="these masks have no"):
            uniform(pair, masks)


def test_thresholds_are_averaged_with_the_scores():
    soup = uniform([movement([[1], [-1]], 0.0), movement([[6], [4]], 5.0)]).tensors
    np.testing.assert_array_equal(soup["fc.score"] > soup["fc.schedule"][0], [[True], [False]])


def test_a_union_needs_to_know_the_parameters():
    old = [masked([[1, 0], [1, 1]]), masked([[1, 1], [0, 1]])]
    for one in old:
        del one.state["parameters"]
    with pytest.raises(SoupError, match="save them anew"):
        uniform(old, "union")
    assert uniform(old, "intersection").tensors["fc.mask"].tolist() == [[1, 0], [0, 1]]


# mistakes


@pytest.mark.parametrize("sources", [[], [model()], model(), "run.safetensors"])
def test_fewer_than_two(sources):
    with pytest.raises(SoupError, match="expected at least two models to average"):
        uniform(sources)


def test_mistakes_name_ingredient_tensor_and_numbers():
    other = model()
    other["fc.bias"] = np.zeros(3, np.float32)
    with pytest.raises(SoupError, match=r"ingredient 2: fc.bias has shape \(3,\), expected \(2,\) as in ingredient 1"):
        uniform([model(), other])
    with pytest.raises(SoupError, match="ingredient 2: fc.bias has type float16, expected float32"):
        uniform([model(), {**model(), "fc.bias": np.zeros(2, np.float16)}])
    with pytest.raises(SoupError, match=r"ingredient 1 has no tensor head, which ingredient 2 has \(1 such"):
        uniform([model(), model(head=np.zeros(1, np.float32))])
    with pytest.raises(SoupError, match="ingredient 3: 2 of 4 values of fc.weight are NaN, expected none"):
        uniform([model(), model(), {**model(), "fc.weight": np.array([[1, np.nan], [np.nan, 1]], np.float32)}])
    with pytest.raises(SoupError, match="ingredient 2: found a int, expected a file, a folder, or arrays"):
        uniform([model(), 3])
    with pytest.raises(SoupError, match="ingredient 1 has no compression state, ingredient 2 has one"):
        uniform([masked(np.ones((2, 2))).tensors, masked(np.ones((2, 2)))])
    four, eight = (
        compressed(NNCFQuantizer(bits=bits, symmetric=True, signed=True), {"scale": np.ones((1, 1), np.float32)}, np.eye(2))
        for bits in (4, 8)
    )
    with pytest.raises(SoupError, match="ingredient 2 has another plan than ingredient 1: quantizer at .* bits 8, expected 4"):
        uniform([four, eight])


def test_minus_infinity_is_a_number():
    """Attention masks have it."""
    assert uniform([{"m": np.array([-np.inf], np.float32)}] * 2).tensors["m"] == -np.inf


def test_a_type_that_numpy_lacks(tmp_path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(SoupError, match="w has type BF16, expected one that numpy has: save the model in float32"):
        uniform([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


# files


def test_files_in_and_out(tmp_path):
    mask = np.ones((2, 2), np.float32)
    for number in (1, 2):
        one = masked(mask, np.full((2, 2), number))
        save_checkpoint(tmp_path / f"{number}.safetensors", one.tensors, one.state)
    soup = uniform([tmp_path / "1.safetensors", str(tmp_path / "2.safetensors")])
    soup.save(tmp_path / "soup.safetensors")
    tensors, state = load_checkpoint(tmp_path / "soup.safetensors")
    assert state == soup.state and (tensors["fc.weight"] == 1.5).all()


def test_plain_files_stay_plain(tmp_path):
    for number in (1, 2):
        save_tensors(tmp_path / f"{number}.safetensors", model(float(number)))
    uniform([tmp_path / "1.safetensors", tmp_path / "2.safetensors"]).save(tmp_path / "soup.safetensors")
    file = TensorFile(tmp_path / "soup.safetensors")
    assert file.state is None and (file.read("fc.weight") == 1.5).all()


def test_every_tensor_is_read_once_and_one_share_of_0_never(tmp_path, monkeypatch):
    mask = np.ones((2, 2), np.float32)
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for number, path in enumerate(paths):
        one = masked(mask, np.full((2, 2), number))
        save_checkpoint(path, one.tensors, one.state)
    reads, read = [], TensorFile.read
    monkeypatch.setattr(TensorFile, "read", lambda file, name: (reads.append((file.path, name)), read(file, name))[1])
    for masks in ("refuse", "union", "intersection"):
        reads.clear()
        uniform(paths, masks)
        assert sorted(reads) == sorted((path, name) for path in paths for name in ("fc.mask", "fc.weight"))
    reads.clear()
    wise_ft(paths[:2], 0.0)
    assert {path for path, _ in reads} == {paths[0]}


def test_memory_of_two_models(tmp_path):
    """Ten models of 16 layers: the soup, and one tensor of theirs at a time; to save it takes the second model."""
    size, layers = 1 << 16, 16
    paths = [tmp_path / f"{number}.safetensors" for number in range(10)]
    for number, path in enumerate(paths):
        save_tensors(path, {f"layer{i}.weight": np.full(size, number, np.float32) for i in range(layers)})
    one = 4 * size * layers
    tracemalloc.start()
    try:
        soup = uniform(paths)
        blending = tracemalloc.get_traced_memory()[1]
        soup.save(tmp_path / "soup.safetensors")
        saving = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one < blending < 1.6 * one
    assert saving < 2.2 * one


# soups that are tried


class Arrays:
    """An adapter whose models are dicts of arrays, with the loss |factor * w - target|^2; `adapted`: batches for BatchNorm."""

    data = SimpleNamespace(
        expected=lambda model: ModelInputs(),
        items=lambda data: None,
        taken_apart=lambda data, batch: None,
        inputs=lambda structure: structure,
    )

    def __init__(self):
        self.adapted = []

    def tensors(self, model):
        return model

    def load_tensors(self, model, tensors):
        for name, value in tensors.items():
            model[name][...] = value

    def adapt_batchnorm(self, model, batches):
        self.adapted += list(batches)

    def loss_gradients(self, model, loss, batch, factor):
        difference = factor * model["w"] - batch[1]
        by_factor = float((2 * difference * model["w"]).sum())
        return float((difference**2).sum()), by_factor, {"w": 2 * factor * difference}


def points(*values):
    return [{"w": np.array(value, np.float32)} for value in values]


def trial(score, adapter=None, **more):
    return Trial(adapter or Arrays(), {"w": np.zeros(2, np.float32)}, score, **more)


def near(target):
    return lambda model: -float(np.abs(model["w"] - target).sum())


def test_data_that_can_be_read_once_are_refused():
    with pytest.raises(SoupError, match="^batches: found what can be read once, expected data that every merge reads anew"):
        trial(near([1, 1]), batches=iter(["batch"]))


def test_greedy_by_hand():
    """The best is [0, 2]; with [2, 0] the mean is on the target; [9, 9] would lead away."""
    adapter = Arrays()
    tried = trial(near([1, 1]), adapter, batches=lambda: [np.ones((3, 2))])
    soup = make_soup(tried, points([9, 9], [0, 2], [2.5, 0]), "greedy")
    np.testing.assert_array_equal(soup.tensors["w"], [1.25, 1])
    assert soup.score == -0.25 and list(soup.shares.values()) == [0, 0.5, 0.5]
    assert soup.scores == {"ingredient 1": -16, "ingredient 2": -2, "ingredient 3": -2.5}
    np.testing.assert_array_equal(tried.model["w"], soup.tensors["w"])
    assert len(adapter.adapted) == 3  # after every merge, not for ingredients alone
    assert "score of the soup: -0.25" in str(soup) and " 50.0% ingredient 3 (alone: -2.5)" in str(soup)


@given(st.lists(arrays(np.float32, 2, elements=st.floats(-4, 4, width=16)), min_size=2, max_size=6), st.integers(0, 99))
def test_greedy_is_never_below_the_best_ingredient(values, seed):
    target = np.random.default_rng(seed).normal(size=2)
    soup = make_soup(trial(near(target)), points(*values), "greedy")
    assert soup.score >= max(soup.scores.values()) and soup.score == near(target)(soup.tensors)
    chosen = [value for value, share in zip(values, soup.shares.values(), strict=True) if share]
    np.testing.assert_allclose(soup.tensors["w"], np.mean(chosen, 0), atol=1e-5)


def test_an_equal_score_is_enough():
    assert list(make_soup(trial(lambda model: 1.0), points([0, 0], [2, 2]), "greedy").shares.values()) == [0.5, 0.5]


def test_the_best_alone_keeps_its_own_statistics():
    adapter = Arrays()
    soup = make_soup(trial(near([9, 9]), adapter, batches=lambda: [np.ones((3, 2))]), points([9, 9], [0, 0]), "greedy")
    assert list(soup.shares.values()) == [1, 0] and len(adapter.adapted) == 1


def test_nothing_is_evaluated_where_an_ingredient_is_broken():
    asked = []
    with pytest.raises(SoupError, match="NaN"):
        make_soup(trial(asked.append), points([0, 0], [np.nan, 0]), "greedy")
    assert asked == []


@pytest.mark.parametrize("by_layer", [False, True])
def test_learned_finds_the_shares(by_layer):
    """The target is at 1/4 of one and 3/4 of the other, where no greedy soup is."""
    tried = trial(near([0.5, 1.5]))
    batches = [(None, np.array([0.5, 1.5]))] * 40
    soup = make_soup(tried, points([2, 0], [0, 2]), "learned", loss=len, data=lambda: batches, by_layer=by_layer)
    greedy = make_soup(trial(near([0.5, 1.5])), points([2, 0], [0, 2]), "greedy")
    assert soup.score > greedy.score
    np.testing.assert_allclose(list(soup.shares.values()), [0.25, 0.75], atol=0.05)
    np.testing.assert_array_equal(tried.model["w"], soup.tensors["w"])


def test_learned_is_the_greedy_soup_where_learning_makes_it_worse():
    batches = [(None, np.array([9.0, -9.0]))]
    soup = make_soup(trial(near([1, 1])), points([2, 0], [0, 2]), "learned", loss=len, data=lambda: batches)
    np.testing.assert_array_equal(soup.tensors["w"], [1, 1])
    assert soup.score == 0


def test_the_gradient_of_the_shares():
    """Against differences, for the loss |softmax(a) . w - target|^2."""
    found = [ingredient(source, i) for i, source in enumerate(points([1, 2], [3, -1], [0, 4]), 1)]
    shares, target = Shares(found, [0.5, 0.5, 0], False), np.array([1.0, 1.0])

    def mixed():
        return sum(s * source.read("w").astype(np.float64) for s, source in zip(shares.of("w"), found, strict=True))

    gradient = shares.gradient({"w": 2 * (mixed() - target)})
    for i in range(3):
        ends = []
        for move in (1e-6, -2e-6):
            shares.raw[0, i] += move
            ends.append(((mixed() - target) ** 2).sum())
        shares.raw[0, i] += 1e-6
        assert gradient[0, i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("name, layer", [("a.0.conv.weight", "a.0.conv"), ("dense/kernel", "dense"), ("w", "w")])
def test_layers(name, layer):
    assert layer_of(name) == layer


def test_mistakes_in_what_is_asked_for():
    pair = points([0, 0], [1, 1])
    with pytest.raises(SoupError, match="method: found 'greddy', .*did you mean 'greedy'"):
        make_soup(trial(len), pair, "greddy")
    with pytest.raises(SoupError, match=r"greedy: expected evaluate\(model\)"):
        make_soup(trial(None), pair, "greedy")
    with pytest.raises(SoupError, match=r"learned: expected loss\(outputs, target\) and data"):
        make_soup(trial(len), pair, "learned")
    with pytest.raises(SoupError, match="masks: found 'union', expected 'refuse'"):
        make_soup(trial(len), pair, "learned", "union", loss=len, data=list)
    with pytest.raises(SoupError, match="data: found no batch"):
        make_soup(trial(len), pair, "learned", loss=len, data=list)
    with pytest.raises(SoupError, match="evaluate gave NaN for ingredient 1"):
        make_soup(trial(lambda model: float("nan")), pair, "greedy")
    with pytest.raises(SoupError, match=r"model: v is absent, expected of shape \(2,\) as in ingredient 1"):
        make_soup(trial(len), [{"v": np.zeros(2, np.float32)}] * 2, "uniform")


# averages over one training


def trained(average, model, values):
    for value in values:
        model["w"][...] = value
        model["mask"][...] = value
        model["steps"] += 1
        average.update()


def fresh(decay, first=0.0):
    model = {"w": np.full(1, first, np.float32), "mask": np.ones(1, np.float32), "steps": np.zeros(1, np.int64)}
    return model, WeightAverage(Arrays(), model, {"mask"}, decay)


def test_ema_by_hand():
    """Warm-up d_t = .1, 2/11, .25: e = .9, then 2/11 * .9 + 9/11 * 2, ..."""
    model, average = fresh(0.999)
    trained(average, model, [1.0, 2.0, 3.0])
    second = 2 / 11 * 0.9 + 9 / 11 * 2
    assert average.tensors["w"][0] == pytest.approx(0.25 * second + 0.75 * 3, rel=1e-6)
    assert average.tensors["mask"] == 3 and average.tensors["steps"] == 3  # the latest


def test_swa_is_the_mean_of_the_updates():
    model, average = fresh(None, first=99.0)
    trained(average, model, [1.0, 2.0, 6.0])
    assert average.tensors["w"][0] == pytest.approx(3.0)


@given(st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=9), st.sampled_from([None, 0.5, 0.99]), st.data())
def test_an_average_resumes_bit_for_bit(tmp_path_factory, values, decay, data):
    path = tmp_path_factory.mktemp("average") / "average.safetensors"
    cut = data.draw(st.integers(0, len(values)))
    model, whole = fresh(decay)
    trained(whole, model, values)
    model, half = fresh(decay)
    trained(half, model, values[:cut])
    half.save(path)
    other, rest = fresh(decay, first=5.0)
    other["steps"][...] = cut
    rest.load(path)
    trained(rest, other, values[cut:])
    assert rest.updates == whole.updates
    assert rest.tensors["w"].tobytes() == whole.tensors["w"].tobytes()


def test_the_model_has_its_own_weights_again():
    model, average = fresh(None)
    trained(average, model, [1.0, 3.0])
    with average.applied() as averaged:
        assert averaged["w"] == 2
    assert model["w"] == 3


def test_averages_that_do_not_fit(tmp_path):
    _, average = fresh(0.9)
    average.save(tmp_path / "ema.safetensors")
    with pytest.raises(ValueError, match="found decay 0.9, expected an average with decay None"):
        fresh(None)[1].load(tmp_path / "ema.safetensors")
    other = WeightAverage(Arrays(), {"w": np.zeros(4, np.float32)}, (), 0.9)
    with pytest.raises(ValueError, match="is of another model: mask has shape"):
        other.load(tmp_path / "ema.safetensors")
    with pytest.raises(ValueError, match="decay: found 1.0"):
        WeightAverage(Arrays(), {}, (), 1.0)
