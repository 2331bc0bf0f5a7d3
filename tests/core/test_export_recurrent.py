"""LSTMs in files: codes and scales go over to ONNX Runtime's integer operator bit for bit, and only where they can."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from nncf_ext.export.parity import run, session
from nncf_ext.export.recurrent import in_integers
from nncf_ext.files.onnx_file import write

INPUTS, CHANNELS, DIRECTIONS = 5, 8, 2


def lstm(w, r):
    bias = np.zeros((DIRECTIONS, 8 * CHANNELS), np.float32)
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h"], hidden_size=CHANNELS, direction="bidirectional")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [6, 4, INPUTS])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [6, DIRECTIONS, 4, CHANNELS])],
        [onnx.numpy_helper.from_array(array, name) for name, array in (("w", w), ("r", r), ("b", bias))],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


@pytest.fixture
def coded():
    """Codes, and steps by row of one direction after the other."""
    rng = np.random.default_rng(0)
    shapes = [(DIRECTIONS, 4 * CHANNELS, n) for n in (INPUTS, CHANNELS)]
    codes = [rng.integers(-63, 64, shape) for shape in shapes]  # products of more bits saturate on some processors
    steps = [rng.uniform(0.006, 0.01, shape[:2]).astype(np.float32) for shape in shapes]
    return codes, steps, [(c * s[..., None]).astype(np.float32) for c, s in zip(codes, steps, strict=True)]


def test_codes_and_scales_are_those_of_training(coded, tmp_path):
    codes, steps, values = coded
    float_model, model = lstm(*values), lstm(*values)
    assert in_integers(model, [step for each in steps for step in each][::-1])
    (node,) = [node for node in model.graph if node.op_type == "DynamicQuantizeLSTM"]
    for place, scale, own, step in ((1, 8, codes[0], steps[0]), (2, 10, codes[1], steps[1])):
        np.testing.assert_array_equal(node.inputs[place].const_value.numpy(), own.transpose(0, 2, 1))
        np.testing.assert_array_equal(node.inputs[scale].const_value.numpy(), step)
    x = np.random.default_rng(1).normal(size=(6, 4, INPUTS)).astype(np.float32)
    results = []
    for name, each in (("float", float_model), ("integer", model)):
        write(each, tmp_path / f"{name}.onnx")
        results.append(run(session(tmp_path / f"{name}.onnx"), [x])[0])
    np.testing.assert_allclose(results[1], results[0], atol=0.03)
    assert not np.array_equal(*results)


def test_weights_off_the_grid_stay_float(coded):
    _, steps, (w, r) = coded
    model = lstm(w + np.float32(1e-4), r)
    assert not in_integers(model, [step for each in steps for step in each])
    assert [node.op_type for node in model.graph] == ["LSTM"]
