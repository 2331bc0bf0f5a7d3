"""product_quantization: k-means, error correction, look-up tables; numbers of the paper (Wu et al. 2016)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncf_ext import ConfigError, NNCFConfig, packed
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.product_quantization import ProductQuantizer
from nncf_ext.coding.product_codes import (
    Layout,
    code_bits,
    convolution_response,
    decoded,
    k_means,
    linear_response,
    multiply_adds,
    product_code,
)
from nncf_ext.coding.response_fit import Moments, fit, patches, same_upper
from nncf_ext.graph import INPUT, Edge, Graph, Node, Parameter
from nncf_ext.packed.plain import packed_model


def weight_of(*shape, zeros=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * (rng.random(shape) >= zeros)).astype(np.float32)


def algorithm(**params):
    return NNCFConfig.from_dict({"compression": {"algorithm": "product_quantization", "params": params}}).algorithms()[0]


# Codes --------------------------------------------------------------------------------------------------------------------


def test_two_clusters_by_hand():
    vectors = np.array([[1.0, 2], [5, 5], [1, 4], [7, 5], [1, 3]])
    means, codes = k_means(vectors, 2, np.random.default_rng(0))
    assert sorted(means.tolist()) == [[1, 3], [6, 5]]
    assert means[codes].tolist() == [[1, 3], [6, 5], [1, 3], [6, 5], [1, 3]]


def test_zeros_count_in_no_distance_and_no_mean():
    """The mean of 4 and of what is masked is 4."""
    vectors = np.array([[1.0, 4], [1, 0], [9, 9], [9, 8]])
    means, codes = k_means(vectors, 2, np.random.default_rng(0))
    assert codes[0] == codes[1] != codes[2] == codes[3]
    assert means[codes[0]].tolist() == [1, 4] and means[codes[2]].tolist() == [9, 8.5]


@settings(max_examples=40, deadline=None)
@given(distinct=st.integers(1, 6), spare=st.integers(0, 3), positions=st.integers(1, 3), seed=st.integers(0, 99))
def test_exact_where_there_are_as_many_codewords_as_sub_vectors(distinct, spare, positions, seed):
    """Also with one distinct sub-vector, and with zeros in it."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(-2, 3, (2, distinct, 4)).astype(np.float32)
    codes = rng.integers(distinct, size=(2, positions, 9))
    weight = decoded(choices, codes)
    np.testing.assert_array_equal(decoded(*product_code(weight, 4, distinct + spare)), weight)


