"""What every adapter must do for every row of `cases.py`: the numbers of the numpy reference, save and resume, strip."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from nncf_ext import NNCFConfig
from nncf_ext.edits import Edit, ObserverSpec
from nncf_ext.quantization.quantizers import QuantizerTransform
from tests.contract.cases import Case
from tests.contract.reference_net import ReferenceNet, Variables, data, initial_weights, loss_and_gradients
from tests.contract.references import REFERENCES
from tests.contract.references.reference import STEPS, AlgorithmReference

EPOCHS, RATE = 3, 0.05
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


class Driver(Protocol):
    """The little that differs between frameworks. Weights are in the reference's layout (inputs, outputs)."""

    def build(self, weights: dict[str, np.ndarray]) -> Any: ...
    def compress(self, model: Any, config: NNCFConfig, batches: list[Any] | None, state: Any = None) -> Any: ...
    def outputs(self, model: Any, x: np.ndarray, training: bool) -> np.ndarray: ...
    def train_step(self, controller: Any, x: np.ndarray, y: np.ndarray, rate: float) -> float: ...
    def weights(self, model: Any) -> dict[str, np.ndarray]: ...
    def to_reference(self, role: str, array: np.ndarray) -> np.ndarray:
        """A weight-shaped array (weights, masks, scales) from the framework's layout."""
        ...


def config_of(case: Case) -> NNCFConfig:
    return NNCFConfig.from_dict({"input_info": {"sample_size": [8, 6]}, "compression": case.compression, **dict(case.top)})


def compressed(driver: Driver, case: Case) -> Any:
    return driver.compress(driver.build(initial_weights()), config_of(case), [data(b)[0] for b in range(2)])


def role_of(edit: Edit) -> str:
    """fc1.weight, fc1.bias, ..., input, relu or fc2; an `input:0` site is its producer's output."""
    node, slot = edit.site.node.lower(), edit.site.slot
    layer = next((name for name in ("relu", "fc1", "fc2") if name in re.split(r"[^a-z0-9]+", node)), "input")
    if edit.site.is_parameter:
        return f"{layer}.{slot}"
    return layer if slot == "output" else {"fc1": "input", "fc2": "relu"}[layer]


class Reference:
    """The reference net under the controller's plan, and the schedules of its config."""

    def __init__(self, driver: Driver, controller: Any, case: Case):
        self.algorithms = config_of(case).algorithms()
        self.by_role: dict[str, list[Edit]] = {}
        for edit in controller.plan:
            self.by_role.setdefault(role_of(edit), []).append(edit)
        transposed = driver.to_reference("fc1.weight", np.zeros((2, 3))).shape == (3, 2)
        edits = {role: [self._in_layout(role, e, transposed) for e in group] for role, group in self.by_role.items()}
        self.net = ReferenceNet(initial_weights(), edits, self.variables(driver, controller))
        self.teacher = ReferenceNet(initial_weights(), {}, {})

    @staticmethod
    def _in_layout(role: str, edit: Edit, transposed: bool) -> Edit:
        convert = REFERENCES[edit.algorithm].in_layout.get(edit.transform.kind)
        if convert is not None:
            return replace(edit, transform=convert(edit.transform, role, transposed))
        axis = getattr(edit.transform, "channel_axis", None)
        if axis is None or not role.endswith("weight"):
            return edit
        return replace(edit, transform=edit.transform.model_copy(update={"channel_axis": 1}))

    @staticmethod
    def _of(algorithm: Any) -> AlgorithmReference:
        return REFERENCES[algorithm.algorithm]

    def variables(self, driver: Driver, controller: Any) -> Variables:
        values: Variables = {}
        for role, edits in self.by_role.items():
            for edit in edits:
                arrays = {n: np.array(a) for n, a in controller.variable_values(edit).items()}
                if edit.site.is_parameter:
                    arrays = {n: driver.to_reference(role, a) for n, a in arrays.items()}
                values[role, edit.transform.kind] = arrays
        return values

    def begins(self, epoch: int, step: int | None = None) -> None:
        """An epoch, or a step of it, begins."""
        for algorithm in self.algorithms:
            self._of(algorithm).begins(self.net, algorithm, epoch, step)

    def stripped(self) -> dict[str, np.ndarray]:
        """The weights of the plain model that the last forward's transforms make."""
        weights = {name: self.net.transformed[name] for name in self.net.weights}
        for algorithm in self.algorithms:
            weights = self._of(algorithm).stays(self.net, weights)
        return weights

    def train_step(self, x: np.ndarray, y: np.ndarray, epoch: int, step: int) -> float:
        out = self.net.forward(x, training=True)
        loss, weights, variables = loss_and_gradients(self.net, self.algorithms, x, y, out, self.teacher)
        for name, gradient in weights.items():
            self.net.weights[name] = (self.net.weights[name] - RATE * gradient).astype(np.float32)
        for (role, kind, name), gradient in variables.items():
            value = self.net.variables[role, kind][name]
            self.net.variables[role, kind][name] = (value - RATE * gradient).astype(np.float32)
        for algorithm in self.algorithms:
            self._of(algorithm).ends(self.net, algorithm, epoch, step)
        return loss


