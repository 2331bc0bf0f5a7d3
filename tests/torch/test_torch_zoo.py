"""Rows of the zoo (`make zoo`): small ones of every kind, column by column."""

import json

import numpy as np
import onnx
import pytest
import torch

from benchmarks.zoo import table, transformers_models
from benchmarks.zoo.integer_share import integer_share
from benchmarks.zoo.row import COLUMNS, Wrong, _same, examine
from benchmarks.zoo.torch_subject import TorchSubject

WITHOUT_FILES = ("attach", "train", "resume", "strip", "rigl", "distil")


@pytest.mark.filterwarnings("ignore")  # what the zoo is about is whether they run
@pytest.mark.parametrize(
    "name", ["gpt2", "swin", pytest.param("t5", marks=pytest.mark.slow), pytest.param("llama", marks=pytest.mark.slow)]
)
def test_a_row_is_green(name):
    row = examine(transformers_models.subject(name), WITHOUT_FILES)
    assert set(row["cells"].values()) == {"ok"}, row["cells"]
    assert 0 < row["error"] < 0.2 and row["zeros"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_a_whole_row():
    row = examine(transformers_models.subject("resnet"))
    assert set(row["cells"].values()) == {"ok"}, row["cells"]
    assert row["integer"] > 0.9 and row["weights left"] < 0.8
    assert set(row["cells"]) == set(COLUMNS) and json.dumps(row)
    shown = table.family_section({"resnet": row}).splitlines()
    assert len(shown) == 3 and "crash" not in shown[2] and table.kind(row) == "green"


@pytest.mark.filterwarnings("ignore")
def test_what_does_not_hold_is_told_by_its_kind():
    class Forgetful(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * (float("nan") if self.training else 1.0)

    row = examine(TorchSubject(Forgetful(4, 4), (torch.ones(2, 4),)), ("attach", "train", "rigl"))
    assert row["cells"]["attach"] == "ok"
    assert "not finite" in row["cells"]["train"]
    assert table.kind({"cells": {"a": "ok", "b": "refused: x", "c": "wrong: y", "d": "crash: z"}}) == "wrong"
    with pytest.raises(Wrong, match="differ by 0.5"):
        _same([np.array([2.0])], [np.array([1.0])], 0.02)


def test_the_share_of_integer_products_is_counted_by_shapes(tmp_path):
    """A float Conv of 2*3*3*3 products for each of 4*4 outputs, and a MatMulInteger of 3*5."""
    make = onnx.helper.make_node
    weight = onnx.numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    codes = onnx.numpy_helper.from_array(np.ones((3, 5), np.uint8), "c")
    nodes = [
        make("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3]),
        make("Cast", ["z"], ["b"], to=onnx.TensorProto.UINT8),
        make("MatMulInteger", ["b", "c"], ["o"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", 1, [1, 3, 6, 6]), value("z", 1, [1, 3])],
        [value("y", 1, [1, 2, 4, 4]), value("o", onnx.TensorProto.INT32, [1, 5])],
        [weight, codes],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    assert integer_share(tmp_path / "m.onnx") == round(15 / (15 + 2 * 27 * 16), 3)
