"""The common export pass against ONNX's reference implementation, in which a marker computes `fake_quantize`."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from nncf_ext import numerics, numpy_xp
from nncf_ext.export import Levels, lower
from nncf_ext.export.parity import run, session
from nncf_ext.files.onnx_file import write

rng = np.random.default_rng(0)
SIGNATURE = '<ir_version: 10, opset_import: ["" : 18, "nncf_ext" : 1]> g '


def build(text: str, **constants: np.ndarray) -> ir.Model:
    """A model in ONNX's text form; the constants are declared by name in it, the last lines are its nodes."""
    head, body = text.split("{", 1)
    types = {"float32": "float", "int64": "int64"}
    declared = ", ".join(
        f"{types[str(a.dtype)]}{list(a.shape) or ''} {name} = {{{', '.join(map(str, a.ravel()))}}}"
        for name, a in constants.items()
    )
    return ir.from_onnx_text(f"{SIGNATURE}{head}<{declared}> {{{body}")


def symmetric(weight: np.ndarray, axis: int) -> Levels:
    scale = np.abs(weight).max(tuple(a for a in range(weight.ndim) if a != axis), keepdims=True) / np.float32(127)
    scale = np.maximum(scale, np.float32(1e-6))
    return Levels(-127 * scale, scale, 254)


def grid(low: float, step: float, intervals: int = 255, rank: int = 4) -> Levels:
    shape = (1,) * rank
    return Levels(np.full(shape, low, np.float32), np.full(shape, step, np.float32), intervals)


def expected(model: ir.Model, grids: dict[str, Levels], x: np.ndarray) -> np.ndarray:
    """What the marked model computes, by ONNX's reference implementation; to be called before `lower` changes the model."""

    class Quantizer(OpRun):
        op_domain = "nncf_ext"

        def _run(self, x, key=None):
            found = grids[key]
            return (
                np.asarray(
                    numerics.quantize_codes(numpy_xp, x, found.low, found.step, found.intervals) - found.zero_code, np.float32
                )
                * found.step,
            )

    return ReferenceEvaluator(ir.to_proto(model), new_ops=[Quantizer]).run(None, {"x": x})[0]


