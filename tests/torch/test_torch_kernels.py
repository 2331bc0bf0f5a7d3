"""The fused fake quantization equals the composite of numerics.py: values and dx bit for bit, the sums within their bounds."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nncf_ext_torch import kernels, native
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from nncf_ext import numerics

XP = SimpleNamespace(
    round=torch.round,
    clip=torch.clip,
    where=torch.where,
    stop_gradient=torch.Tensor.detach,
    cast_like=lambda a, like: a.to(like.dtype),
    abs=torch.abs,
)

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor needs a compiler")
needs_kernel = pytest.mark.skipif(native.library() is None, reason="the compiled kernel was not built")


def composite(x, low, step, intervals):
    return numerics.fake_quantize_composite(XP, x, low, step, intervals)


@pytest.fixture(params=[pytest.param("compiled", marks=needs_kernel), "aten"])
def form(request, monkeypatch):
    if request.param == "aten":
        monkeypatch.setattr(native, "library", lambda: None)
    return request.param


def grid(shape, intervals, seed=0, dtype=torch.float32):
    """low and step of this shape; the grids hold zero, some at their end."""
    random = np.random.default_rng(seed)
    step = torch.tensor(random.uniform(0.01, 0.1, shape), dtype=dtype)
    low = -step * torch.tensor(random.integers(0, intervals, shape), dtype=dtype) * (1 + 1e-3)
    return low.clamp(min=-float(intervals) * step), step


def run(function, x, low, step, intervals, g, leaf):
    """y, dx, dlow, dstep; with `leaf` False, x comes out of another operator."""
    x, low, step = (t.detach().clone().requires_grad_() for t in (x, low, step))
    y = function(x if leaf else x * 1.0, low, step, intervals)
    y.backward(g)
    return y.detach(), x.grad, low.grad, step.grad


def assert_same(ours, theirs, g, low, exact):
    """y and dx equal; dlow equal up to the order of summation; dstep too, or off by at most 1/504 of |g| per element."""
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    weight = g.abs().double().sum_to_size(low.shape)
    assert ours[2].shape == ours[3].shape == low.shape
    assert ((ours[2] - theirs[2]).abs() <= 1e-5 * (1 + weight)).all()
    bound = 1e-4 * (1 + weight) if exact else weight / 504 + 1e-4 * (1 + weight)
    assert ((ours[3] - theirs[3]).abs() <= bound).all()


LAYOUTS = {  # shape of x, axis of the channels (None: per tensor), memory format
    "scalar": ((), None, None),
    "vector": ((7,), None, None),
    "matrix": ((5, 33), None, None),
    "image": ((2, 3, 5, 7), None, None),
    "nhwc": ((2, 3, 5, 7), None, torch.channels_last),
    "ndhwc": ((2, 3, 2, 5, 7), None, torch.channels_last_3d),
    "weight": ((6, 4, 3, 3), 0, None),
    "weight_long": ((6, 40, 3, 3), 0, None),
    "transposed_weight": ((6, 4, 3, 3), 1, None),
    "features": ((9, 17), 1, None),
    "many_features": ((3, 1200), 1, None),
    "image_channels": ((2, 3, 9, 7), 1, None),
    "nhwc_channels": ((2, 3, 9, 7), 1, torch.channels_last),
    "nhwc_weight": ((6, 4, 3, 3), 0, torch.channels_last),
    "tokens": ((100, 5, 8), 2, None),
    "blocks": ((2, 3, 2500), 1, None),
}


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("intervals", [255, 254, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_composite(form, layout, intervals, leaf):
    shape, axis, memory_format = LAYOUTS[layout]
    torch.manual_seed(0)
    x, g = 4 * torch.randn(shape), torch.randn(shape)
    if memory_format is not None:
        x, g = x.to(memory_format=memory_format), g.to(memory_format=memory_format)
    low, step = grid([length if i == axis else 1 for i, length in enumerate(shape)], intervals)
    ours, theirs = (run(f, x, low, step, intervals, g, leaf) for f in (kernels.fake_quantize, composite))
    assert_same(ours, theirs, g, low, exact=leaf or form == "aten")
    assert ours[0].stride() == ours[1].stride() == x.stride()
    assert form == "aten" or not torch.signbit(ours[0][ours[0] == 0]).any()


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("levels", [(-128, 127), (-64, 63), (0, 255), (-1, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_symmetric_grids_equal_the_composite(form, layout, levels, leaf):
    """A scale may be negative, and zero: there its gradient is zero."""
    shape, axis, memory_format = LAYOUTS[layout]
    torch.manual_seed(0)
    x, g = 4 * torch.randn(shape), torch.randn(shape)
    if memory_format is not None:
        x, g = x.to(memory_format=memory_format), g.to(memory_format=memory_format)
    scale = 1 + torch.rand([length if i == axis else 1 for i, length in enumerate(shape)])
    if scale.numel() > 2:
        scale.view(-1)[0] *= -1
        scale.view(-1)[1] = 0
    results = []
    for function in (kernels.fake_quantize_symmetric, functools.partial(numerics.fake_quantize_symmetric, XP)):
        ours_x, ours_scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
        y = function(ours_x if leaf else ours_x * 1.0, ours_scale, *levels)
        y.backward(g)
        results.append((y.detach(), ours_x.grad, ours_scale.grad))
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
    for a, b in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    weight = g.abs().double().sum_to_size(scale.shape)
    bound = (1e-4 if leaf or form == "aten" else 1 / 504 / levels[1]) * weight + 1e-4 * (1 + weight)
    assert ((results[0][2] - results[1][2]).abs() <= bound).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_shape_axis_and_order_of_memory(data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    axis = data.draw(st.sampled_from([None, *range(len(shape))]))
    order = data.draw(st.permutations(range(len(shape))))
    intervals = data.draw(st.sampled_from([1, 15, 255, 65535]))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = 5 * torch.randn([shape[i] for i in order]).permute([order.index(i) for i in range(len(shape))])
    g = torch.randn(shape)
    low, step = grid([length if i == axis else 1 for i, length in enumerate(shape)], intervals)
    ours, theirs = (run(f, x, low, step, intervals, g, True) for f in (kernels.fake_quantize, composite))
    assert_same(ours, theirs, g, low, exact=True)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=70),
    st.floats(2.0**-20, 1000, width=32),
    st.integers(1, 255),
    st.integers(0, 255),
)
def test_any_value(values, step, intervals, zero):
    x = torch.tensor(values)
    step = torch.tensor([step])
    low = -step * min(zero, intervals)
    ours, theirs = (run(f, x, low, step, intervals, torch.ones_like(x), False) for f in (kernels.fake_quantize, composite))
    assert_same(ours, theirs, torch.ones_like(x), low, exact=False)


def test_worked_example(form):
    x = torch.tensor([-3.0, -1.25, -0.75, 0.25, 0.3, 0.75, 1.75, 9.0], requires_grad=True)
    low, step = torch.tensor([-1.0], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    y = kernels.fake_quantize(x, low, step, 5)  # the grid -1, -0.5, ..., 1.5
    assert y.tolist() == [-1, -1, -1, 0, 0.5, 1, 1.5, 1.5]  # -1.5, 0.5 and 1.5 steps are ties: they round to even
    y.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert low.grad.tolist() == [4]
    # inside: round(v) - v of v = -1.5, 0.5, 0.6, 1.5; above: 5 each
    assert step.grad.item() == pytest.approx(-0.5 - 0.5 + 0.4 + 0.5 + 5 + 5, abs=1e-6)


@pytest.mark.parametrize("leaf", [True, False])
def test_nan_and_infinity(form, leaf):
    x = torch.tensor([float("nan"), 1.0, float("inf"), float("-inf"), 0.02] * 9)
    low, step = torch.tensor([-1.0]), torch.tensor([0.1])
    for size in (5, 45):
        ours = run(kernels.fake_quantize, x[:size], low, step, 15, torch.ones(size), leaf)
        theirs = run(composite, x[:size], low, step, 15, torch.ones(size), leaf)
        torch.testing.assert_close(ours[:2], theirs[:2], rtol=0, atol=0, equal_nan=True)
        assert torch.isnan(ours[3]).all()
    _, dx, dlow, dstep = run(kernels.fake_quantize, x[2:4], low, step, 15, torch.ones(2), leaf)
    assert (dx.tolist(), dlow.tolist(), dstep.tolist()) == ([0, 0], [2], [15])


@pytest.mark.parametrize("shape, of_grid", [((0,), (1,)), ((4, 0, 3), (1, 1, 1)), ((2, 0, 3), (1, 0, 1)), ((2, 0, 3), (2, 1, 1))])
def test_empty(form, shape, of_grid):
    low, step = torch.full(of_grid, -1.0), torch.full(of_grid, 0.1)
    y, dx, dlow, dstep = run(kernels.fake_quantize, torch.zeros(shape), low, step, 15, torch.zeros(shape), True)
    assert y.shape == dx.shape == shape
    assert dlow.shape == dstep.shape == of_grid and not dlow.any() and not dstep.any()


@pytest.mark.parametrize("select", [lambda x: x[:, ::2], lambda x: x[:, :4], lambda x: x[:, :1].expand(6, 4, 5)])
def test_tensors_with_gaps_and_gradients_without_memory(form, select):
    base = 3 * torch.randn(6, 8, 5)
    low, step = grid((1, 4, 1), 15)
    for g in (torch.ones(()).expand(6, 4, 5), torch.randn(6, 5, 4).transpose(1, 2)):
        ours, theirs = (
            run(lambda x, *grid, f=f: f(select(x), *grid), base, low, step, 15, g, False)
            for f in (kernels.fake_quantize, composite)
        )
        assert_same(ours, theirs, g, low, exact=form == "aten")
    with torch.no_grad():
        assert torch.equal(kernels.fake_quantize(select(base), low, step, 15), composite(select(base), low, step, 15))


def test_grids_the_kernel_does_not_serve():
    x = 3 * torch.randn(4, 5, 6)
    for of_low, of_step in (((4, 5, 1), (4, 5, 1)), ((1, 5, 1), (1, 1, 1)), ((5, 1), (5, 1)), ((), ())):
        low, _ = grid(of_low, 15)
        step = torch.full(of_step, 0.2)
        g = torch.randn(4, 5, 6)
        ours, theirs = (run(f, x, low, step, 15, g, True) for f in (kernels.fake_quantize, composite))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    x, g = 3 * torch.randn(2, 3, 5).to(dtype), torch.randn(2, 3, 5).to(dtype)
    low, step = grid((1, 3, 1), 15, dtype=dtype)
    ours, theirs = (run(f, x, low, step, 15, g, True) for f in (kernels.fake_quantize, composite))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[2:], theirs[2:], rtol=0.02, atol=0.1)


def test_half_precision_activations_with_float_grids():
    x, g = 3 * torch.randn(2, 3, 5).bfloat16(), torch.randn(2, 3, 5).bfloat16()
    low, step = grid((1, 3, 1), 15)
    y, dx, dlow, dstep = run(kernels.fake_quantize, x, low, step, 15, g, True)
    expected = run(composite, x.float(), low, step, 15, g.float(), True)
    assert y.dtype == dx.dtype == torch.bfloat16 and dlow.dtype == dstep.dtype == torch.float32
    assert torch.equal(y, expected[0].bfloat16()) and torch.equal(dx, expected[1].bfloat16())
    torch.testing.assert_close((dlow, dstep), expected[2:], rtol=1e-4, atol=1e-4)


def test_gradients_are_those_asked_for(form):
    low, step = grid((1, 1), 15)
    for needs in ((True, False, False), (False, True, False), (False, False, True), (True, False, True)):
        inputs = [t.clone().requires_grad_(need) for t, need in zip((torch.randn(4, 50), low, step), needs, strict=True)]
        kernels.fake_quantize(*inputs, 15).sum().backward()
        assert [t.grad is not None for t in inputs] == list(needs)
    x = torch.randn(4, 50)
    assert not kernels.fake_quantize(x, low, step, 15).requires_grad
    with torch.no_grad():
        assert kernels.fake_quantize(x.requires_grad_(), low, step, 15).grad_fn is None


@needs_kernel
def test_memory_kept_for_backward():
    def kept(x):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            kernels.fake_quantize(x, low, step, 255)
        return max(sizes)

    low, step = grid((1,), 255)
    activation = torch.randn(1000, requires_grad=True) * 1.0
    assert kept(activation) == 1000
    weight = torch.nn.Parameter(torch.randn(1000))
    assert kept(weight) == weight.nbytes  # the weight itself, not a copy


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_number_of_threads(axis):
    """Large enough to be split; the results do not depend on it but for the order of the sums."""
    shape = (1030, 515)
    low, step = grid([length if i == axis else 1 for i, length in enumerate(shape)], 255)
    x, g = 4 * torch.randn(shape), torch.randn(shape)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append([run(kernels.fake_quantize, x, low, step, 255, g, leaf) for leaf in (True, False)])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
        torch.testing.assert_close(one[2:], two[2:], rtol=1e-4, atol=0.1)  # dstep sums half a million terms of up to 255 |g|


@needs_kernel
@pytest.mark.skipif(not hasattr(os, "fork") or (os.cpu_count() or 1) < 2, reason="needs fork and two cores")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_process_has_threads_of_its_own():
    x, y = torch.randn(1 << 18), torch.empty(1 << 18)
    low, step = grid((1,), 255)

    def quantize():
        arguments = (x.data_ptr(), y.data_ptr(), None, low.data_ptr(), step.data_ptr(), 0, 255, x.numel(), 1, x.numel())
        native.run("fake_quantize_forward", 2, *arguments)

    quantize()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        quantize()  # would wait for ever for the parent's threads
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Block(torch.nn.Module):
    def __init__(self, quantize):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.low, self.step = (torch.nn.Parameter(t) for t in grid((8, 1, 1, 1), 255))
        self.low_x, self.step_x = torch.nn.Parameter(torch.tensor([-1.0])), torch.nn.Parameter(torch.tensor([0.02]))
        self.quantize = quantize

    def forward(self, x):
        x = self.quantize(torch.sin(x), self.low_x, self.step_x, 255)
        return torch.relu(torch.conv2d(x, self.quantize(self.conv.weight, self.low, self.step, 255), self.conv.bias))


def gradients(forward, model, x):
    loss = forward(x).square().sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return loss, dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])])
def test_torch_compile(backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    ours, theirs = Block(kernels.fake_quantize), Block(composite)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 9, 9)
    loss, compiled = gradients(torch.compile(ours, fullgraph=True, backend=backend), ours, x)
    expected_loss, expected = gradients(theirs, theirs, x)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(compiled, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_inside_a_function_mode(form):
    """An adapter counts the model's operators in such a mode: ours must not be among them, compiled or not."""

    class Count(TorchFunctionMode):
        counted = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            for own in (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.div, torch.round, torch.clamp, torch.sin):
                if function is own:
                    self.counted += 1
            return function(*args, **(kwargs or {}))

    model, x = Block(kernels.fake_quantize), torch.randn(2, 3, 9, 9)
    _, expected = gradients(model, model, x)

    def forward(x):
        with Count() as mode:
            y = model(x)
        assert mode.counted == 1
        return y

    _, eager = gradients(forward, model, x)
    torch.testing.assert_close(eager, expected)
    torch._dynamo.reset()

    def traced(x):
        with Count():
            return model(x)

    _, compiled = gradients(torch.compile(traced, fullgraph=True, backend="aot_eager"), model, x)
    torch.testing.assert_close(compiled, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_tracers_see_the_operators(form):
    model, x, other = Block(kernels.fake_quantize).eval(), torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9)
    expected = model(other)
    for traced in (torch.jit.trace(model, x, check_trace=False), torch.export.export(model, (x,)).module(), make_fx(model)(x)):
        torch.testing.assert_close(traced(other), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(form, reentrant):
    model, x = Block(kernels.fake_quantize), torch.randn(2, 3, 9, 9, requires_grad=True)
    _, expected = gradients(model, model, x)
    loss = checkpoint(model, x, use_reentrant=reentrant).square().sum()
    loss.backward()
    actual = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_that_begins_with_a_quantizer(form, reentrant):
    """Whatever x is when the checkpoint computes it again, the same is kept for backward."""
    low, step = grid((1,), 255)

    def quantize(x):
        return kernels.fake_quantize(x, low.requires_grad_(), step.requires_grad_(), 255)

    x = torch.randn(100, requires_grad=True)
    checkpoint(quantize, 1.0 * x, use_reentrant=reentrant).sum().backward()
    assert torch.equal(x.grad, run(composite, x, low, step, 255, torch.ones(100), False)[1])


def test_autocast_and_deepcopy(form):
    model = copy.deepcopy(Block(kernels.fake_quantize))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(2, 3, 9, 9))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_second_derivative_is_refused(form):
    x = torch.randn(50, requires_grad=True)
    y = kernels.fake_quantize(x * 1.0, *grid((1,), 15), 15).square().sum()
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice_differentiable"):
        first.sum().backward()


def test_without_the_compiled_kernel(monkeypatch, caplog):
    native.library.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(native.importlib.util, "find_spec", lambda name, package=None: None)
            assert native.library() is None
        x, (low, step) = torch.randn(3, 4), grid((1, 4), 15)
        assert torch.equal(kernels.fake_quantize(x, low, step, 15), composite(x, low, step, 15))
        assert "slower" in caplog.text
        kernels.fake_quantize(x, low, step, 15)
        assert len(caplog.records) == 1
    finally:
        native.library.cache_clear()