def check_numbers(driver: Driver, case: Case) -> None:
    """Ranges, outputs, losses, gradients (through the weights and variables they make) and schedules equal the reference's."""
    controller = compressed(driver, case)
    reference = Reference(driver, controller, case)
    reference.begins(-1)
    check_ranges(driver, controller, reference, case)
    for epoch in range(EPOCHS):
        controller.scheduler.epoch_step()
        reference.begins(epoch)
        for step in range(STEPS):
            controller.scheduler.step()
            reference.begins(epoch, step)
            x, y = data(epoch * STEPS + step)
            got, want = driver.outputs(controller.model, x, False), reference.net.forward(x, training=False)
            np.testing.assert_allclose(got, want, err_msg=f"outputs in epoch {epoch}, step {step}", **CLOSE)
            loss = driver.train_step(controller, x, y, RATE)
            assert loss == pytest.approx(reference.train_step(x, y, epoch, step), rel=1e-4)
            for name, value in driver.weights(controller.model).items():
                where = f"{name} in epoch {epoch}, step {step}"
                np.testing.assert_allclose(value, reference.net.weights[name], err_msg=where, **CLOSE)
            for key, arrays in reference.variables(driver, controller).items():
                for name, value in arrays.items():
                    np.testing.assert_allclose(value, reference.net.variables[key][name], err_msg=f"{key} {name}", **CLOSE)


def check_ranges(driver: Driver, controller: Any, reference: Reference, case: Case) -> None:
    """The first values of the quantizers are those that the collectors make of the reference's float tensors."""
    settings = [a.initializer.range for a in reference.algorithms if a.algorithm == "quantization"]
    if not settings:
        return
    plain = ReferenceNet(initial_weights(), {}, {})
    tensors: list[dict[str, np.ndarray]] = []
    for batch in range(2):
        tensors.append({})
        plain.forward(data(batch)[0], False, tensors[-1])
    for role, edits in reference.net.edits.items():
        for transform in (edit.transform for edit in edits):
            is_weight = role.endswith("weight")
            collector = transform.observer(ObserverSpec(is_weight, dict(case.ranges).get(role) or settings[0].type))
            if not isinstance(transform, QuantizerTransform) or collector is None:
                continue
            for seen in tensors[:1] if is_weight else tensors:
                collector.update(seen[role])
            calibrated, values = transform.calibrate(tensors[0][role].shape, collector.result())
            assert calibrated == transform, role
            for name, value in reference.net.variables[role, transform.kind].items():
                np.testing.assert_allclose(value, values[name].value, err_msg=f"{role} {name}", rtol=1e-6)


def run_epochs(driver: Driver, controller: Any, epochs: range) -> None:
    for epoch in epochs:
        controller.scheduler.epoch_step()
        for step in range(STEPS):
            controller.scheduler.step()
            driver.train_step(controller, *data(epoch * STEPS + step), RATE)


