"""What is read from files is checked before anything is made of it: sizes, depth, shape, numbers."""

import json
import struct
import tracemalloc
import zlib

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from nncf_ext.checkpoint import CheckpointError, TensorFile, load_checkpoint, save_checkpoint
from nncf_ext.distillation.teacher_cache import TeacherCache
from nncf_ext.errors import ConfigError
from nncf_ext.files.json_text import Unreadable, value_of
from nncf_ext.packed import PackedError, load, pack_arrays, pack_file, unpack_file
from nncf_ext.packed.inspection import describe_packed
from nncf_ext.quantization.precision.traces_file import read_traces
from nncf_ext.saved_plan import plan_from_json
from nncf_ext.schedules import Clock
from nncf_ext.soup import SoupError, uniform
from nncf_ext.sparsity.ranking import load_coefficients
from nncf_ext.tools.inspection import describe
from nncf_ext.training.run_log import read_log

PREFIX = b"\x89NCP\r\n\x1a\n"


def write_packed(path, data, index):
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    stored = zlib.compress(text, 9)
    numbers = struct.pack("<IQQII", 1, 36 + len(data), len(stored), len(text), zlib.crc32(stored))
    path.write_bytes(PREFIX + numbers + data + stored)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b"[" * 10_000_000, "more than memory is allowed for"),
        (b"[1,[2]", "found no JSON at character 6"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "found 'c' twice in one object"),
        (b"[NaN]", "the constant NaN"),
        (b"[1e999]", "found 1e999, expected a finite number"),
        (b"1" * 5000, "a whole number of 5000 digits"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(Unreadable, match=message):
        value_of(text)


def test_brackets_in_strings_do_not_count():
    assert value_of(json.dumps(["[" * 1000, '"{' * 100]).encode()) == ["[" * 1000, '"{' * 100]


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'"",'])
def test_a_small_packed_file_with_a_large_index(tmp_path, part):
    path = tmp_path / "bomb.ncp"
    write_packed(path, b"", b'{"tensors":{},"metadata":{"a":[' + part * (4 << 20) + b"0]}}")
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(PackedError, match="the index is"):
            load(path, limit=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"tensors": {}, "metadata": 1}, "metadata: found 1"),
        ({"tensors": []}, "tensors: found"),
        (
            {"tensors": {"a": {"shape": [1.5], "dtype": "U8", "codec": "raw", "parts": []}}},
            r"expected an integer|of shape \[1.5\]",
        ),
        ({"tensors": {"a": {"shape": [1] * 65, "dtype": "U8", "codec": "raw", "parts": []}}}, "shape"),
        ({"tensors": {"a": {"shape": [1], "dtype": "U8", "codec": "run", "parts": []}}}, "codec"),
        (
            {"tensors": {"a": {"shape": [1], "dtype": "U8", "codec": "raw", "parts": [[36, 1]]}}},
            "a longer array|not enough values",
        ),
        ({"tensors": {}, "more": 1}, "more"),
    ],
)
@pytest.mark.parametrize("reading", [lambda path: [*load(path)], describe_packed, unpack_file])
def test_an_index_of_another_shape(tmp_path, index, message, reading):
    write_packed(tmp_path / "x.ncp", b"\0", index)
    with pytest.raises(PackedError, match=message):
        reading(tmp_path / "x.ncp")
    assert [file.name for file in tmp_path.iterdir()] == ["x.ncp"]


def test_an_index_that_unpacks_to_more_than_the_limit(tmp_path):
    write_packed(tmp_path / "x.ncp", b"", b'{"tensors":{}}' + b" " * (17 << 20))
    with pytest.raises(PackedError, match="said to unpack to 17,825,806 characters, expected 16,777,216 at most"):
        load(tmp_path / "x.ncp", limit=1 << 20)


@pytest.mark.parametrize("depth", [70, 500, 990])
def test_records_inside_of_each_other(tmp_path, depth):
    head = b'{"codec":"sparse","positions":"bits","numbers":[],"parts":[[36,0,0]],"values":'
    record = head * depth + b'{"codec":"raw","parts":[[36,0,0]]}' + b"}" * depth
    write_packed(tmp_path / "x.ncp", b"", b'{"tensors":{"a":{"shape":[0],"dtype":"F32",' + record[1:] + b"}}")
    with pytest.raises(PackedError, match="nested more than 64 deep"):
        load(tmp_path / "x.ncp")


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../../../../etc/passwd", "../secret"])
def test_an_onnx_file_gets_no_weights_from_outside_of_its_folder(tmp_path, location):
    (tmp_path / "secret").write_bytes(b"0123456789")
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[10], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "10")):
        tensor.external_data.add(key=key, value=value)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [10])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [tensor])
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ValueError, match="x.onnx: cannot be read as an ONNX file: "):
        pack_file(tmp_path / "models" / "x.onnx", tmp_path / "x.ncp")
    assert not (tmp_path / "x.ncp").exists()


