"""Bits by hand, by second derivatives and by trial: the parts that need no framework."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncf_ext.calibration.initialization import micro_batches
from nncf_ext.calibration.trials import first_part, search
from nncf_ext.errors import ConfigError
from nncf_ext.nncf_config import NNCFConfig
from nncf_ext.quantization.precision.autoq import size_ratio, within_size
from nncf_ext.quantization.precision.choice import bits_by_hand
from nncf_ext.quantization.precision.hessian import mean_traces
from nncf_ext.quantization.precision.traces_file import read_traces
from tests.core.test_precision_adjacency import quantizer

# Bits by hand -------------------------------------------------------------------------------------------------------------

QUANTIZERS = (
    quantizer("/nncf_model_input_0|output"),
    quantizer("Net/Conv2d[conv1]/conv2d_0|weight"),
    quantizer("Net/ReLU[relu]/relu__0|output"),
    quantizer("Net/Conv2d[conv2]/conv2d_0|weight"),
    quantizer("Net/__add___0|input:1", "Net/Conv2d[conv2]/conv2d_0|output"),
)
FREE = {edit.key: None for edit in QUANTIZERS}


def by_hand(*pairs, supported=FREE):
    found = bits_by_hand(pairs, QUANTIZERS, supported, "NPU", "precision")
    return {key.rpartition("|")[0]: bits for key, bits in found.items()}


@pytest.mark.parametrize(
    "scope, named",
    [
        ("Net/NNCFConv2d[conv1]/conv2d_0|WEIGHT", ["Net/Conv2d[conv1]/conv2d_0|weight"]),
        ("Net/Conv2d[conv1]/conv2d_0|weight", ["Net/Conv2d[conv1]/conv2d_0|weight"]),
        ("Net/Conv2d[conv1]/conv2d_0", ["Net/Conv2d[conv1]/conv2d_0|weight"]),
        ("Net/ReLU[relu]/relu__0|OUTPUT", ["Net/ReLU[relu]/relu__0|output"]),
        ("Net/__add___0|INPUT1", ["Net/__add___0|input:1"]),
        ("Net/NNCFConv2d[conv2]/conv2d_0|OUTPUT", ["Net/__add___0|input:1"]),  # any site of a shared quantizer names it
        ("Net/Conv2d[conv2]/conv2d_0", ["Net/Conv2d[conv2]/conv2d_0|weight", "Net/__add___0|input:1"]),
        (r"{re}conv\d.*\|WEIGHT", ["Net/Conv2d[conv1]/conv2d_0|weight", "Net/Conv2d[conv2]/conv2d_0|weight"]),
        ("/nncf_model_input_0|OUTPUT", ["/nncf_model_input_0|output"]),
    ],
)
def test_names_of_quantizers(scope, named):
    assert by_hand((4, scope)) == dict.fromkeys(named, 4)


def test_a_later_pair_wins():
    found = by_hand((4, r"{re}\|weight"), (2, "Net/Conv2d[conv2]/conv2d_0|WEIGHT"))
    assert found == {"Net/Conv2d[conv1]/conv2d_0|weight": 4, "Net/Conv2d[conv2]/conv2d_0|weight": 2}


def test_no_such_quantizer():
    message = r'^precision.bitwidth_per_scope\[1\]: "Net/NNCFConv2d\[conv3\]/conv2d_0\|WEIGHT" matches no quantizer; the nearest'
    with pytest.raises(ConfigError, match=message):
        by_hand((4, r"{re}\|weight"), (4, "Net/NNCFConv2d[conv3]/conv2d_0|WEIGHT"))


def test_bits_that_the_device_lacks():
    with pytest.raises(
        ConfigError,
        match=r"found 2 bits for /nncf_model_input_0\|output, which target_device NPU does not have there, expected 4 or 8",
    ):
        by_hand((2, "/nncf_model_input_0"), supported={**FREE, QUANTIZERS[0].key: (4, 8)})


# Traces -------------------------------------------------------------------------------------------------------------------


def counted(products):
    calls = []

    def call(batch, signs):
        calls.append(batch)
        return products(batch, signs)

    return call, calls


def test_a_diagonal_hessian_takes_one_round():
    """diag(1, 2, 3) and diag(4): mean traces 2 and 4, with any signs."""
    products, calls = counted(lambda batch, signs: [np.array([1.0, 2.0, 3.0]) * signs[0], 4.0 * signs[1]])
    assert mean_traces(products, [(3,), (2, 1)], [("b", 5)], 1e-4, range(50)) == pytest.approx([2, 4])
    assert len(calls) == 2  # the second shows that nothing changes


def test_every_batch_has_its_turn_and_its_weight():
    products, calls = counted(lambda batch, signs: [float(batch) * signs[0]])
    found = mean_traces(products, [(4,)], [(1, 10), (1, 10), (7, 5)], 1e-2, range(3))
    assert calls == [1, 1, 7]
    assert found == pytest.approx([(1 * 10 + 1 * 10 + 7 * 5) / 25])


def test_traces_of_a_least_squares_loss():
    """mean over n of (x_n . w - y_n)^2: H = 2/N X^T X, whose mean trace is 2/N * sum(X^2) / number of weights."""
    x = np.random.default_rng(0).normal(size=(30, 12))
    hessian = 2 / 30 * x.T @ x
    products, _ = counted(lambda batch, signs: [hessian @ signs[0]])
    found = mean_traces(products, [(12,)], [(None, 30)], 0.0, range(2000))
    assert found == pytest.approx([2 / 30 * (x**2).sum() / 12], rel=0.02)


def test_batches_are_taken_two_samples_at_a_time():
    batch = (
        (np.arange(10).reshape(5, 2), [np.arange(5), np.ones((5, 1))]),
        {"scale": 3, "mask": np.ones((1, 2))},
        ["a", "b", "c", "d", "e"],
    )
    found = list(micro_batches(batch, 5))
    assert [part[2] for part in found] == [["a", "b"], ["c", "d"], ["e"]]
    (images, (first, second)), rest, _ = found[1]
    assert images.tolist() == [[4, 5], [6, 7]] and first.tolist() == [2, 3] and second.shape == (2, 1)
    assert rest["scale"] == 3 and rest["mask"].shape == (1, 2)
    boxes = [{"boxes": np.ones((k, 4))} for k in (2, 1)]
    assert [part[1] for part in micro_batches((np.ones((2, 3)), boxes), 2, size=1)] == [boxes[:1], boxes[1:]]


def test_tolerance_is_relative():
    """Traces as small as those of a large model's weights do not end the search by their size."""
    rng = np.random.default_rng(0)
    products, calls = counted(lambda batch, signs: [1e-9 * rng.uniform(0.5, 1.5) * signs[0]])
    mean_traces(products, [(3,)], [("b", 1)], 1e-4, range(20))
    assert len(calls) > 5


