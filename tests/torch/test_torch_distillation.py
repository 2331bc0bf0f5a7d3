"""Distillation in PyTorch: sequences with padding, teachers that do not fit."""

import numpy as np
import pytest
import torch
from nncf_ext_torch import create_compressed_model, register_default_init_args
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.distillation.losses import ValidPositions
from nncf_ext.distillation.teacher_cache import TeacherCache
from nncf_ext.export.parity import run, session

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


class WithLoss(nn.Module):
    """As models of Hugging Face: given labels, it computes its own loss, and returns it first."""

    def __init__(self, alone: bool = False):
        super().__init__()
        self.head, self.alone = nn.Linear(4, 3), alone

    def forward(self, x, labels=None):
        scores = self.head(x)
        if self.alone:
            return {"loss": scores.square().mean()}
        return {"scores": scores} if labels is None else {"loss": nn.functional.cross_entropy(scores, labels), "scores": scores}


@pytest.mark.parametrize("kind", ["softmax", "mse"])
def test_a_loss_that_the_model_computes_of_labels_is_not_compared(kind):
    entry = {"compression": {"algorithm": "knowledge_distillation", "type": kind}}
    settings = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 4]}, **entry})
    torch.manual_seed(0)
    teacher, (ctrl, model) = WithLoss(), create_compressed_model(WithLoss(), settings)
    ctrl.set_teacher(teacher)
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    losses = []
    for given in ({}, {"labels": torch.tensor([0, 2])}):
        model.train()(x, **given)
        losses.append(float(ctrl.loss().detach()))
    assert losses[0] == losses[1] > 0
    with pytest.raises(ConfigError, match=r"outputs \(loss\) are numbers without axes"):
        create_compressed_model(WithLoss(alone=True), settings)


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


class Images(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def images(seed: int, width: int):
    torch.manual_seed(seed)
    return Images(width)


NODE = "Images/ReLU[relu]/relu_0"


def image_config(*features, **keys):
    entry = {"algorithm": "knowledge_distillation", "type": "kl", "features": list(features), **keys}
    return NNCFConfig.from_dict({"input_info": {"sample_size": [2, 1, 9, 9]}, "compression": entry})


def test_features_are_learned_from_a_wider_teacher(tmp_path):
    """By the student's weights and the projection, which is in the user's optimizer and in checkpoints; the teacher runs once a
    step, has no gradients and stays as it is; the stripped model has nothing of it."""
    teacher = images(1, 8).eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    forwards = []
    teacher.register_forward_hook(lambda *_: forwards.append(1))
    settings = image_config({"student": NODE, "weight": 5.0})
    ctrl, model = create_compressed_model(images(0, 4), settings, teacher=teacher)
    (edit,) = ctrl.plan
    assert ctrl.variable_values(edit)["projection"].shape == (4, 8)
    optimizer, x = torch.optim.Adam(model.parameters(), 0.01), torch.randn(16, 1, 9, 9)
    forwards.clear()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        model.train()(x)
        terms = ctrl.loss_terms()
        ctrl.loss().backward()
        optimizer.step()
        losses.append(terms["knowledge_distillation.features"].item())
    assert len(forwards) == 60 and losses[-1] < 0.5 * losses[0]
    assert set(ctrl.loss_values()) == {"knowledge_distillation.outputs", "knowledge_distillation.features"}
    assert type(teacher.relu) is nn.ReLU and all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())

    ctrl.save_checkpoint(tmp_path / "c.safetensors")
    again, _ = create_compressed_model(images(3, 4), settings, ctrl.get_compression_state(), teacher=teacher)
    again.load_checkpoint(tmp_path / "c.safetensors")
    assert (again.variable_values(again.plan.edits[0])["projection"] == ctrl.variable_values(edit)["projection"]).all()
    plain = ctrl.strip()
    assert type(plain) is Images and list(plain.state_dict()) == list(Images(4).state_dict())
    assert torch.equal(plain.eval()(x), model.eval()(x))
    ctrl.export_model(tmp_path / "m.onnx")
    np.testing.assert_allclose(run(session(tmp_path / "m.onnx"), [x.numpy()])[0], plain(x).detach(), atol=1e-5)


def test_attention_needs_no_projection():
    settings = image_config({"student": "{re}conv2d", "teacher": NODE, "loss": "attention"})
    ctrl, model = create_compressed_model(images(0, 4), settings, teacher=images(1, 8))
    assert not list(ctrl.variable_values(ctrl.plan.edits[0]))
    x = torch.randn(2, 1, 9, 9)
    model.train()(x)
    both = model.conv(x), images(1, 8).conv(x).relu()
    maps = [nn.functional.normalize(tensor.square().sum(1).flatten(1), dim=1) for tensor in both]
    want = (maps[0] - maps[1]).square().sum(1).mean()
    assert ctrl.loss_terms()["knowledge_distillation.features"].item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf", "ignore:Dynamo does not know"
)  # Dynamo's
def test_a_compiled_model_learns_features():
    ctrl, model = create_compressed_model(images(0, 4), image_config({"student": NODE}), teacher=images(1, 8))
    x = torch.randn(2, 1, 9, 9)
    model.train()(x)
    want = ctrl.loss().item()
    torch.compile(model, backend="eager")(x)
    assert ctrl.loss().item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([{"student": "Images/ReLU"}], r'features\[0\].student: "Images/ReLU" matches no node exactly'),
        ([{"student": "{re}Images"}], r"features\[0\].student: '\{re\}Images' matches \d+ nodes, .* expected one"),
        ([{"student": NODE}, {"student": NODE}], r"features\[1\].student: found .* a second time"),
        ([{"student": NODE, "teacher": "relu"}], r'features\[0\].teacher: "relu" matches no node'),
        (
            [{"student": NODE, "teacher": "{re}linear"}],
            r"features\[0\]: .*relu_0 has shape \(2, 4, 4, 4\), .*linear_0 of the teacher \(2, 3\): expected shapes that",
        ),
    ],
)
def test_features_that_do_not_fit(features, words):
    model = images(0, 4)
    with pytest.raises(ConfigError, match=words):
        create_compressed_model(model, image_config(*features), teacher=images(1, 8))
    assert type(model.relu) is nn.ReLU and len(list(model.parameters())) == 4


