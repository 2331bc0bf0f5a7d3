"""The fused masks equal the composite of numerics.py: values and dx bit for bit, the scores' gradients to a few units of 1e-6."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nncf_ext_torch import mask_kernels, native, xp

from nncf_ext import noise, numerics

COMPOSITE = SimpleNamespace(**{name: getattr(xp, name) for name in dir(xp) if name != "fused"})

pytestmark = pytest.mark.skipif(native.library() is None, reason="the compiled kernels were not built")

SHAPES = [(1,), (255,), (256,), (257,), (70, 300), (5, 4, 3, 3), (600, 1000)]  # the last takes several threads


def gradients(function, g, *tensors):
    leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in tensors]
    y = function(*leaves)
    y.backward(g)
    return [y.detach(), *(t.grad for t in leaves if t.is_floating_point())]


def close_sums(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_by_score(shape, noisy, monkeypatch):
    monkeypatch.setattr(native, "SMALLEST_PART", 1 << 17)
    torch.manual_seed(0)
    x, score, g = torch.randn(shape), 4 * torch.randn(shape), torch.randn(shape)
    rows = torch.from_numpy(noise.draw(3, [x.numel()])[0]) if noisy else None
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ours = gradients(lambda x, s: mask_kernels.masked_by_score(x, s, rows), g, x, score)
    finally:
        torch.set_num_threads(before)
    theirs = gradients(lambda x, s: numerics.masked_by_score_composite(COMPOSITE, x, s, rows), g, x, score)
    assert all(torch.equal(a, b) for a, b in zip(ours[:2], theirs[:2], strict=True))
    close_sums(ours[2], theirs[2])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_alone(shape):
    torch.manual_seed(0)
    score = 4 * torch.randn(shape)
    ours = gradients(mask_kernels.kept_count, torch.tensor(3.0), score)
    theirs = gradients(lambda s: numerics.kept_count(COMPOSITE, s), torch.tensor(3.0), score)
    assert torch.equal(ours[0], theirs[0]) and ours[0] == (score > 0).sum()
    close_sums(ours[1], theirs[1])


def masked_and_counted(x, score, rows, function_of_xp, g):
    """Gradients of a task's loss and a loss of the count, and the two losses' graphs in the orders that users' loops have."""
    x, score = x.clone().requires_grad_(), score.clone().requires_grad_()
    y = numerics.masked_by_score(function_of_xp, x, score, rows)
    return x, score, (y * g).sum(), lambda: (numerics.kept_count(function_of_xp, score) - 7) ** 2


@pytest.mark.parametrize("order", ["together", "one_then_the_other", "both_then_backward", "count_first", "twice", "only_count"])
def test_a_count_found_on_the_way(order):
    """Whether the loss uses the count of the forward or counts anew, and in which order the backward passes run: the same."""
    torch.manual_seed(0)
    inputs, g = (torch.randn(40, 50), torch.randn(40, 50), torch.from_numpy(noise.draw(3, [2000])[0])), torch.randn(40, 50)
    results = []
    for namespace in (xp, COMPOSITE):
        x, score, task, count = masked_and_counted(*inputs, namespace, g)
        if order == "together":
            (task + count()).backward()
        elif order == "one_then_the_other":
            task.backward()
            count().backward()
        elif order == "both_then_backward":
            loss = count()
            task.backward()
            loss.backward()
        elif order == "count_first":
            count().backward()
            task.backward()
        elif order == "twice":
            (task + count() + count()).backward()
        else:
            count().backward()
        results.append((x.grad, score.grad))
    if order != "only_count":
        assert torch.equal(results[0][0], results[1][0])
    close_sums(results[0][1], results[1][1])


def test_a_count_of_older_scores_is_not_used():
    x, score = torch.randn(300, requires_grad=True), torch.randn(300, requires_grad=True)
    mask_kernels.masked_by_score(x, score, None)
    with torch.no_grad():
        score.neg_()
    assert mask_kernels.kept_count(score) == (score > 0).sum()
    mask_kernels.masked_by_score(x, score, None)
    with torch.no_grad():
        assert not mask_kernels.kept_count(score).requires_grad


def test_frozen_scores_have_no_gradient():
    """As far from zero as `freeze` puts them."""
    x, score = torch.randn(500), 64 + torch.rand(500)
    rows = torch.from_numpy(noise.draw(0, [500])[0])
    y, _, by_score = gradients(lambda x, s: mask_kernels.masked_by_score(x, s, rows), torch.ones(500), x, score)
    assert torch.equal(y, x) and by_score.abs().max() < 1e-20