@pytest.mark.parametrize("suffix", [".npy", ".json", ".safetensors", ".pt"])
def test_traces_from_a_file(tmp_path, suffix):
    path = tmp_path / f"traces{suffix}"
    traces = np.array([3.0, 0.5, 0.25])
    if suffix == ".npy":
        np.save(path, traces)
    elif suffix == ".json":
        path.write_text(json.dumps({"traces": {"c": 0.25, "a": 3.0, "b": 0.5}, "other": 1}))
    elif suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"traces": traces}, path)
    else:
        path.write_bytes(b"torch")
    assert read_traces(path, ["a", "b", "c"], lambda path: traces, "w").tolist() == traces.tolist()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.npy", None, "missing.npy is not there"),
        ("short.json", "[1, 2]", "has 2 numbers, expected one for each of 3 quantized weights"),
        ("names.json", '{"a": 1, "b": 2}', "cannot be used: it has nothing for c"),
        ("pickle.npy", "\x80\x04", "cannot be used"),
        ("traces.csv", "1,2,3", "found a .csv file, expected .npy"),
        ("infinite.json", "[1, 2, Infinity]", "has numbers that are not finite"),
    ],
)
def test_a_file_without_the_traces(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=message):
        read_traces(tmp_path / name, ["a", "b", "c"], lambda path: np.zeros(3), "w")


