"""Distillation in PyTorch: sequences with padding, teachers that do not fit."""

import pytest
import torch
from nncf_ext_torch import create_compressed_model
from torch import nn

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.distillation import ValidPositions

TOKENS = torch.tensor([[3, 1, 4, 0, 0], [2, 7, 1, 8, 0]])
MASK = (TOKENS != 0).long()


class Tagger(nn.Module):
    """A score for each of three classes, at every token."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, classes)

    def forward(self, tokens, mask=None, **others):
        return {"scores": self.head(self.embed(tokens))}


def config(**keys):
    entry = {"algorithm": "knowledge_distillation", "type": "kl", "temperature": 2.0, **keys}
    inputs = [{"sample_size": [2, 5], "type": "long", "filler": "ones"}]
    return NNCFConfig.from_dict({"input_info": inputs, "compression": entry})


def compressed(teacher=None, registered=(), **keys):
    torch.manual_seed(0)
    settings = config(**keys)
    settings.register_extra_structs(registered)
    return create_compressed_model(Tagger(), settings, teacher=teacher or other())


def other(classes: int = 3):
    torch.manual_seed(1)
    return Tagger(classes).eval()


def of_tokens(model):
    """The loss of the tokens alone, by torch's own functions."""
    student, teacher = model(TOKENS)["scores"][MASK == 1], other()(TOKENS)["scores"][MASK == 1]
    both = [nn.functional.log_softmax(scores / 2, -1) for scores in (student, teacher)]
    return 4 * nn.functional.kl_div(*both, reduction="batchmean", log_target=True)


@pytest.mark.parametrize("by", ["tokens", "mask", "further", "function"])
def test_padding_does_not_count(by):
    registered = [ValidPositions(lambda inputs, outputs: inputs["tokens"] > 0)] if by == "function" else []
    keys = {} if by == "function" else {"padding": {"input": by}}
    ctrl, model = compressed(registered=registered, **keys)
    model.train()
    model(TOKENS, MASK) if by != "further" else model(TOKENS, further=MASK)
    loss = ctrl.loss()
    assert loss.item() == pytest.approx(of_tokens(model).item(), rel=1e-6)
    got = torch.autograd.grad(loss, model.head.weight)[0]
    want = torch.autograd.grad(of_tokens(model), model.head.weight)[0]
    torch.testing.assert_close(got, want)


def test_an_input_that_does_not_exist():
    ctrl, model = compressed(padding={"input": "attention_mask"})
    model.train()(TOKENS)
    with pytest.raises(ConfigError, match="padding.input: the model has no input 'attention_mask', expected one of tokens"):
        ctrl.loss()


def test_a_teacher_that_does_not_fit_is_an_error_before_training():
    words = (
        r"teacher: output scores of the model has shape \(2, 5, 3\), output scores of the teacher \(2, 5, 4\); expected the same"
    )
    model = Tagger()
    with pytest.raises(ConfigError, match=words):
        create_compressed_model(model, config(), teacher=other(4))
    assert type(model) is Tagger and not model._forward_hooks
    ctrl, _ = create_compressed_model(model, config())
    with pytest.raises(ConfigError, match=words):
        ctrl.set_teacher(other(4))
    with pytest.raises(ConfigError, match="teacher: it does not run on the model's inputs: "):
        ctrl.set_teacher(nn.Linear(7, 3))
    with pytest.raises(ConfigError, match=r"1 outputs \(scores \(2, 5, 3\)\) and the teacher 0 outputs; expected"):
        ctrl.set_teacher(nn.Identity())


def test_another_teacher_takes_the_place_of_the_first():
    ctrl, model = create_compressed_model(Tagger(), config())
    model.train()(TOKENS)
    assert ctrl.loss().item() == pytest.approx(0, abs=1e-6)  # a model is its own teacher
    calls = []
    teacher = other()
    teacher.register_forward_hook(lambda *_: calls.append(1))
    ctrl.set_teacher(teacher)
    ctrl.set_teacher(teacher)
    calls.clear()
    model(TOKENS)
    assert len(calls) == 1 and ctrl.loss().item() > 0.01


def test_the_uncompressed_model_teaches():
    """By default the teacher is a copy of the model as it was: training does not move it, nor its modes."""
    torch.manual_seed(0)
    settings = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 3]}, "compression": dict(config()["compression"])})
    plain = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    x = torch.randn(2, 3)
    answer = plain.eval()(x).detach()
    ctrl, model = create_compressed_model(plain, settings)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        ctrl.total_loss(model.train()(x).square().mean()).backward()
        optimizer.step()
    (outputs,) = ctrl._outputs.values()
    assert torch.equal(outputs.teacher[0], answer) and not outputs.teacher[0].requires_grad
    assert not torch.allclose(model.eval()(x), answer)