def test_another_teacher_needs_features_of_the_same_shape():
    ctrl, _ = create_compressed_model(images(0, 4), image_config({"student": NODE}), teacher=images(1, 8))
    ctrl.set_teacher(images(2, 8))
    with pytest.raises(ConfigError, match=r"features\[0\].teacher: found .*channels=6\), expected .*channels=8\)"):
        ctrl.set_teacher(images(2, 6))


def test_cached_answers_train_as_the_teacher_does(tmp_path):
    """The samples come in other batches than the cache was written with, some positions are padding; no teacher is run."""
    tokens = torch.randint(0, 9, (12, 5), generator=torch.Generator().manual_seed(0))
    ctrl, _ = compressed(padding={"input": "tokens"})
    ctrl.cache_teacher(tmp_path / "t.safetensors", tokens.split(4), top_k=3)
    loader = DataLoader(TensorDataset(tokens, torch.zeros(12)), 4)  # labels are left alone
    ctrl.cache_teacher(tmp_path / "same.safetensors", loader, top_k=3)
    assert (tmp_path / "same.safetensors").read_bytes() == (tmp_path / "t.safetensors").read_bytes()
    weights = []
    for teacher in (other(), TeacherCache(tmp_path / "t.safetensors")):
        ctrl, model = compressed(teacher, padding={"input": "tokens"})
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        for rows in torch.randperm(12, generator=torch.Generator().manual_seed(1)).split(5):
            optimizer.zero_grad()
            model.train()(tokens=tokens[rows])
            ctrl.loss().backward()
            optimizer.step()
        weights.append(model.head.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="the cache has no answer for 2 of 2 samples"):
        model((tokens[:2] + 1) % 9)


def test_a_cache_that_does_not_fit(tmp_path):
    ctrl, _ = compressed()
    ctrl.cache_teacher(tmp_path / "t.safetensors", [TOKENS], top_k=2)
    cache = TeacherCache(tmp_path / "t.safetensors")
    for keys, words in (
        ({"temperature": 3.0}, "is of temperature 2, expected 3"),
        ({"features": [{"student": "{re}linear"}]}, "a cache has outputs, no features"),
    ):
        with pytest.raises(ConfigError, match=words):
            create_compressed_model(Tagger(), config(**keys), teacher=cache)
    with pytest.raises(ConfigError, match=r"\(2, 5, 4\), output 0 of the teacher \(None, 5, 3\)"):
        create_compressed_model(Tagger(4), config(), teacher=cache)


def test_features_beside_quantizers_and_pruned_filters(tmp_path):
    """The export has neither the look at the features nor the projection; the smaller model has as many channels as are left."""
    entries = [
        {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 4}}},
        {
            "algorithm": "filter_pruning",
            "pruning_init": 0.5,
            "params": {"all_weights": True, "prune_first_conv": True, "prune_downsample_convs": True},
        },
        {"algorithm": "knowledge_distillation", "type": "kl", "features": [{"student": NODE}]},
    ]
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [2, 1, 9, 9]}, "compression": entries})
    x = torch.randn(4, 1, 9, 9)
    register_default_init_args(config, [(x, None)])
    ctrl, model = create_compressed_model(images(0, 16), config, teacher=images(1, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    ctrl.scheduler.epoch_step()
    ctrl.scheduler.step()
    model.train()(x)
    ctrl.loss().backward()
    optimizer.step()
    assert ctrl.export_model(tmp_path / "m.onnx").lsb < 3
    assert ctrl.strip().conv.out_channels == 8


class WithAuxiliaryHead(Tagger):
    """A second head on the way, in training only."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(4, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def test_what_only_training_returns_is_not_compared():
    torch.manual_seed(0)
    ctrl, model = create_compressed_model(WithAuxiliaryHead(), config(), teacher=(teacher := WithAuxiliaryHead()))
    scores, _ = model.train()(TOKENS)
    of_both = [x.div(2).log_softmax(-1) for x in (scores, teacher.eval()(TOKENS))]
    divergence = nn.functional.kl_div(*of_both, reduction="none", log_target=True).sum(-1).mean()
    assert ctrl.loss().item() == pytest.approx(4 * divergence.item(), rel=1e-5)
    ctrl.loss().backward()
    assert model.head.weight.grad is not None and model.auxiliary.weight.grad is None
