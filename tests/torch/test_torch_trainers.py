"""The callbacks for other libraries' trainers, under small trainers with the same protocols."""

import copy
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from nncf_ext_torch import create_compressed_model, lightning_callback, trainer_callback
from torch import nn
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from nncf_ext import NNCFConfig

SPARSE = {
    "algorithm": "magnitude_sparsity",
    "sparsity_init": 0.1,
    "params": {"sparsity_target": 0.9, "sparsity_target_epoch": 2, "sparsity_freeze_epoch": 9},
}
RB = {"algorithm": "rb_sparsity", "sparsity_init": 0.6, "params": {"sparsity_target": 0.6}}
DISTILLED = {"algorithm": "knowledge_distillation", "type": "mse", "task_weight": 0.25}
X = torch.linspace(-1, 1, 32).reshape(4, 8)


class WithLoss(nn.Module):
    """As models of transformers are: the loss is in the outputs."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(8, 10), nn.Linear(10, 2)

    def forward(self, x, num_items_in_batch=None):
        logits = self.head(torch.relu(self.layer(x)))
        return {"loss": logits.square().mean(), "logits": logits}


def compressed(algorithm=SPARSE, kind=WithLoss):
    torch.manual_seed(0)
    config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 8]}, "compression": algorithm})
    return create_compressed_model(kind(), config)


class HuggingFace:
    """What `Trainer.train` does to its callbacks, by transformers' own handler and state."""

    def __init__(self, model, callbacks, accumulate=1, world_size=1, metrics=()):
        self.model, self.metrics = model, iter(metrics)
        self.optimizer = torch.optim.SGD(model.parameters(), 0.1)
        self.args = SimpleNamespace(
            gradient_accumulation_steps=accumulate,
            world_size=world_size,
            average_tokens_across_devices=True,
            metric_for_best_model="loss",
            greater_is_better=False,
            load_best_model_at_end=True,
            eval_strategy="epoch",
        )
        self.handler = CallbackHandler([DefaultFlowCallback(), *callbacks], model, None, self.optimizer, None)
        self.handler.call_event = lambda event, args, state, control, **kwargs: self._call(event, state, control, **kwargs)
        self.losses, self.saved = [], {}

    def _call(self, event, state, control, **kwargs):
        for callback in self.handler.callbacks[1:]:
            control = getattr(callback, event)(self.args, state, control, **kwargs) or control
        return control

    def train(self, epochs, state=None, steps=2, stop_at=None):
        self.state = state = state or TrainerState(epoch=0.0, global_step=0)
        control, call = TrainerControl(), self.handler.call_event
        call("on_train_begin", self.args, state, control)
        first = int(state.epoch)
        for epoch in range(first, epochs):
            call("on_epoch_begin", self.args, state, control)
            begin = round((state.epoch - epoch) * steps)
            for step in range(begin, steps):
                call("on_step_begin", self.args, state, control)
                self.optimizer.zero_grad()
                for _ in range(self.args.gradient_accumulation_steps):
                    loss = self.model.train()(X)["loss"] / self.args.gradient_accumulation_steps
                    loss.backward()
                self.losses.append(loss.item() * self.args.gradient_accumulation_steps)
                self.optimizer.step()
                state.global_step += 1
                state.epoch = epoch + (step + 1) / steps
                call("on_step_end", self.args, state, control)
                if state.global_step == stop_at:
                    return
            call("on_epoch_end", self.args, state, control)
            metric = next(self.metrics, None)
            if metric is not None:
                call("on_evaluate", self.args, state, control, metrics={"eval_loss": metric})
                if state.best_metric is None or metric < state.best_metric:
                    state.best_metric, state.best_model_checkpoint = metric, f"checkpoint-{state.global_step}"
            if control.should_training_stop:
                break
        call("on_train_end", self.args, state, control)


def test_a_trainer_steps_the_schedule_and_goes_on():
    ctrl, model = compressed()
    trainer = HuggingFace(model, [trainer_callback(ctrl)])
    trainer.train(3)
    assert (ctrl.clock.epoch, ctrl.clock.step, ctrl.clock.steps_per_epoch) == (2, 5, 2)
    assert ctrl.compression_rate == pytest.approx(0.9)
    trainer.train(1)
    assert ctrl.clock.epoch == 3


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_checkpoint_has_the_schedule_and_the_run_goes_on_bit_for_bit(stop_at):
    ctrl, model = compressed()
    whole = HuggingFace(model, [trainer_callback(ctrl)])
    whole.train(3)

    first, early = compressed()
    trainer = HuggingFace(early, [trainer_callback(first)])
    trainer.train(3, stop_at=stop_at)
    state = TrainerState(**json.loads(json.dumps(vars(trainer.state))))
    second, late = compressed()
    late.load_state_dict(early.state_dict())
    HuggingFace(late, [trainer_callback(second)]).train(3, state)
    assert second.get_state() == ctrl.get_state()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), late.state_dict().values(), strict=True))


