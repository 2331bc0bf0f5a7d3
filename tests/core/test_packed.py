"""Packed files: what goes in comes out, as short as it can be; and nothing that is not one is believed."""

import json
import struct
import tracemalloc
import zlib

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from nncf_ext import packed
from nncf_ext.packed.coding import _sparse
from nncf_ext.packed.layout import CHUNK, MAGIC, PREFIX
from nncf_ext.tools.cli import main


def there_and_back(folder, array):
    path = folder / "x.ncp"
    packed.pack_arrays(path, {"x": array})
    return packed.load(path)["x"], packed.Packed(path)


def weights(n, kept=1.0, seed=0, digits=None):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n).astype(np.float32)
    values = values if digits is None else values.round(digits)
    return values * (rng.random(n) < kept)


KINDS = st.sampled_from(["f4", "f2", "f8", "i1", "u1", "i2", "i4", "i8", "?"])


@settings(max_examples=60, deadline=None)
@given(array=KINDS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, min_side=0, max_side=9))))
def test_every_array_comes_back(array, tmp_path_factory):
    back, _ = there_and_back(tmp_path_factory.mktemp("packed"), array)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("array", "codec"),
    [
        (weights(30_000), "planes"),
        (weights(30_000, digits=1), "book"),
        (weights(30_000, kept=0.1), "sparse, planes"),
        (weights(30_000, kept=0.02, digits=1), "book"),  # zero is a level like others
        (np.repeat(weights(300, kept=0.3), 100), "sparse, book"),
        (np.zeros(30_000, np.float32), "book"),
        (np.full(30_000, 2.5, np.float32), "book"),
        (np.random.default_rng(0).integers(0, 256, 30_000).astype(np.uint8), "raw"),
        (np.eye(200, dtype=np.int8), "sparse, book"),
        (weights(300_000).astype(ml_dtypes.bfloat16).view(np.uint16), "book"),
    ],
    ids=str,
)
def test_codecs(array, codec, tmp_path):
    back, file = there_and_back(tmp_path, array)
    np.testing.assert_array_equal(back, array)
    assert file.codec("x") == codec


def test_chunks(tmp_path):
    array = weights(CHUNK + 1000, kept=0.05, digits=1)
    array[CHUNK - 500 : CHUNK + 500] = 0
    back, _ = there_and_back(tmp_path, array)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("kept", [1.0, 0.3, 0.08, 0.01])
@pytest.mark.parametrize("digits", [0, 1])
def test_within_two_percent_of_the_bound(kept, digits, tmp_path):
    """n * H, code book and headers included, for a layer above 100,000 weights."""
    array = weights(150_000, kept, digits=digits)
    path = tmp_path / "x.ncp"
    packed.pack_arrays(path, {"x": array})
    _, counts = np.unique(array, return_counts=True)
    bound = -(counts * np.log2(counts / counts.sum())).sum() / 8 + 6 * counts.size + 150  # 4 + 2 bytes a level; the headers
    assert path.stat().st_size <= 1.02 * bound


def test_runs_of_zeros_by_hand(tmp_path):
    """1 0 0 0 5: a run of 0 before the first number, of 3 before the second; 600 zeros: two fillers of 255 and a run of 90."""
    array = np.zeros(100_000, np.float32)
    array[[0, 4, 605, 606]] = [1, 5, 7, 7]
    code = _sparse(array.view(np.uint32), 1 << 20)
    assert code is not None and code.details == {"positions": "bits", "numbers": [4]}  # so few that no table of runs pays
    array = np.zeros(100_000, np.float32)
    for i in range(0, 99_000, 610):
        array[[i, i + 4, i + 605, i + 606]] = weights(4, seed=i)
    back, file = there_and_back(tmp_path, array)
    np.testing.assert_array_equal(back, array)
    record = file._tensors["x"]
    assert record["positions"] == "runs" and record["numbers"] == [4 * 163]
    assert record["runs"] == [4 * 163 + 2 * 163]


def test_negative_zeros_become_zeros(tmp_path):
    array = np.array([-0.0, 0.0, -1.5, np.nan, -np.inf], np.float32)
    back, _ = there_and_back(tmp_path, array)
    assert not np.signbit(back[0]) and back[2] == -1.5 and np.isnan(back[3]) and back[4] == -np.inf