# AutoQ --------------------------------------------------------------------------------------------------------------------

OPTIONS = {"a": (2, 4, 8), "b": (2, 4, 8), "c": (4, 8)}
SIZES = {"a": 10, "b": 20, "c": 30}


def test_size_by_hand():
    assert size_ratio({"a": 8, "b": 4, "c": 4}, SIZES) == pytest.approx((80 + 80 + 120) / (32 * 60))


def test_bits_are_lowered_from_the_last_weight_backwards():
    """8, 8, 8 are 480 bits. 360: c to 4. 240: c, b to 4 (280), a to 4 (240). 200: then c has no less, b to 2."""
    eights = dict.fromkeys(OPTIONS, 8)
    for bits, expected in (
        (480, [8, 8, 8]),
        (360, [8, 8, 4]),
        (280, [8, 4, 4]),
        (240, [4, 4, 4]),
        (200, [4, 2, 4]),
        (180, [2, 2, 4]),
    ):
        found = within_size(eights, OPTIONS, SIZES, bits / (32 * 60))
        assert list(found.values()) == expected, bits


@given(st.fixed_dictionaries({key: st.sampled_from(choice) for key, choice in OPTIONS.items()}), st.floats(180 / 1920, 0.3))
def test_within_size(bits, ratio):
    found = within_size(bits, OPTIONS, SIZES, ratio)
    assert size_ratio(found, SIZES) <= ratio * (1 + 1e-9)
    assert all(found[key] in OPTIONS[key] and found[key] <= bits[key] for key in bits)


def test_search_starts_where_it_is_told_finds_the_best_and_repeats_itself():
    def run():
        proposals = []

        def reward(bits):
            proposals.append(bits)
            return -abs(bits["a"] - 4) - abs(bits["b"] - 2) - abs(bits["c"] - 8)

        search(reward, OPTIONS, {"a": 8, "b": 8, "c": 8}, range(25), 5)
        return proposals

    first = run()
    assert len(first) == 25
    assert first[0] == {"a": 8, "b": 8, "c": 8}
    assert {"a": 4, "b": 2, "c": 8} in first
    assert first == run()


def test_part_of_the_validation_data():
    class Loader(list):
        batch_size = 4

    loader = Loader(range(10))
    assert first_part(loader, 1) is loader
    part = first_part(loader, 0.25)
    assert (list(part), list(part), len(part), part.batch_size) == ([0, 1, 2], [0, 1, 2], 3, 4)


# The section --------------------------------------------------------------------------------------------------------------


def section(**keys):
    config = {"compression": {"algorithm": "quantization", "initializer": {"precision": keys}}}
    return NNCFConfig.from_dict(config).algorithms()[0].initializer.precision


def test_defaults_of_nncf():
    hawq, autoq = section(type="hawq"), section(type="autoq", iter_number=5)
    assert (hawq.bits, hawq.num_data_points, hawq.iterations, hawq.tolerance, hawq.ratio) == ((2, 4, 8), 100, 200, 1e-4, 1.5)
    assert (autoq.bits, autoq.iterations, autoq.ratio, autoq.eval_subset_ratio, autoq.warmup_iter_number) == (
        (2, 4, 8), 5, 0.15, 1.0, 20,
    )  # fmt: skip
    assert section().type == "manual"


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"type": "autoq"}, "precision.iter_number: missing, expected the number of models to try"),
        ({"type": "autoq", "iter_number": 0}, "precision.iter_number: found 0, expected greater than or equal to 1"),
        ({"type": "hawk"}, "did you mean 'hawq'?"),
        ({"type": "hawq", "bits": []}, "precision.bits"),
        ({"type": "hawq", "bits": [16]}, "precision.bits[0]"),
        ({"bitwidth_per_scope": [[4, "{re}("]]}, "precision.bitwidth_per_scope[0][1]: '{re}(' is no regular expression"),
        ({"type": "autoq", "iter_number": 1, "skip_constraint": True}, "precision.skip_constraint: unknown key"),
    ],
)
def test_mistakes_in_the_section(keys, message):
    with pytest.raises(ConfigError) as caught:
        section(**keys)
    assert message in str(caught.value)