def exact_session(path, optimize: bool) -> ort.InferenceSession:
    """Processors without VNNI add products of 8-bit weights in 16 bits, which saturate: ONNX Runtime's option against that."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check(
    model: ir.Model, grids: dict[str, Levels], x: np.ndarray, folder, step: float = 0.0, tolerance: float = 1e-5, of=exact_session
) -> ir.Model:
    """Lower, run in ONNX Runtime with its optimisations off and on, compare: one `step`, else rounding errors."""
    wanted = expected(model, grids, x)
    lower(model, grids)
    assert not [n for n in model.graph if n.domain == "nncf_ext"] and "nncf_ext" not in model.graph.opset_imports
    write(model, folder / "model.onnx")
    scale = max(1.0, float(np.abs(wanted).max()))
    for optimize in (False, True):
        (found,) = run(of(folder / "model.onnx", optimize), [x])
        np.testing.assert_allclose(found, wanted, atol=step + tolerance * scale, rtol=0)
    return model


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def initializers(model: ir.Model, dtype: ir.DataType) -> list[np.ndarray]:
    return [v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value.dtype == dtype]


CONV = """(float[N,3,6,6] x) => (float[N,4,4,4] y) {
    xq = nncf_ext.Quantizer <key = "x"> (x)
    wq = nncf_ext.Quantizer <key = "w"> (w)
    c = Conv (xq, wq)
    b = BatchNormalization <epsilon = 0.001> (c, gamma, beta, mean, variance)
    r = Relu (b)
    y = nncf_ext.Quantizer <key = "y"> (r)
}"""


def conv_constants(gamma: np.ndarray) -> dict[str, np.ndarray]:
    vectors = {name: rng.normal(0, 0.3, 4).astype(np.float32) for name in ("beta", "mean")}
    return {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "gamma": gamma.astype(np.float32),
        **vectors,
        "variance": rng.uniform(0.5, 2, 4).astype(np.float32),
    }


@settings(max_examples=25, deadline=None)
@given(gamma=st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4))
def test_batchnorm_folds_exactly_for_every_gamma(tmp_path_factory, gamma):
    constants = conv_constants(np.array(gamma))
    grids = {"x": grid(-128 / 32, 1 / 32), "w": symmetric(constants["w"], 0), "y": grid(0, 1 / 16)}
    x = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    model = check(build(CONV, **constants), grids, x, tmp_path_factory.mktemp("fold"), step=1 / 16)
    assert "BatchNormalization" not in operators(model) and "Relu" not in operators(model)
    (codes,) = initializers(model, ir.DataType.INT8)[:1]
    factor = constants["gamma"] / np.sqrt(constants["variance"] + 1e-3)
    own = grids["w"].codes(constants["w"])
    alive = np.abs(factor) > 1e-4  # below, the bias may not fit and makes the codes coarser
    np.testing.assert_array_equal(codes[alive], (own * np.sign(factor).reshape(4, 1, 1, 1))[alive])


def test_hand_worked_fold(tmp_path):
    """w = [2, -1] -> codes [127, -127] x steps [2/127, 1/127]; y = -3 * (conv - 1) + 0.5 in channel 1 flips its code."""
    model = build(
        """(float[1,1,1,1] x) => (float[1,2,1,1] y) {
            xq = nncf_ext.Quantizer <key = "x"> (x)
            wq = nncf_ext.Quantizer <key = "w"> (w)
            c = Conv (xq, wq)
            y = BatchNormalization <epsilon = 0.0> (c, gamma, beta, mean, variance)
        }""",
        w=np.array([2, -1], np.float32).reshape(2, 1, 1, 1),
        gamma=np.array([1, -6], np.float32),
        beta=np.array([0, 0.5], np.float32),
        mean=np.array([0, 1], np.float32),
        variance=np.array([1, 4], np.float32),
    )
    step = np.array([2, 1], np.float32).reshape(2, 1, 1, 1) / 127
    check(
        model,
        {"x": grid(0, 0.5), "w": Levels(-127 * step, step, 254)},
        np.full((1, 1, 1, 1), 3, np.float32),
        tmp_path,
        tolerance=1e-3,
    )
    (codes,), (bias,) = initializers(model, ir.DataType.INT8)[:1], [a for a in initializers(model, ir.DataType.INT32) if a.any()]
    assert codes.ravel().tolist() == [127, 127]
    assert bias.tolist() == [0, round(3.5 / (0.5 * 3 / 127))]


@pytest.mark.parametrize("order", ["Mul Add", "Mul Sub", "Add Mul", "Div Add", "Add", "Mul"])
def test_scale_and_shift_as_keras_writes_them_fold(tmp_path, order):
    names = {"Mul": "scale", "Div": "scale", "Add": "shift", "Sub": "shift"}
    lines, value = [], "c"
    for number, op in enumerate(order.split()):
        lines.append(f"t{number} = {op} ({value}, {names[op]})")
        value = f"t{number}"
    text = f"""(float[N,3,6,6] x) => (float[N,4,4,4] y) {{
        xq = nncf_ext.Quantizer <key = "x"> (x)
        wq = nncf_ext.Quantizer <key = "w"> (w)
        c = Conv (xq, wq)
        {" ".join(lines)}
        y = nncf_ext.Quantizer <key = "y"> ({value})
    }}"""
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    vectors = {"scale": np.array([0.5, -2, 1, -0.25], np.float32), "shift": np.array([0.1, -0.2, 0.3, 0], np.float32)}
    constants = {name: v.reshape(1, 4, 1, 1) for name, v in vectors.items() if name in {names[op] for op in order.split()}}
    grids = {"x": grid(-4, 1 / 32), "w": symmetric(w, 0), "y": grid(-8, 1 / 16)}
    model = check(build(text, w=w, **constants), grids, rng.normal(size=(2, 3, 6, 6)).astype(np.float32), tmp_path, step=1 / 16)
    assert set(operators(model)) == {"QuantizeLinear", "DequantizeLinear", "Conv"}


def test_minus_128_has_no_mirror_image_so_that_the_batchnorm_stays(tmp_path):
    constants = conv_constants(np.array([1, -1, 1, 1]))
    constants["w"][1, 0, 0, 0] = -8
    step = np.full((4, 1, 1, 1), 1 / 16, np.float32)
    grids = {"x": grid(-4, 1 / 32), "w": Levels(-128 * step, step, 255), "y": grid(0, 1 / 16)}
    model = check(build(CONV, **constants), grids, rng.normal(size=(1, 3, 6, 6)).astype(np.float32), tmp_path, step=1 / 16)
    assert operators(model)["BatchNormalization"] == 1


def test_asymmetric_weights_are_uint8_and_flip_with_their_zero_point(tmp_path):
    constants = conv_constants(np.array([1, -1, 0.5, -2]))
    low, high = constants["w"].min((1, 2, 3), keepdims=True), constants["w"].max((1, 2, 3), keepdims=True)
    low, high = np.asarray(numerics.grid_through_zero(numpy_xp, low, high - low, 255))
    grids = {"x": grid(-4, 1 / 32), "w": Levels(low, high / np.float32(255), 255), "y": grid(0, 1 / 16)}
    model = check(build(CONV, **constants), grids, rng.normal(size=(1, 3, 6, 6)).astype(np.float32), tmp_path, step=1 / 16)
    assert "BatchNormalization" not in operators(model)
    assert [a for a in initializers(model, ir.DataType.UINT8) if a.ndim == 4]


@pytest.mark.parametrize("shared", [False, True])
def test_a_second_user_of_the_convolution_keeps_the_batchnorm(tmp_path, shared):
    text = CONV.replace("(float[N,4,4,4] y)", "(float[N,4,4,4] y, float[N,4,4,4] c)") if shared else CONV
    constants = conv_constants(np.ones(4))
    grids = {"x": grid(-4, 1 / 32), "w": symmetric(constants["w"], 0), "y": grid(0, 1 / 16)}
    model = build(text, **constants)
    assert ("BatchNormalization" in operators(lower(model, grids))) == shared


def test_float_weights_fold_too(tmp_path):
    text = CONV.replace('nncf_ext.Quantizer <key = "w">', "Identity").replace('nncf_ext.Quantizer <key = "x">', "Identity")
    constants = conv_constants(np.array([1, -1, 0.5, -2]))
    grids = {"y": grid(0, 1 / 16)}
    model = check(build(text, **constants), grids, rng.normal(size=(1, 3, 6, 6)).astype(np.float32), tmp_path, step=1 / 16)
    assert set(operators(model)) == {"QuantizeLinear", "DequantizeLinear", "Conv"}


def test_weights_go_through_layout_to_the_operator_that_uses_them(tmp_path):
    """A Keras depthwise kernel (H, W, C, 1) as tf2onnx passes it on: the axis of its steps moves from 2 to 0."""
    w = rng.normal(size=(3, 3, 4, 1)).astype(np.float32)
    text = """(float[N,4,5,5] x) => (float[N,4,3,3] y) {
        xq = nncf_ext.Quantizer <key = "x"> (x)
        wq = nncf_ext.Quantizer <key = "w"> (w)
        r = Reshape (wq, shape)
        t = Transpose <perm = [3, 2, 0, 1]> (r)
        c = Conv <group = 4> (xq, t)
        y = nncf_ext.Quantizer <key = "y"> (c)
    }"""
    grids = {"x": grid(-4, 1 / 32), "w": symmetric(w, 2), "y": grid(-8, 1 / 16)}
    model = build(text, w=w, shape=np.array([3, 3, 1, 4], np.int64))
    check(model, grids, rng.normal(size=(2, 4, 5, 5)).astype(np.float32), tmp_path, step=1 / 16)
    assert "Transpose" not in operators(model) and "Reshape" not in operators(model)
    (node,) = [n for n in model.graph if n.op_type == "DequantizeLinear" and n.inputs[0].const_value is not None]
    assert node.attributes.get_int("axis") == 0
    codes = node.inputs[0].const_value.numpy()
    np.testing.assert_array_equal(codes, grids["w"].codes(w).transpose(3, 2, 0, 1).reshape(4, 1, 3, 3))


def test_masked_weights_are_evaluated_and_keep_their_zeros(tmp_path):
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    mask = (rng.random(w.shape) > 0.6).astype(np.float32)
    text = CONV.replace("(w)", "(m)").replace("wq =", "m = Mul (w, mask) wq =")
    constants = {**conv_constants(np.ones(4)), "w": w, "mask": mask}
    grids = {"x": grid(-4, 1 / 32), "w": symmetric(w, 0), "y": grid(0, 1 / 16)}
    model = check(build(text, **constants), grids, rng.normal(size=(1, 3, 6, 6)).astype(np.float32), tmp_path, step=1 / 16)
    (codes,) = [a for a in initializers(model, ir.DataType.INT8) if a.ndim == 4]
    assert not codes[mask == 0].any() and "Mul" not in operators(model)


ACTIVATION = """(float[N,3] x) => (float[N,3] y) {
    %s
    y = nncf_ext.Quantizer <key = "y"> (%s)
}"""


@pytest.mark.parametrize(
    ("found", "zero", "clip"),
    [
        (grid(0, 0.1, rank=2), 0, None),
        (grid(-12.8, 0.1, rank=2), 128, None),
        (grid(-1.0, 0.1, rank=2), 10, None),
        (grid(-0.8, 0.1, 15, rank=2), 128, (120, 135)),
        (grid(0, 0.1, 15, rank=2), 0, (0, 15)),
        (grid(-6.3, 0.1, 126, rank=2), 128, (65, 191)),
    ],
    ids=["unsigned", "signed", "asymmetric", "signed 4 bits", "unsigned 4 bits", "signed narrow 7 bits"],
)
def test_activations_are_uint8(tmp_path, found, zero, clip):
    x = np.linspace(-20, 40, 300, dtype=np.float32).reshape(100, 3)
    model = check(build(ACTIVATION % ("", "x")), {"y": found}, x, tmp_path)
    node = next(n for n in model.graph if n.op_type == "QuantizeLinear")
    assert node.inputs[2].const_value.numpy() == zero and node.inputs[2].const_value.dtype == ir.DataType.UINT8
    bounds = [tuple(int(v.const_value.numpy()) for v in n.inputs[1:]) for n in model.graph if n.op_type == "Clip"]
    assert bounds == ([] if clip is None else [clip])


def test_the_narrow_signed_grid_lets_one_more_level_through(tmp_path):
    x = np.linspace(-20, 20, 300, dtype=np.float32).reshape(100, 3)
    model = check(build(ACTIVATION % ("", "x")), {"y": grid(-12.7, 0.1, 254, rank=2)}, x, tmp_path, step=0.1)
    assert operators(model) == {"QuantizeLinear": 1, "DequantizeLinear": 1}


@pytest.mark.parametrize(
    ("front", "found", "left"),
    [
        ("r = Relu (x)", grid(0, 0.1, rank=2), None),
        ("r = Relu (x)", grid(-12.8, 0.1, rank=2), (128, 255)),
        ("r = Clip (x, zero, six)", grid(0, 6 / 255, rank=2), None),
        ("r = Clip (x, zero, six)", grid(0, 5 / 255, rank=2), None),
        ("r = Clip (x, zero, six)", grid(0, 0.03, rank=2), (0, 200)),
        ("r = Clip (x, , six)", grid(-12.8, 0.1, rank=2), (0, 188)),
    ],
)
def test_relu_and_clip_in_front_act_on_the_codes(tmp_path, front, found, left):
    x = np.linspace(-20, 40, 300, dtype=np.float32).reshape(100, 3)
    constants = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)} if "Clip" in front else {}
    model = build(ACTIVATION % (front, "r"), **constants)
    check(model, {"y": found}, x, tmp_path)
    bounds = [tuple(int(v.const_value.numpy()) for v in n.inputs[1:]) for n in model.graph if n.op_type == "Clip"]
    assert "Relu" not in operators(model) and bounds == ([] if left is None else [left])


@pytest.mark.parametrize("intervals", [255, 15])
def test_activation_steps_per_channel_are_rounded_in_floating_point(tmp_path, intervals):
    step = np.array([[0.01, 0.1, 1]], np.float32)
    x = np.linspace(-20, 40, 300, dtype=np.float32).reshape(100, 3)
    model = check(build(ACTIVATION % ("", "x")), {"y": Levels(0 * step, step, intervals)}, x, tmp_path)
    assert operators(model)["Round"] == 1 and "QuantizeLinear" not in operators(model)


LINEAR = """(float[N,5] x) => (float[N,3] y) {{
    xq = nncf_ext.Quantizer <key = "x"> (x)
    wq = nncf_ext.Quantizer <key = "w"> (w)
    {}
}}"""


@pytest.mark.parametrize(
    ("body", "axis", "runs"),
    [
        ("y = Gemm <transB = 1> (xq, wq, b)", 0, "QGemm"),
        ("t = Transpose <perm = [1, 0]> (wq) m = MatMul (xq, t) y = Add (m, b)", 0, "QGemm"),
        ("t = Transpose <perm = [1, 0]> (wq) m = MatMul (xq, t) y = Add (b, m)", 0, "QGemm"),
        ("s = Gemm <transB = 1> (xq, wq, b) y = Mul (s, b)", 0, "QGemm"),
        ("t = Transpose <perm = [1, 0]> (wq) m = MatMul (xq, t) a = Add (m, b) y = Mul (a, b)", 0, "QGemm"),
        ("t = Transpose <perm = [1, 0]> (wq) m = MatMul (xq, t) s = Mul (m, b) y = Sub (b, s)", 0, "QGemm"),
    ],
)
def test_linear_layers_run_in_integers_with_an_int32_bias(tmp_path, body, axis, runs):
    from nncf_ext.export import integer_operators

    w, b = rng.normal(size=(3, 5)).astype(np.float32), np.array([0.5, -1.25, 2], np.float32)
    grids = {"x": grid(-4, 1 / 32, rank=2), "w": symmetric(w, axis)}
    model = check(
        build(LINEAR.format(body), w=w, b=b), grids, rng.normal(size=(4, 5)).astype(np.float32), tmp_path, tolerance=1e-3
    )
    bias = [a for a in initializers(model, ir.DataType.INT32) if a.any()]
    assert len(bias) == 1 and runs in integer_operators(tmp_path / "model.onnx")


@pytest.mark.parametrize("body", ["y = Gemm <transB = 1> (xq, wq)", "t = Transpose <perm = [1, 0]> (wq) y = MatMul (xq, t)"])
def test_scales_along_the_summed_axis_make_the_weight_float(tmp_path, body):
    """ONNX Runtime fuses such a DequantizeLinear into an integer product and fails when it runs."""
    w = rng.normal(size=(3, 5)).astype(np.float32)
    grids = {"x": grid(-4, 1 / 32, rank=2), "w": symmetric(w, 1)}
    model = check(build(LINEAR.format(body), w=w), grids, rng.normal(size=(4, 5)).astype(np.float32), tmp_path)
    assert not initializers(model, ir.DataType.INT8)


def test_bias_codes_by_hand(tmp_path):
    """Input step 1/4, weight steps [1/2, 1/8]: bias steps [1/8, 1/32], codes [1 / (1/8), -1 / (1/32)] = [8, -32]."""
    w, b = np.array([[1.0], [0.25]], np.float32), np.array([1, -1], np.float32)
    step = np.array([[0.5], [0.125]], np.float32)
    model = build(LINEAR.format("y = Gemm <transB = 1> (xq, wq, b)").replace("N,5", "N,1").replace("N,3", "N,2"), w=w, b=b)
    check(model, {"x": grid(0, 0.25, rank=2), "w": Levels(-127 * step, step, 254)}, np.ones((2, 1), np.float32), tmp_path)
    assert [a.tolist() for a in initializers(model, ir.DataType.INT32) if a.any()] == [[8, -32]]


def test_a_bias_without_quantized_input_stays_float(tmp_path):
    w, b = rng.normal(size=(3, 5)).astype(np.float32), np.ones(3, np.float32)
    text = LINEAR.format("y = Gemm <transB = 1> (xq, wq, b)").replace('nncf_ext.Quantizer <key = "x">', "Identity")
    model = check(build(text, w=w, b=b), {"w": symmetric(w, 0)}, rng.normal(size=(4, 5)).astype(np.float32), tmp_path)
    assert not initializers(model, ir.DataType.INT32)


def test_a_bias_beyond_int32_makes_its_channel_coarser_and_nothing_wraps(tmp_path):
    """A channel with a tiny gamma: its bias of 3 would need 3 / (1e-12 * step) levels."""
    constants = conv_constants(np.array([1, 1e-9, 1, -1e-7]))
    constants["beta"][:] = 3
    grids = {"x": grid(-4, 1 / 32), "w": symmetric(constants["w"], 0), "y": grid(0, 1 / 16)}
    model = check(build(CONV, **constants), grids, rng.normal(size=(2, 3, 6, 6)).astype(np.float32), tmp_path, step=1 / 16)
    biases = [a for a in initializers(model, ir.DataType.INT32) if a.any()]
    assert len(biases) == 1 and np.abs(biases[0].astype(np.int64)).max() <= 2**30


def test_a_weight_shared_by_two_operators_is_stored_once(tmp_path):
    w = rng.normal(size=(5, 5)).astype(np.float32)
    text = """(float[N,5] x) => (float[N,5] y) {
        w1 = nncf_ext.Quantizer <key = "w"> (w)
        w2 = nncf_ext.Quantizer <key = "w"> (w)
        a = MatMul (x, w1)
        y = MatMul (a, w2)
    }"""
    model = check(build(text, w=w), {"w": symmetric(w, 1)}, rng.normal(size=(2, 5)).astype(np.float32), tmp_path, of=session)
    assert len([a for a in initializers(model, ir.DataType.INT8) if a.ndim == 2]) == 1


def test_identities_and_dropout_go_and_outputs_keep_their_names(tmp_path):
    model = build("(float[N,5] x) => (float[N,5] y) { a = Identity (x) b = Dropout (a) c = Relu (b) y = Identity (c) }")
    lower(model, {})
    assert operators(model) == {"Relu": 1} and [v.name for v in model.graph.outputs] == ["y"]


def test_unknown_quantizer_is_named():
    with pytest.raises(KeyError, match="quantizer 'y'"):
        lower(build(ACTIVATION % ("", "x")), {})


def test_an_initializer_that_is_a_transposed_view_is_stored(tmp_path):
    model = build("(float[N,3] x) => (float[N,2] y) { y = MatMul (x, w) }", w=np.zeros((3, 2), np.float32))
    weight = np.arange(6, dtype=np.float32).reshape(2, 3).T
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    check(model, {}, rng.normal(size=(4, 3)).astype(np.float32), tmp_path)


def test_one_quantizer_read_by_two_operators_is_one_node(tmp_path):
    text = """(float[N,3] x) => (float[N,3] y) {
        a = nncf_ext.Quantizer <key = "x"> (x)
        b = nncf_ext.Quantizer <key = "x"> (x)
        y = Add (a, b)
    }"""
    model = check(build(text), {"x": grid(-12.8, 0.1, rank=2)}, rng.normal(size=(4, 3)).astype(np.float32), tmp_path)
    assert operators(model)["QuantizeLinear"] == 1


def test_elements_selected_from_a_quantized_tensor_are_quantized_again(tmp_path):
    """ONNX Runtime runs the Gemm in integers only with a DequantizeLinear right in front."""
    from nncf_ext.export import integer_operators

    text = """(float[N,4,5] x) => (float[N,3] y) {
        xq = nncf_ext.Quantizer <key = "x"> (x)
        first = Gather <axis = 1> (xq, index)
        wq = nncf_ext.Quantizer <key = "w"> (w)
        y = Gemm <transB = 1> (first, wq, b)
    }"""
    w, b = rng.normal(size=(3, 5)).astype(np.float32), np.ones(3, np.float32)
    grids = {"x": grid(-4, 1 / 32, rank=3), "w": symmetric(w, 0)}
    model = build(text, w=w, b=b, index=np.array(0, np.int64))
    check(model, grids, rng.normal(size=(2, 4, 5)).astype(np.float32), tmp_path, tolerance=1e-3)
    assert integer_operators(tmp_path / "model.onnx")["QGemm"] == 1