@settings(max_examples=30, deadline=None)
@given(k=st.integers(2, 12), zeros=st.floats(0, 1), seed=st.integers(0, 99))
def test_more_codewords_than_needed_or_fewer(k, zeros, seed):
    """All zeros, and clusters that are left empty, included: codes are in range, and no sub-vector is nearer to another mean."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, (40, 2)) * (rng.random((40, 2)) >= zeros)
    means, codes = k_means(vectors.astype(float), k, rng)
    assert means.shape == (k, 2) and np.isfinite(means).all() and 0 <= codes.min() <= codes.max() < k
    distance = (((vectors[:, None] - means) * (vectors != 0)[:, None]) ** 2).sum(2)
    np.testing.assert_allclose(distance[np.arange(40), codes], distance.min(1), atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "axis", "outputs"),
    [
        ((5, 8), 1, (0,)),
        ((8, 5), 0, (1,)),
        ((6, 8, 3, 2), 1, (0,)),
        ((3, 2, 8, 6), 2, (3,)),
        ((3, 8, 6), 1, (2,)),
        ((8, 2, 3), 0, (1, 2)),
    ],
)
def test_every_layout_is_decoded_as_it_was_coded(shape, axis, outputs):
    """By the transform, by a packed file, and in the order of the mathematics: layers of both frameworks."""
    layout, weight = Layout(shape, axis, outputs), weight_of(*shape, zeros=0.1)
    codebook, codes = product_code(layout.canonical(weight), 4, 3)
    stored = layout.stored(codes)
    np.testing.assert_array_equal(layout.in_positions(stored), codes)
    transform, variables = ProductQuantizer(subvector=4, codewords=3, axis=axis).calibrate(shape, None)
    assert variables["codebook"].value.shape == codebook.shape and variables["codes"].value.shape == stored.shape
    uncoded = {name: var.value for name, var in variables.items()}
    np.testing.assert_array_equal(transform.apply(xp, weight, uncoded, True), weight)
    found = transform.apply(xp, weight, {"codebook": codebook, "codes": stored.astype(np.int32)}, True)
    assert (found[weight == 0] == 0).all()
    np.testing.assert_array_equal(layout.canonical(found), decoded(codebook, codes) * (layout.canonical(weight) != 0))
    np.testing.assert_array_equal(packed.Product(codebook, stored, shape, axis, weight != 0).decoded(), found)


# Error correction ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    positions=st.integers(1, 3),
    k=st.integers(2, 6),
    zeros=st.sampled_from([0, 0.4, 1]),
    seed=st.integers(0, 99),
    few=st.booleans(),
)
def test_error_correction_is_never_worse_than_k_means(positions, k, zeros, seed, few):
    rng = np.random.default_rng(seed)
    weight = weight_of(positions, 8, 6, zeros=zeros, seed=seed)
    original = rng.normal(size=(5 if few else 60, positions * 8)) @ rng.normal(size=(positions * 8,) * 2)
    coded = original + 0.3 * rng.normal(size=original.shape)
    moments = Moments(positions * 8, 6)
    for part in np.array_split(np.arange(len(original)), 2):
        moments.add(coded[part], original[part] @ weight.reshape(-1, 6))
    start = product_code(weight, 4, k)
    codebook, codes, before, after = fit(*start, weight, moments)

    def error(codebook, codes):
        found = decoded(codebook, codes) * (weight != 0)
        return np.square(original @ weight.reshape(-1, 6) - coded @ found.reshape(-1, 6)).sum()

    scale = 1e-6 * moments.responses + 1e-9
    assert before == pytest.approx(error(*start), rel=1e-6, abs=scale)
    assert after == pytest.approx(error(codebook, codes), rel=1e-6, abs=scale)
    assert after <= before + scale
    assert 0 <= codes.min() <= codes.max() < k and np.isfinite(codebook).all()


def test_error_correction_by_hand():
    """One input with the weight 2 and the response 2, which has become 4: A = 16, B = 8, and a pull of 0.16 to the weight."""
    moments = Moments(1, 1)
    moments.add(np.array([[4.0]]), np.array([[2.0]]))
    start = np.full((1, 1, 1), 2, np.float32), np.zeros((1, 1, 1), int)
    codebook, codes, before, after = fit(*start, np.full((1, 1, 1), 2.0), moments)
    value = (8 + 0.16 * 2) / (16 + 0.16)
    assert codebook.item() == pytest.approx(value, rel=1e-4) and codes.item() == 0
    assert before == 36 and after == pytest.approx((2 - 4 * value) ** 2, rel=1e-3)


def test_error_correction_finds_what_fits_exactly():
    """Inputs are halved on the way: twice the weight has the same responses, and as few sub-vectors."""
    rng = np.random.default_rng(0)
    weight = decoded(rng.normal(size=(2, 3, 4)).astype(np.float32), rng.integers(3, size=(2, 1, 20)))
    x = rng.normal(size=(100, 8))
    moments = Moments(8, 20)
    moments.add(x / 2, x @ weight[0])
    codebook, codes, before, after = fit(*product_code(weight, 4, 3), weight, moments)
    assert after < 1e-3 * before
    np.testing.assert_allclose(decoded(codebook, codes), 2 * weight, rtol=0.02, atol=0.02)


# Look-up tables -----------------------------------------------------------------------------------------------------------


def test_linear_look_up_tables():
    codebook, codes = product_code(weight_of(1, 12, 9), 4, 5)
    x = weight_of(7, 12, seed=1)
    np.testing.assert_allclose(linear_response(x, codebook, codes), x @ decoded(codebook, codes)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "dilations"),
    [
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        ((3, 2), (2, 1), (0, 1, 2, 0), (1, 3)),
        ((1, 1), (2, 2), (0,) * 4, (1, 1)),
        ((3,), (2,), (2, 0), (1,)),
    ],
)
def test_convolution_look_up_tables_and_patches(kernel, strides, pads, dilations):
    """Against the sum over the kernel, written out."""
    codebook, codes = product_code(weight_of(int(np.prod(kernel)), 8, 6), 4, 5)
    weight, x = decoded(codebook, codes), weight_of(2, *(9, 8)[: len(kernel)], 8, seed=1)
    found = convolution_response(x, codebook, codes, kernel, strides, pads, dilations)
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), *zip(pads[:rank], pads[rank:], strict=True), (0, 0)])
    want = np.zeros_like(found)
    for place in np.ndindex(*found.shape[1:-1]):
        for position, at in enumerate(np.ndindex(*kernel)):
            where = tuple(p * s + a * d for p, s, a, d in zip(place, strides, at, dilations, strict=True))
            want[(slice(None), *place)] += padded[(slice(None), *where)] @ weight[position]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    by_patches = patches(x, kernel, strides, pads, dilations) @ weight.reshape(-1, 6)
    np.testing.assert_allclose(by_patches.reshape(found.shape), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "extent", "stride", "pads"), [(8, 3, 1, (1, 1)), (8, 3, 2, (0, 1)), (7, 2, 1, (0, 1)), (5, 1, 2, (0, 0))]
)
def test_same_pads(size, extent, stride, pads):
    assert same_upper([size], [extent], [stride]) == pads
    assert patches(np.zeros((1, size, 1)), (extent,), (stride,), None, (1,)).shape[1] == -(-size // stride)


def test_numbers_of_the_paper():
    """fc6 of AlexNet: 9216 -> 4096 by 2304 code books of 32: 3.879 times fewer operations, 21.33 times smaller."""
    assert multiply_adds(9216, 4096, 4, 32) == 9_732_096
    assert 9216 * 4096 / multiply_adds(9216, 4096, 4, 32) == pytest.approx(3.879, abs=5e-4)
    assert 32 * 9216 * 4096 / code_bits(9216, 4096, 4, 32) == pytest.approx(21.33, abs=5e-3)
    assert code_bits(9216, 4096, 4, 32) == 32 * 9216 * 32 + 2304 * 4096 * 5
    # 3x3, 64 -> 128 channels, 16 x 16 places: ds^2 Cs K + dt^2 dk^2 Ct M
    assert multiply_adds(64, 128, 8, 128, 9, 256, 256) == 256 * 64 * 128 + 256 * 9 * 128 * 8
    assert code_bits(64, 128, 8, 128, 9) == 32 * 64 * 128 + 8 * 9 * 128 * 7


# Plans --------------------------------------------------------------------------------------------------------------------


def graph_of(*nodes):
    """A chain."""
    nodes = (Node("in", INPUT), *nodes)
    return Graph(nodes, tuple(Edge(a.name, b.name, shape=(2, 6, 8, 8)) for a, b in zip(nodes, nodes[1:], strict=False)))


def conv(name, shape=(8, 6, 3, 3), **attrs):
    return Node(
        name, "Conv", parameters=(Parameter("weight", f"{name}.w", shape, 0, 1, input_axis=1),), attrs={"groups": 1, **attrs}
    )


def linear(name, shape=(40, 8)):
    return Node(name, "Gemm", parameters=(Parameter("weight", f"{name}.w", shape, 0, 1, input_axis=1),))


def test_plan_and_its_statistics():
    table = Node("table", "Gather", parameters=(Parameter("weight", "table.w", (50, 8), 1, 0),))
    grouped = conv("grouped", (6, 1, 3, 3), groups=6, depthwise=True)
    own = algorithm(conv={"codewords": 8}, by_scope={"{re}last": {"subvector": 2, "codewords": 999}, "first": {"subvector": 3}})
    graph = graph_of(conv("first"), grouped, conv("narrow", (8, 3, 1, 1)), linear("fc"), linear("last"), table)
    plan = own.plan(graph, "ANY")
    kinds = {edit.site.node: (edit.transform.subvector, edit.transform.codewords, edit.transform.axis) for edit in plan}
    assert kinds == {"first": (3, 8, 1), "fc": (4, 32, 1)}
    reasons = dict(plan.skipped)
    assert "in groups" in reasons["grouped"] and "Gather: product codes are for" in reasons["table"]
    assert reasons["last"] == "code books of 40 x 2 would be no shorter than its 320 weights"  # of 40 sub-vectors each
    assert reasons["narrow"] == "a convolution in groups: its outputs do not read the same inputs"  # of 6 channels it reads 3
    report = own.plan_summary(graph, plan.edits).report
    assert [layer.bits for layer in report.layers] == [32 * 6 * 8 + 2 * 72 * 3, 32 * 8 * 32 + 2 * 40 * 5]
    assert report.layers[0].multiply_adds == 64 * 6 * 8 + 64 * 9 * 8 * 2 and not report.coded


def test_few_inputs_are_one_sub_vector():
    graph = graph_of(conv("rgb", (64, 3, 7, 7)))
    edges = tuple(Edge(e.source, e.target, shape=(2, 3, 8, 8)) for e in graph.edges)
    (edit,) = algorithm().plan(Graph(graph.nodes, edges), "ANY").edits
    assert (edit.transform.subvector, edit.transform.codewords) == (3, 128)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, r"params.conv.subvector: found 4 for first with 6 inputs, expected a divisor of 6, 3 say \(by_scope"),
        (
            {"conv": {"subvector": 3}, "by_scope": {"fc": {"subvector": 3}}},
            r"params.by_scope: found 3 for fc with 8 inputs.* 2 say",
        ),
        ({"by_scope": {"firs": {"subvector": 3}}}, r'params.by_scope: "firs" matches no node exactly'),
        ({"conv": {"codewords": 1}}, "params.conv.codewords"),
        ({"subvector": 4}, "params.subvector: unknown key"),
    ],
)
def test_mistakes(params, message):
    with pytest.raises(ConfigError, match=message):
        algorithm(**params).plan(graph_of(conv("first"), linear("fc")), "ANY")


# Packed files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("zeros", "codec"), [(0, "product"), (0.02, "product"), (0.995, "sparse, raw")])
def test_packed_as_codes_where_that_is_shorter(zeros, codec, tmp_path):
    shape = (256, 128)
    weight = weight_of(*shape, zeros=zeros)
    layout, transform = Layout(shape, 1, (0,)), ProductQuantizer(subvector=4, codewords=8, axis=1)
    codebook, codes = product_code(layout.canonical(weight), 4, 8)
    variables = {"codebook": codebook, "codes": layout.stored(codes).astype(np.int32)}
    values = transform.apply(xp, weight, variables, False)
    graph = graph_of(linear("fc", shape))
    (edit,) = algorithm().plan(graph, "ANY").edits
    edit = type(edit)(edit.sites, transform, edit.algorithm)
    packed_model(tmp_path / "x.ncp", {"fc.w": values}, {edit: variables}, graph, "none")
    file = packed.Packed(tmp_path / "x.ncp")
    np.testing.assert_array_equal(file["fc.w"], values)
    assert codec in file.codec("fc.w") and file.stored_bytes("fc.w") < values.nbytes / 3
    if zeros == 0:  # three bits for four numbers, and the code books
        assert file.stored_bytes("fc.w") < 1.02 * (values.size * 3 / 4 / 8 + codebook.nbytes)