def test_a_checkpoint_without_the_schedule_is_told_and_goes_on_from_its_epoch():
    ctrl, model = compressed()
    with pytest.warns(UserWarning, match="the checkpoint has no state of the schedule, which goes on from epoch 2"):
        HuggingFace(model, [trainer_callback(ctrl)]).train(3, TrainerState(epoch=2.0, global_step=4))
    assert (ctrl.clock.epoch, ctrl.clock.step) == (2, 5) and ctrl.compression_rate == pytest.approx(0.9)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_losses_are_added_to_the_models_own(accumulate):
    ctrl, model = compressed(RB)
    added = float(ctrl.compression_loss().detach())
    trainer = HuggingFace(model, [trainer_callback(ctrl)], accumulate)
    trainer.train(1, steps=1)
    with torch.no_grad():
        plain = compressed({"algorithm": "const_sparsity"})[1](X)["loss"].item()
    assert added > 10 and trainer.losses[0] == pytest.approx(plain + added, rel=0.05)  # the noise drops 1 % of the weights
    assert model.train()(X)["loss"].item() < added, "the hook is gone"
    ctrl, model = compressed(DISTILLED)
    trainer = HuggingFace(model, [trainer_callback(ctrl)])
    trainer.train(1, steps=1)
    assert trainer.losses[0] == pytest.approx(0.25 * plain, rel=1e-5)


def test_a_loss_over_all_items_is_scaled_afterwards():
    """With num_items_in_batch, a model's loss is summed over accumulated batches and multiplied by the number of processes."""
    ctrl, model = compressed(RB)
    trainer = HuggingFace(model, [trainer_callback(ctrl)], accumulate=4, world_size=2)
    trainer.train(1, steps=1, stop_at=1)
    loss = float(ctrl.compression_loss().detach())
    with torch.no_grad():
        without = model.eval()(X)["loss"]
        model.train()
        found = model(X, num_items_in_batch=torch.tensor(32))["loss"]
    assert float(found - without) == pytest.approx(loss / 8, abs=0.05)


def test_only_compressed_models_are_the_best_and_stop_training():
    ctrl, model = compressed()
    trainer = HuggingFace(model, [EarlyStoppingCallback(1), trainer_callback(ctrl)], metrics=[0.1, 0.2, 0.5, 0.6, 0.4])
    trainer.train(5)
    assert (trainer.state.best_metric, trainer.state.best_model_checkpoint) == (0.5, "checkpoint-6")
    assert trainer.state.global_step == 8, "stopped at the first that is worse than the best compressed one"


@pytest.fixture
def lightning(tmp_path, monkeypatch):
    """The part of Lightning that the callback is made of."""
    package = tmp_path / "lightning" / "pytorch"
    package.mkdir(parents=True)
    (tmp_path / "lightning" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    classes = "class Callback:\n    pass\n\n\n"
    for name in ("EarlyStopping", "ModelCheckpoint"):
        classes += f"class {name}(Callback):\n    def __init__(self, monitor):\n        self.monitor, self.judged = monitor, []\n"
        classes += "    def on_validation_end(self, trainer, module):\n        self.judged.append(trainer.current_epoch)\n"
        classes += "    def on_train_epoch_end(self, *_): pass\n    def on_train_batch_end(self, *_): pass\n\n\n"
    (package / "callbacks.py").write_text(classes)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning" or name.endswith("lightning_trainer")]:
        monkeypatch.delitem(sys.modules, name)
    from lightning.pytorch import callbacks

    yield callbacks
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning" or name.endswith("lightning_trainer")]:
        del sys.modules[name]


class Lightning:
    """What Lightning's loops do to callbacks."""

    def __init__(self, callbacks, accumulate=1):
        self.callbacks, self.accumulate, self.current_epoch, self.global_step = callbacks, accumulate, 0, 0

    def fit(self, epochs, batches=4):
        self._call("on_train_start")
        while self.current_epoch < epochs:
            self._call("on_train_epoch_start")
            for index in range(batches):
                self._call("on_train_batch_start", None, index)
                self.global_step += (index + 1) % self.accumulate == 0
                self._call("on_train_batch_end", None, None, index)
            self._call("on_validation_end")
            self.current_epoch += 1
        self._call("on_train_end")

    def _call(self, hook, *args):
        for callback in self.callbacks:
            if hasattr(callback, hook):
                getattr(callback, hook)(self, None, *args)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_steps_resumes_and_judges(lightning, accumulate):
    ctrl, _ = compressed()
    callback, monitored, every = lightning_callback(ctrl), lightning.ModelCheckpoint("val"), lightning.ModelCheckpoint(None)
    trainer = Lightning([callback, monitored, every], accumulate)
    trainer.fit(2)
    assert (ctrl.clock.epoch, ctrl.clock.step + 1, ctrl.clock.steps_per_epoch) == (1, 8 // accumulate, 4 // accumulate)
    assert monitored.judged == [] and every.judged == [0, 1]
    saved = json.loads(json.dumps(callback.state_dict()))
    trainer.fit(4)
    assert ctrl.clock.epoch == 3 and monitored.judged == [2, 3] and "on_validation_end" not in vars(monitored)

    other, _ = compressed()
    callback = lightning_callback(other)
    callback.load_state_dict(saved)
    trainer = Lightning([callback], accumulate)
    trainer.current_epoch, trainer.global_step = 2, 8 // accumulate
    trainer.fit(4)
    assert other.get_state() == ctrl.get_state()


def test_lightnings_averages_copy_what_holds_the_controller_and_leave_masks_alone(lightning):
    ctrl, _ = compressed()
    assert copy.deepcopy({"module": ctrl})["module"] is ctrl

    class WeightAveraging(lightning.Callback):
        _use_buffers = True

    averaging = WeightAveraging()
    with pytest.raises(ValueError, match="^WeightAveraging: averages buffers, .*mask among them.*expected use_buffers=False"):
        Lightning([lightning_callback(ctrl), averaging]).fit(1)
    averaging._use_buffers = False
    Lightning([lightning_callback(ctrl), averaging]).fit(1)