def test_a_name_that_is_twice_in_an_index(tmp_path):
    record = b'"a":{"shape":[0],"dtype":"U8","codec":"raw","parts":[[36,0,0]]}'
    write_packed(tmp_path / "x.ncp", b"", b'{"tensors":{' + record + b"," + record + b"}}")
    with pytest.raises(PackedError, match="'a' twice"):
        load(tmp_path / "x.ncp")


def test_a_small_packed_file_does_not_fill_the_disk(tmp_path):
    book = [[36, 1, zlib.crc32(b"\1")]]
    tensors = {f"a{i}": {"shape": [1 << 20], "dtype": "U8", "codec": "book", "parts": book} for i in range(30)}
    write_packed(tmp_path / "x.ncp", b"\1", {"tensors": tensors})
    with pytest.raises(PackedError, match="said to need 31,457,280 bytes, the limit is 16,777,216"):
        unpack_file(tmp_path / "x.ncp", tmp_path / "x.safetensors", limit=16 << 20)
    assert not (tmp_path / "x.safetensors").exists()


def safetensors_file(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "header that is no object"),
        ({"a": 1}, "a: found 1"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "greater than or equal to 0"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "has the bytes 0 to 4"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, "has the bytes 4 to 12"),
        ({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, "a is a F99"),
        ({f"a{i}": {"dtype": "F32", "shape": [1], "data_offsets": [i, 4 + i]} for i in range(2)}, "inside of another tensor"),
        ({"__metadata__": {"a": 1}}, "a: found 1, expected a string"),
    ],
)
def test_a_safetensors_file_to_pack(tmp_path, header, message):
    safetensors_file(tmp_path / "x.safetensors", header, b"\0" * 8)
    with pytest.raises(ValueError, match=message):
        pack_file(tmp_path / "x.safetensors", tmp_path / "x.ncp")
    assert not (tmp_path / "x.ncp").exists()


def test_devices_are_no_files():
    for reading in (load, load_checkpoint):
        with pytest.raises(ValueError, match="a device or a pipe"):
            reading("/dev/zero")
    with pytest.raises(ConfigError, match="header of"):
        TeacherCache("/dev/zero")


def state_with(**changes):
    plan = {"edits": [{"sites": ["fc|weight"], "transform": {"kind": "mask"}, "algorithm": "magnitude_sparsity"}]}
    clock = {"current_epoch": 0, "current_step": 3}
    return {
        "builder_state": {"plan": plan},
        "variables": {"fc|weight|mask": {"mask": "m"}},
        "ctrl_state": {"scheduler_state": clock, "algorithms": {"magnitude_sparsity": {"state": {"level": 0.5}}}},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builder_state": None}, "builder_state: found null"),
        ({"builder_state": {"plan": {"edits": [{"sites": []}]}}}, "expected a longer array"),
        ({"variables": {"fc|weight|mask": {"mask": "nowhere"}}}, 'has no tensor "nowhere"'),
        ({"variables": {"fc|weight|mask": {"mask": 5}}}, "expected a string"),
        ({"variables": {"fc|weight|mask": {"other": "m"}}}, "are none of a mask"),
        ({"ctrl_state": {"scheduler_state": {"current_epoch": True}, "algorithms": {}}}, "expected what scheduler.get_state"),
        ({"ctrl_state": {"scheduler_state": [], "algorithms": {}}}, "scheduler_state: found"),
    ],
)
def test_a_checkpoint_whose_state_is_damaged_is_inspected_and_averaged(tmp_path, changes, message):
    save_checkpoint(tmp_path / "a.safetensors", {"m": np.array([True, False])}, state_with(**changes))
    with pytest.raises(CheckpointError, match=message):
        describe(tmp_path / "a.safetensors")
    if "ctrl_state" not in changes:
        with pytest.raises(SoupError):
            uniform([tmp_path / "a.safetensors"] * 2)


