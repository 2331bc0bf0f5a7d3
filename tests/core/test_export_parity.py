"""Writing an exported model and comparing it with its origin."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from nncf_ext.export.bias import move_biases
from nncf_ext.export.constants import constant
from nncf_ext.export.parity import Own, Parity, integer_operators, parity
from nncf_ext.files.onnx_file import write

DOUBLE = '<ir_version: 10, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y) <float two = {2.0}> { y = Mul (x, two) }'


@pytest.fixture
def path(tmp_path):
    write(ir.from_onnx_text(DOUBLE), tmp_path / "double.onnx")
    return tmp_path / "double.onnx"


def test_differences_count_in_steps(path):
    x = np.array([[0, 1], [2, 3]], np.float32)
    found = parity(path, [[x], [x + 1]], [[2 * x], [2 * x + 2 + 0.5]], step=0.25)
    assert found == Parity(difference=0.5, unoptimized=0.5, step=0.25, samples=4) and found.lsb == 2
    assert "0.5 = 2.00 LSB" in str(found)


def test_without_a_step_the_outputs_span_has_255(path):
    x = np.array([[0, 1], [2, 5.1]], np.float32)
    assert parity(path, [[x]], [[2 * x]]).step == pytest.approx(10.2 / 255)


def test_the_model_itself_is_the_yardstick(path):
    x = np.linspace(0, 100, 200, dtype=np.float32).reshape(100, 2)
    y = 2 * x
    off = y + np.where(np.arange(200).reshape(100, 2) % 2, 3, -3).astype(np.float32)

    def against(expected, moved, levels=255):
        return parity(path, [[x]], [[expected]], step=1.0, own=Own([[moved]], [expected], levels))

    assert not (found := against(off, off)).exact and found.own == 0  # 3 steps everywhere, where the model has none
    assert "3.00 LSB" in str(found) and "worse than the model itself (0.00 LSB)" in str(found)
    assert (found := against(off, off + 2)).exact and found.own == pytest.approx(2)
    assert "as exact as the model itself (2.00 LSB)" in str(found)
    one = y.copy()
    one[0] += 3
    assert against(one, one).exact and not against(one, one, levels=None).exact  # few of them are ties, where there is rounding
    one[0] += 20
    assert not against(one, one).exact


def test_the_rounding_of_int32_biases_is_part_of_the_yardstick(path):
    x = np.linspace(0, 100, 200, dtype=np.float32).reshape(100, 2)
    y = 2 * x

    def against(expected, *moved_biases):
        own = Own([[expected]], [expected], 255, [[([y], [moved])] for moved in moved_biases])
        return parity(path, [[x]], [[expected]], step=1.0, own=own)

    assert (found := against(y + 3, y + 2)).exact and found.own == pytest.approx(2)
    assert not against(y + 5, y + 2).exact and not against(y + 3, y).exact
    assert against(y + 3, y, y + 2, y).exact, "the file is one rounding, and is compared with single ones"


def test_int32_biases_move_by_up_to_half_a_step():
    text = """<ir_version: 10, opset_import: ["" : 18]> g (float[N,1,2,2] x) => (float[N,3,2,2] y)
    <float[3,1,1,1] w = {1., 1., 1.}, int32[3] b = {100, -7, 0}, float[3] step = {0.5, 0.25, 2.}>
    { bias = DequantizeLinear <axis = 0> (b, step)  y = Conv (x, w, bias) }"""
    model, moves = ir.from_onnx_text(text), np.random.default_rng(0)
    assert move_biases(model.graph, moves) and not move_biases(model.graph, moves)
    (conv,) = list(model.graph)
    assert conv.op_type == "Conv"
    moved = (constant(conv.inputs[2]) - [50, -1.75, 0]) / [0.5, 0.25, 2]
    assert np.all(np.abs(moved) <= 0.5) and np.all(moved != 0) and len(set(moved)) == 3


def test_random_outputs_are_not_compared(path):
    x = np.ones((3, 2), np.float32)
    found = parity(path, [[x]], [[x]], own=Own([[x]], [x + 1], 255))
    assert found.random == (0,) and np.isnan(found.difference) and found.exact
    assert str(found) == "output 0 cannot be compared: random, other numbers in every run of the model"


def test_infinite_outputs_count_where_they_differ(path):
    x = np.array([[np.inf, 1], [-np.inf, np.nan]], np.float32)
    assert parity(path, [[x]], [[2 * x]]).difference == 0
    assert np.isinf(parity(path, [[x]], [[np.ones((2, 2), np.float32)]]).difference)


def test_other_shapes_and_no_samples_are_refused(path):
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="outputs of shapes"):
        parity(path, [[x]], [[np.zeros((2, 2), np.float32)]])
    with pytest.raises(ValueError, match="no samples"):
        parity(path, [], [])


def test_operators_of_the_optimized_graph(path):
    assert integer_operators(path) == {"Mul": 1}


def test_writing_is_atomic(tmp_path, monkeypatch):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"before")

    def broken(model, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(ir, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        write(ir.from_onnx_text(DOUBLE), target)
    assert target.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_size_that_is_another_one_in_the_file_alone_is_not_exact(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[3] x) => (float[u0] y) '
        "{ c = Constant <value = bool[3] {1, 0, 1}> () y = Compress <axis = 0> (x, c) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    x, whole, part = np.ones(3, np.float32), np.ones(3, np.float32), np.ones(2, np.float32)
    for moved, exact in ((whole, False), (part, True)):
        found = parity(tmp_path / "m.onnx", [[x]], [[whole]], own=Own([[moved]], [whole], None))
        assert found.varying == (0,) and found.exact == exact