def test_scaled_integers(tmp_path):
    rng = np.random.default_rng(0)
    codes, step = rng.integers(-127, 128, (64, 300)).astype(np.int8), rng.random((64, 1)).astype(np.float32)
    packed.pack_arrays(tmp_path / "x.ncp", {"x": packed.Scaled(codes, step)})
    np.testing.assert_array_equal(packed.load(tmp_path / "x.ncp")["x"], codes.astype(np.float32) * step)
    assert (tmp_path / "x.ncp").stat().st_size < 1.02 * (64 * 300 + 64 * 4 + 600)


@pytest.mark.parametrize(("axis", "masked"), [(0, False), (1, True), (2, False)])
def test_product_codes(axis, masked, tmp_path):
    """Element [i, r] is codebook[i / d, codes[i / d, r], i mod d]."""
    rng = np.random.default_rng(0)
    shape = tuple(map(int, np.insert([30, 40], axis, 12)))
    codebook, codes = weights(6 * 16 * 2).reshape(6, 16, 2), rng.integers(0, 16, (6, 1200)).astype(np.uint8)
    kept = rng.random(shape) < 0.9 if masked else None
    packed.pack_arrays(tmp_path / "x.ncp", {"x": packed.Product(codebook, codes, shape, axis, kept)})
    file = packed.Packed(tmp_path / "x.ncp")
    want = np.stack([codebook[i // 2, codes[i // 2], i % 2] for i in range(12)]).reshape(12, 30, 40)
    want = np.moveaxis(want, 0, axis)
    np.testing.assert_array_equal(file["x"], want if kept is None else want * kept)
    bits = 7200 * 4 + (14400 * 0.469 if masked else 0)  # log2 16; H(0.1)
    assert 8 * file.stored_bytes("x") < 1.02 * (bits + 32 * codebook.size + 8 * 100)
    assert file.codec("x").startswith("product") and file.bound_bytes("x") <= file.stored_bytes("x")


def test_a_tensor_alone_is_read(tmp_path):
    """Laziness: damage in one tensor does not hinder the others."""
    path = tmp_path / "x.ncp"
    packed.pack_arrays(path, {"a": weights(5000, digits=1), "b": weights(5000, digits=1, seed=1)})
    content = bytearray(path.read_bytes())
    offset = packed.Packed(path)._tensors["a"]["parts"][2][0]
    content[offset + 10] ^= 1
    path.write_bytes(bytes(content))
    file = packed.Packed(path)
    np.testing.assert_array_equal(file["b"], weights(5000, digits=1, seed=1))
    with pytest.raises(packed.PackedError, match=rf"the checksum of a at byte {offset} is wrong"):
        file["a"]
    assert set(packed.load(path, ["b"])) == {"b"}


def test_memory_of_writing_is_that_of_a_tensor_or_two(tmp_path):
    size = 1_000_000
    tracemalloc.start()
    packed.pack_arrays(tmp_path / "x.ncp", ((str(i), weights(size, 0.1, i)) for i in range(8)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 4 * size  # of eight tensors one at a time, with its symbols and positions


# Files of other kinds ------------------------------------------------------------------------------------------------------


def test_safetensors_there_and_back(tmp_path):
    tensors = {"a": weights(4000, 0.2, digits=1).reshape(40, 100), "n": np.arange(5), "e": np.zeros((0, 2), np.float16)}
    tensors["b"] = weights(1000).astype(ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "m.safetensors", {"who": "me"})
    assert main(["pack", str(tmp_path / "m.safetensors")]) == 0
    assert main(["unpack", str(tmp_path / "m.ncp"), "--output", str(tmp_path / "back.safetensors")]) == 0
    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == set(tensors)
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name].astype(np.float32), value.astype(np.float32))
    assert packed.load(tmp_path / "m.ncp")["b"].dtype == ml_dtypes.bfloat16


def model():
    helper, kind = onnx.helper, onnx.TensorProto
    x, y = helper.make_tensor_value_info("x", kind.FLOAT, ["n", 64]), helper.make_tensor_value_info("y", kind.FLOAT, ["n", 64])
    weight = onnx.numpy_helper.from_array(weights(64 * 64, digits=1).reshape(64, 64), "w")
    by_field = helper.make_tensor("b", kind.FLOAT, [64], weights(64).tolist())  # not as raw data
    small = onnx.numpy_helper.from_array(np.array([2.0], np.float32), "s")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, by_field, small])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_onnx_there_and_back(tmp_path):
    import onnxruntime

    onnx.save(model(), tmp_path / "m.onnx")
    packed.pack_file(tmp_path / "m.onnx", tmp_path / "m.ncp")
    assert packed.unpack_file(tmp_path / "m.ncp", tmp_path / "back.onnx") == tmp_path / "back.onnx"
    assert (tmp_path / "m.ncp").stat().st_size < (tmp_path / "m.onnx").stat().st_size / 3
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    outputs = [
        onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for name in ("m.onnx", "back.onnx")
    ]
    np.testing.assert_array_equal(*outputs)


def test_inspect(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    packed.pack_arrays(tmp_path / "x.ncp", {"layer": weights(30_000, 0.1)})
    assert main(["inspect", str(tmp_path / "x.ncp")]) == 0
    printed = capsys.readouterr().out
    assert "layer" in printed and "sparse, planes" in printed and "% " in printed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.bin", b"x", "found a .bin, expected .safetensors or .onnx"),
        ("m.safetensors", b"x", "expected a safetensors file"),
        ("m.safetensors", struct.pack("<Q", 3) + b"[[[", "its header is not JSON"),
        ("m.onnx", b"\xff\xff", "cannot be read as an ONNX file"),
    ],
)
def test_what_cannot_be_packed(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["pack", str(tmp_path / name), "--output", str(tmp_path / "x.ncp")]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.ncp*")) and not list(tmp_path.glob(".*"))


# Damage ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "x.ncp"
    tensors = {
        "planes": weights(300),
        "book": weights(3000, digits=1),
        "sparse": weights(3000, 0.02, digits=1),
        "runs": weights(20_000, 0.03),
        "wide": np.arange(40).reshape(4, 10) % 9,
        "raw": np.random.default_rng(0).integers(0, 256, 100).astype(np.uint8),
        "product": packed.Product(weights(64).reshape(4, 8, 2), np.arange(40).reshape(4, 10) % 8, (10, 8), 1, np.eye(10, 8) == 0),
        "scaled": packed.Scaled(np.arange(-50, 50, dtype=np.int8).reshape(10, 10), np.ones((10, 1), np.float32)),
    }
    packed.pack_arrays(path, tensors)
    return path.read_bytes()


def with_index(content, change):
    """The file with an index that `change` made of its own, and right checksums: hostile, not damaged."""
    offset = struct.unpack("<Q", content[12:20])[0]
    index = json.loads(zlib.decompress(content[offset:]))
    change(index["tensors"])
    text = json.dumps(index).encode()
    stored = zlib.compress(text)
    return MAGIC + struct.pack("<IQQII", 1, offset, len(stored), len(text), zlib.crc32(stored)) + content[PREFIX:offset] + stored


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:10], "found 10 bytes, expected a packed file"),
        (lambda c: b"PK" + c[2:], "its first bytes are not"),
        (lambda c: c[:8] + struct.pack("<I", 9) + c[12:], "found version 9, this reader knows version 1"),
        (lambda c: c[:-1], "in a file of"),
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "the checksum of the index"),
        (lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:], "the checksum of planes at byte"),
        (lambda c: with_index(c, lambda t: t["book"].update(shape=[1 << 40])), "book is said to need .* the limit is"),
        (lambda c: with_index(c, lambda t: t["book"].update(shape=[-1])), "book is said to be a 'F32' of shape"),
        (lambda c: with_index(c, lambda t: t["book"].update(dtype="F33")), "book is said to be a 'F33'"),
        (lambda c: with_index(c, lambda t: t["book"].update(codec="pickle")), "book has the codec 'pickle', expected one of"),
        (lambda c: with_index(c, lambda t: t["book"]["parts"][0].__setitem__(0, 1 << 50)), "outside of the data"),
        (lambda c: with_index(c, lambda t: t["book"].update(shape=[5])), None),
        (lambda c: with_index(c, lambda t: t["runs"].update(numbers=[1])), "runs, at byte .*: its counts are wrong"),
        (lambda c: with_index(c, lambda t: t["runs"].update(values=dict(t["runs"]))), "runs"),
        (lambda c: with_index(c, lambda t: t["scaled"]["step"].update(shape=[5, 2])), "scales"),
        (
            lambda c: with_index(c, lambda t: t["scaled"].update(codes=dict(t["scaled"]))),
            "scaled has a scaled record inside of another",
        ),
        (lambda c: with_index(c, lambda t: t["product"].update(axis=0)), "product is .* which is not that shape"),
        (lambda c: with_index(c, lambda t: t["product"].update(axis=True)), "product is .* which is not that shape"),
        (lambda c: with_index(c, lambda t: t["product"].update(shape=[8, 10])), "product is .* which is not that shape"),
        (lambda c: with_index(c, lambda t: t["product"].update(dtype="I32")), "product is .* which is not that shape"),
        (lambda c: with_index(c, lambda t: t["product"]["codebook"].update(shape=[4, 4, 4])), "product is .* not that shape"),
        (lambda c: with_index(c, lambda t: t["product"]["codebook"].update(shape=[4, 0, 2])), "product"),
        (lambda c: with_index(c, lambda t: t["product"]["kept"].update(shape=[8, 10])), "product is .* which is not that shape"),
        (
            lambda c: with_index(c, lambda t: t["product"].update(codebook=dict(t["product"]))),
            "product has a product record inside",
        ),
        (
            lambda c: with_index(c, lambda t: t["product"].update(codes=t["wide"])),
            "product has codes from 0 to 8, expected from 0 to 7",
        ),
        (lambda c: with_index(c, lambda t: t["raw"].update(parts=[])), "raw.*expected 100 bytes"),
        (lambda c: with_index(c, lambda t: t.update(raw={})), "the record of raw is wrong"),
    ],
)
def test_damage(example, damage, message, tmp_path):
    path = tmp_path / "x.ncp"
    path.write_bytes(damage(example))
    if message is None:  # fewer symbols than there are: numbers, but no harm
        assert packed.load(path)["book"].shape == (5,)
        return
    with pytest.raises(packed.PackedError, match=message):
        packed.load(path, limit=1 << 24)


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files(example, number, tmp_path):
    """Each is refused in one sentence or read; none needs more memory than the limit."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.ncp"
    refused = 0
    tracemalloc.start()
    for _ in range(number):
        content = bytearray(example)
        for _ in range(rng.integers(1, 4)):
            kind, at = rng.integers(4), int(rng.integers(len(content)))
            if kind == 0:
                content[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del content[at:]
                content += b"\0"
            elif kind == 2:
                content[at : at + 8] = rng.bytes(8)
            else:
                content[8:PREFIX] = rng.bytes(PREFIX - 8) if rng.random() < 0.1 else content[8:PREFIX]
                content[at:at] = rng.bytes(3)
        path.write_bytes(bytes(content))
        try:
            packed.load(path, limit=1 << 22)
        except packed.PackedError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 0.9 * number
    assert peak < 1 << 25


def test_mutated_indices(example, tmp_path):
    """Damage behind right checksums: numbers of the index replaced by others."""
    rng = np.random.default_rng(1)
    path = tmp_path / "x.ncp"
    odd = [-1, 0, 1, 2, 255, 1 << 20, 1 << 40, 1.5, "x", None, [], {}]

    def change(value, rate):
        if rng.random() < rate:
            return odd[rng.integers(len(odd))]
        if isinstance(value, dict):
            return {key: change(item, rate) for key, item in value.items()}
        return [change(item, rate) for item in value] if isinstance(value, list) else value

    for _ in range(500):

        def mutate(tensors):
            for name in list(tensors):
                tensors[name] = change(tensors[name], 0.03)

        path.write_bytes(with_index(example, mutate))
        try:
            file = packed.Packed(path, limit=1 << 22)
        except packed.PackedError:
            continue
        for name in file:
            try:
                file[name]
            except packed.PackedError as error:
                assert name in str(error)
