"""Checkpoints: whole or not at all, plain data only, and refused where they do not fit."""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from nncf_ext import checkpoint
from nncf_ext.algorithms.sparsity import BinaryMask
from nncf_ext.checkpoint import CheckpointError, check_plan_fits, load_checkpoint, save_checkpoint
from nncf_ext.edits import Edit, Plan
from nncf_ext.files.writing import replacing
from nncf_ext.graph import Edge, Graph, Node, Parameter, Site
from nncf_ext.quantization.quantizers import NNCFQuantizer
from nncf_ext.saved_plan import plan_from_json

PLAN = Plan(
    (
        Edit((Site("Net/Linear[fc]/linear_0", "weight"),), BinaryMask(), "magnitude_sparsity"),
        Edit(
            (Site("Net/Linear[fc]/linear_0", "weight"),),
            NNCFQuantizer(bits=4, symmetric=True, signed=True, channel_axis=0),
            "quantization",
        ),
        Edit((Site("/nncf_model_input_0", "output"),), NNCFQuantizer(bits=8, symmetric=False, signed=False), "quantization"),
    ),
    (("Net/Linear[head]/linear_0", "outside the scopes of quantization"),),
)
STATE = {"builder_state": {"format": 1, "plan": PLAN.to_json()}, "ctrl_state": {"level": 0.25}}
TENSORS = {
    "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.scale": np.array([[0.5], [0.25]], np.float32),
    "steps": np.array(7, np.int64),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, TENSORS, STATE)
    return path


def graph(*nodes: Node) -> Graph:
    names = [node.name for node in nodes]
    return Graph(nodes, tuple(Edge(a, b, shape=(1, 3)) for a, b in zip(names[:-1], names[1:], strict=True)))


def test_what_was_saved_comes_back(path):
    tensors, state = load_checkpoint(path)
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(tensors[name], array)
    assert state == STATE
    assert plan_from_json(state["builder_state"]["plan"]) == PLAN


def test_nothing_else_is_left_in_the_folder(path):
    assert list(path.parent.iterdir()) == [path]


def test_saving_replaces_the_file_in_one_step(path, monkeypatch):
    """When writing fails, the old file is whole, and no temporary one stays."""
    before = path.read_bytes()

    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint.os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, {"other": np.zeros(3, np.float32)}, STATE)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "model.bin") as temporary:
        with open(temporary, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder: cannot write run.safetensors there"):
        save_checkpoint(tmp_path / "nowhere" / "run.safetensors", TENSORS, STATE)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "run.safetensors")


def test_every_truncation_is_refused(path):
    whole = path.read_bytes()
    for length in (0, 4, 8, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
            load_checkpoint(path)


def test_a_header_of_any_length_is_read(tmp_path):
    """Its length stands in the first bytes: one of 128 looks like the beginning of a pickle."""
    for padding in range(0, 256, 8):
        path = tmp_path / f"{padding}.safetensors"
        save_checkpoint(path, TENSORS, {"padding": "x" * padding})
        assert load_checkpoint(path)[1] == {"padding": "x" * padding}


class Bomb:
    """What a hostile pickle does when it is loaded."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was loaded",)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_is_never_loaded(tmp_path, protocol):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(CheckpointError, match="looks like a pickle"):
        load_checkpoint(path)


def test_nor_one_in_an_archive(tmp_path):
    """What `torch.save` writes."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="looks like a pickle"):
        load_checkpoint(path)


def test_a_foreign_safetensors_file_is_told(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="without nncf_ext's compression state"):
        load_checkpoint(path)


def test_a_later_format_is_told(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["nncf_ext"] = json.dumps({"format": 99, "state": {}})
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])
    with pytest.raises(CheckpointError, match="format 99, expected 1"):
        load_checkpoint(path)


def test_a_plan_with_an_unknown_transform_is_refused():
    data = PLAN.to_json()
    data["edits"][0]["transform"]["kind"] = "masque"
    with pytest.raises(CheckpointError, match="a transform 'masque' of 'magnitude_sparsity'"):
        plan_from_json(data)


def test_a_plan_with_an_unknown_algorithm_is_refused():
    data = PLAN.to_json()
    data["edits"][0]["algorithm"] = "os.system"
    with pytest.raises(CheckpointError, match="a transform 'mask' of 'os.system'"):
        plan_from_json(data)


def test_a_plan_fits_its_own_model():
    linear = Node("Net/Linear[fc]/linear_0", "Gemm", parameters=(Parameter("weight", "fc.weight", (2, 3)),))
    check_plan_fits(PLAN, graph(Node("/nncf_model_input_0", "Input"), linear))


def test_a_plan_of_another_model_is_refused():
    other = Node("Net/Linear[head]/linear_0", "Gemm", parameters=(Parameter("weight", "head.weight", (2, 3)),))
    with pytest.raises(CheckpointError, match=r"another model: it has a mask at Net/Linear\[fc\]/linear_0\|weight"):
        check_plan_fits(PLAN, graph(Node("/nncf_model_input_0", "Input"), other))