def test_a_state_that_is_whole(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", {"m": np.array([True, False])}, state_with())
    assert describe(tmp_path / "a.safetensors")[1].rows[-1][-1] == "50.0% zeros of 2"


def test_metadata_that_is_large_or_deep(tmp_path):
    for text in ("[" * 100 + "]" * 100, "[" + "[]," * (8 << 20) + "0]", '{"format": 2}', "[]", '{"format": 1, "state": 5}'):
        save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors", metadata={"nncf_ext": text})
        with pytest.raises(CheckpointError, match=r"x.safetensors: "):
            _ = TensorFile(tmp_path / "x.safetensors").state


def test_a_checkpoint_with_nan_names_the_tensor(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", {"fc.weight": np.array([1, np.nan, np.inf], np.float32)}, {})
    with pytest.raises(CheckpointError, match="fc.weight: 1 of 3 numbers are NaN"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "edit",
    [
        {"sites": ["fc"], "transform": {"kind": "mask"}, "algorithm": "magnitude_sparsity"},
        {"sites": ["fc|input:x"], "transform": {"kind": "mask"}, "algorithm": "magnitude_sparsity"},
        {"sites": ["fc|weight"], "transform": {"kind": ["mask"]}, "algorithm": "magnitude_sparsity"},
        {"sites": ["fc|weight"], "transform": {"kind": "mask", "more": 1}, "algorithm": "magnitude_sparsity"},
        {"sites": ["fc|weight"], "transform": {"kind": "mask"}, "algorithm": "magnitude_sparsity", "lr_multiplier": "1"},
        {"sites": "fc|weight", "transform": {"kind": "mask"}, "algorithm": "magnitude_sparsity"},
        "edit",
    ],
)
def test_plans_that_are_none(edit):
    with pytest.raises(CheckpointError):
        plan_from_json({"edits": [edit]})
    good = {"sites": ["fc|weight"], "transform": {"kind": "mask"}, "algorithm": "magnitude_sparsity"}
    with pytest.raises(CheckpointError, match="twice"):
        plan_from_json({"edits": [good, good]})


@pytest.mark.parametrize(
    "state", [{"current_epoch": -2}, {"current_epoch": 1 << 60}, {"steps_per_epoch": 0}, {"step_in_epoch": 0.5}]
)
def test_a_clock_that_is_none(state):
    with pytest.raises(ValueError, match="expected what scheduler.get_state"):
        Clock.from_json({"current_epoch": 0, "current_step": 0, **state})


CACHE = {"keys": np.array([1, 2], np.uint64), "0.indices": np.array([[0], [3]], np.int32),
         "0.probabilities": np.array([[0.5], [0.9]], np.float32), "0.rest": np.array([0.5, 0.1], np.float32)}  # fmt: skip
ABOUT = {"format": 1, "temperature": 1.0, "shapes": [[4]]}


@pytest.mark.parametrize(
    ("tensors", "about", "message"),
    [
        ({}, {"temperature": 0.0}, "temperature"),
        ({}, {"shapes": []}, "shapes"),
        ({}, {"shapes": [[2]]}, "class beyond 2"),
        ({}, {"shapes": [[4], [4]]}, "output 1 lacks a part"),
        ({"keys": np.array([2, 1], np.uint64)}, {}, "not ascending"),
        ({"keys": np.array([], np.uint64)}, {}, "not ascending"),
        ({"keys": np.array([1, 2, 3], np.uint64)}, {}, "has the parts"),
        ({"0.indices": np.array([[0], [-1]], np.int32)}, {}, "class beyond 4"),
        ({"0.rest": np.array([np.nan, 0], np.float32)}, {}, "probability outside"),
        ({"0.rest": np.array([0, 0], np.int32)}, {}, "has the parts"),
    ],
)
def test_a_damaged_teacher_cache(tmp_path, tensors, about, message):
    path = tmp_path / "cache.safetensors"
    save_file({**CACHE, **tensors}, path, metadata={"nncf_ext_teacher": json.dumps({**ABOUT, **about})})
    with pytest.raises(ConfigError, match=message):
        TeacherCache(path)
    save_file(CACHE, path, metadata={"nncf_ext_teacher": json.dumps(ABOUT)})
    assert len(TeacherCache(path)) == 2


def npy(kind, shape):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'["1", "2"]'),
        ("a.json", b'{"a": true, "b": 1}'),
        ("a.json", b"[[1, 2]]"),
        ("a.json", b"1"),
        ("a.npy", npy("<f8", "(1000000000000,)")),
        ("a.npy", npy("|O", "(2,)") + b"\0" * 16),
        ("a.npy", b"\x93NUMPY\x09\x00"),
        ("a.npy", b""),
        ("a.safetensors", b"\0" * 16),
    ],
)  # fmt: skip
def test_traces_that_are_none(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name} cannot be used"):
        read_traces(tmp_path / name, ["a", "b"], lambda path: np.zeros(2), "w")


@pytest.mark.parametrize("content", ["[]", '{"a": [1, NaN]}', '{"a": ["1", "2"]}', '{"a": [1]}', "[" * 1000, '{"a": [1e999, 1]}'])
def test_rankings_that_are_none(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigError, match="holds no coefficients"):
        load_coefficients(tmp_path / "r.json", ["a"], "w")


def test_a_run_log_of_a_killed_writer(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"epoch": 0, "metrics": {"loss": NaN}}\n{"epoch": 1, "met')
    assert [record["epoch"] for record in read_log(tmp_path)] == [0]
    for line in ('{"epoch": true}', '{"epoch": 1, "metrics": {"a": "b"}}', "[" * 5000, '{"epoch": 1, "layers": 3}'):
        path.write_text(f'{{"epoch": 0}}\n{line}\n')
        with pytest.raises(ValueError, match="run.jsonl:2: found a line that is no record"):
            read_log(tmp_path)


def test_what_was_packed_is_read_as_before(tmp_path):
    arrays = {"a": np.arange(1000, dtype=np.float32) % 7, "b": np.eye(50), "c": np.zeros(0, np.int8), "d": np.float32(3)}
    pack_arrays(tmp_path / "x.ncp", arrays, {"note": [1, {"a": None}]})
    found = load(tmp_path / "x.ncp")
    assert all(np.array_equal(found[name], value) for name, value in arrays.items())