def check_resume(driver: Driver, case: Case, folder: Path) -> None:
    """Train 3 epochs, or 1, save, load into a new process' model, and 2 more: the same bits."""
    whole = compressed(driver, case)
    run_epochs(driver, whole, range(1))
    whole.save_checkpoint(folder / "after_one.safetensors")
    state = whole.get_compression_state()
    run_epochs(driver, whole, range(1, EPOCHS))

    other = {name: value * 0 + 0.25 for name, value in initial_weights().items()}
    resumed = driver.compress(driver.build(other), config_of(case), [data(b)[0] for b in range(2)], state)
    resumed.load_checkpoint(folder / "after_one.safetensors")
    if any(a.needs_teacher for a in config_of(case).algorithms()):
        resumed.set_teacher(driver.build(initial_weights()))
    run_epochs(driver, resumed, range(1, EPOCHS))

    for name, value in driver.weights(whole.model).items():
        assert (value == driver.weights(resumed.model)[name]).all(), name
    for edit in whole.plan:
        ours, theirs = whole.variable_values(edit), resumed.variable_values(edit)
        assert all((ours[name] == theirs[name]).all() for name in ours), edit.key
    assert whole.get_compression_state() == resumed.get_compression_state()
    assert whole.compression_stage() == resumed.compression_stage()


def reported_values(controller: Any) -> Any:
    """A schedule that is not through."""
    unfinished = pytest.warns(UserWarning, match="has not reached its target: found .*, expected ")
    return unfinished if controller.shortfalls() else nullcontext()


def check_strip(driver: Driver, case: Case) -> None:
    """The stripped model computes what the compressed one does, has what is left of its weights, and leaves it as it was; without
    quantizers it is plain."""
    controller = compressed(driver, case)
    run_epochs(driver, controller, range(2))
    reference = Reference(driver, controller, case)
    for epoch in range(-1, 2):
        reference.begins(epoch)
    reference.net.variables = reference.variables(driver, controller)
    reference.net.weights = driver.weights(controller.model)
    before = driver.outputs(controller.model, data(9)[0], False)
    with reported_values(controller):
        stripped = controller.strip(do_copy=True)
    reference.net.forward(data(9)[0], training=False)
    got = driver.weights(stripped)
    for name, value in reference.stripped().items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **CLOSE)
    assert (driver.outputs(controller.model, data(9)[0], False) == before).all()
    np.testing.assert_allclose(driver.outputs(stripped, data(9)[0], False), before, rtol=1e-6, atol=1e-6)
    plain = driver.build({name: value for name, value in got.items()})
    without_rounding = driver.outputs(plain, data(9)[0], False)
    told = _told(controller)
    with reported_values(controller):
        in_place = controller.strip(do_copy=False)
    assert in_place is controller.model
    assert _told(controller) == told  # what a controller tells stays after the model became plain in place
    controller.prepare_for_export()
    assert controller.strip(do_copy=False) is in_place
    for model in (controller.strip(), in_place):
        assert (driver.outputs(model, data(9)[0], False) == driver.outputs(stripped, data(9)[0], False)).all()
    for what in (controller.scheduler.epoch_step, controller.scheduler.step, controller.freeze):
        with pytest.raises(ValueError, match="stripped in place"):
            what()
    for model in (stripped, controller.strip_model(in_place, quantizers=False)):
        for name, value in driver.weights(model).items():
            assert (value == got[name]).all(), name
    assert type(in_place) is type(plain)
    np.testing.assert_allclose(driver.outputs(in_place, data(9)[0], False), without_rounding, rtol=1e-6, atol=1e-6)


def _told(controller: Any) -> tuple[Any, ...]:
    """What a controller tells of its model."""
    rate = controller.compression_rate if hasattr(controller, "compression_rate") else None
    state = controller.get_compression_state()
    return str(controller.statistics()), rate, controller.compression_stage(), state, controller.loss_values()
