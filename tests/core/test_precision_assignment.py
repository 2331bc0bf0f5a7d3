"""The choice of bits as an integer programme: rules and ratio by hand, the optimum against every combination."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nncf_ext.quantization.precision.assignment import Choices, Use, fewest_operations, least_damage

# x -> a -> [w1, w2] -> b -> [w3]: w1 and w2 read the same activation
THREE = Choices(
    options={key: (2, 4, 8) for key in ("w1", "w2", "w3", "a", "b")},
    groups=((("w1", "w2"), ("a",)), (("w3",), ("b",))),
    uses={"w1": (Use(100, ("a",)),), "w2": (Use(300, ("a",)),), "w3": (Use(600, ("b",)),)},
)


def test_activations_get_the_fewest_bits_of_the_weights_they_meet():
    bits = THREE.with_activations({"w1": 8, "w2": 4, "w3": 2})
    assert (bits["a"], bits["b"]) == (4, 2)


def test_activations_keep_to_their_own_options():
    npu = Choices({**THREE.options, "a": (4, 8), "b": (8,)}, THREE.groups, THREE.uses)
    bits = npu.with_activations({"w1": 2, "w2": 8, "w3": 2})
    assert (bits["a"], bits["b"]) == (8, 8)  # of 4 and 8 only 8 is a weight's
    assert npu.with_activations({"w1": 2, "w2": 2, "w3": 2})["a"] == 4  # none is: the fewest


def test_ratio_by_hand():
    assert THREE.ratio({"w1": 8, "w2": 8, "w3": 8}) == 1
    assert THREE.ratio({"w1": 8, "w2": 4, "w3": 2}) == pytest.approx(8 * 1000 / (8 * 100 + 4 * 300 + 2 * 600))
    # w1 has 2 bits, but its input 8: it computes with 8
    npu = Choices({**THREE.options, "a": (8,)}, THREE.groups, THREE.uses)
    assert npu.ratio({"w1": 2, "w2": 4, "w3": 2}) == pytest.approx(8 * 1000 / (8 * 400 + 2 * 600))


def test_a_float_input_counts_as_the_weight_does():
    alone = Choices({"w": (2, 8)}, ((("w",), ()),), {"w": (Use(10, ()),)})
    assert alone.ratio({"w": 2}) == 4


def test_optimum_by_hand():
    damage = {
        "w1": {2: 9.0, 4: 1.0, 8: 0.0},
        "w2": {2: 9.0, 4: 1.0, 8: 0.0},
        "w3": {2: 50.0, 4: 5.0, 8: 0.0},
    }
    assert least_damage(THREE, damage, 1.0) == {"w1": 8, "w2": 8, "w3": 8}
    # ratio 1.25 leaves 6400 of 8000 bit operations: w2 at 2 bits saves 1800, w2 and w1 at 4 bits 1600, w3 at 4 bits 2400
    assert least_damage(THREE, damage, 1.25) == {"w1": 4, "w2": 4, "w3": 8}
    assert least_damage(THREE, damage, 2.0) == {"w1": 4, "w2": 4, "w3": 4}
    assert least_damage(THREE, damage, 4.0) == {"w1": 2, "w2": 2, "w3": 2}
    assert fewest_operations(THREE) == {"w1": 2, "w2": 2, "w3": 2}


def test_strict_groups_have_one_number_of_bits():
    damage = {"w1": {2: 9.0, 4: 8.0, 8: 0.0}, "w2": {2: 0.1, 4: 0.0, 8: 0.0}, "w3": {2: 0.0, 4: 0.0, 8: 0.0}}
    assert least_damage(THREE, damage, 2.0) == {"w1": 8, "w2": 4, "w3": 2}
    strict = Choices(THREE.options, THREE.groups, THREE.uses, strict=True)
    found = least_damage(strict, damage, 2.0)
    assert (found["w1"], found["w2"]) == (4, 4)  # both at 8 would leave less than 2 bits for w3
    with pytest.raises(ValueError, match="within the budget"):
        least_damage(strict, damage, 4.1)


@st.composite
def problems(draw):
    """Up to six weights in up to three groups, with activations whose options may be fewer than the weights'."""
    subsets = [(8,), (2, 8), (4, 8), (2, 4, 8), (2, 4), (3, 5, 8)]
    options, groups, uses = {}, [], {}
    for group in range(draw(st.integers(1, 3))):
        weights = tuple(f"w{group}{i}" for i in range(draw(st.integers(1, 2))))
        activations = tuple(f"a{group}{i}" for i in range(draw(st.integers(0, 2))))
        for key in (*weights, *activations):
            options[key] = draw(st.sampled_from(subsets))
        groups.append((weights, activations))
        for key in weights:
            nodes = draw(st.integers(1, 2))
            uses[key] = tuple(
                Use(draw(st.integers(0, 10**9)), tuple(a for a in activations if draw(st.booleans()))) for _ in range(nodes)
            )
    choices = Choices(options, tuple(groups), uses)
    damage = {key: {bits: draw(st.floats(0, 1e6)) for bits in options[key]} for key in choices.weights}
    return choices, damage


UNEVEN = Choices(  # the second layer's operations are within the solver's tolerance of the first's
    {"w0": (4, 8), "a0": (8,), "w1": (2, 4), "a1": (3, 5, 8)},
    ((("w0",), ("a0",)), (("w1",), ("a1",))),
    {"w0": (Use(2132940, ()),), "w1": (Use(1, ("a1",)),)},
)


@settings(max_examples=150, deadline=None)
@given(problems(), st.floats(0, 1))
@example((UNEVEN, {"w0": {4: 1.0, 8: 0.0}, "w1": {2: 0.0, 4: 0.0}}), 2.0**-24)
def test_optimum_is_that_of_every_combination(problem, where):
    choices, damage = problem
    weights = choices.weights
    every = [dict(zip(weights, bits, strict=True)) for bits in itertools.product(*(choices.options[key] for key in weights))]
    ratios = np.array([choices.ratio(bits) for bits in every])
    assert choices.ratio(fewest_operations(choices)) == pytest.approx(ratios.max(), rel=1e-6)

    target = ratios.min() + where * (ratios.max() - ratios.min())
    costs = np.array([sum(damage[key][bits[key]] for key in weights) for bits in every])
    found = least_damage(choices, damage, target)
    assert choices.ratio(found) >= target * (1 - 1e-6)
    # a budget that is met but for rounding counts as met
    assert sum(damage[key][found[key]] for key in weights) <= costs[ratios >= target].min() * (1 + 1e-9)
    assert sum(damage[key][found[key]] for key in weights) >= costs[ratios >= target * (1 - 2e-6)].min() * (1 - 1e-9)


def test_a_hundred_layers():
    rng = np.random.default_rng(0)
    keys = [f"w{i}" for i in range(100)]
    choices = Choices(
        {**dict.fromkeys(keys, (2, 4, 8)), **{f"a{i}": (4, 8) for i in range(100)}},
        tuple(((key,), (f"a{i}",)) for i, key in enumerate(keys)),
        {key: (Use(int(rng.integers(1, 10**9)), (f"a{i}",)),) for i, key in enumerate(keys)},
    )
    damage = {key: {8: s / 4096, 4: s / 16, 2: s} for key, s in zip(keys, 10 ** rng.uniform(-6, 2, 100), strict=True)}
    found = least_damage(choices, damage, 1.5)
    assert 1.5 <= choices.ratio(found) < 1.55
