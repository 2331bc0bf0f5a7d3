"""A user's mistakes: one clear sentence from every adapter, and a model and files that are as they were."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nncf_ext import ConfigError
from nncf_ext.checkpoint import CheckpointError
from tests.contract.cases import DISTIL, INT8, PRUNE, SPARSE, Case
from tests.contract.contract import Driver, compressed, config_of, run_epochs
from tests.contract.reference_net import data, initial_weights

GOOD = [data(0)[0], data(1)[0]]


@dataclass(frozen=True)
class Mistake:
    name: str
    words: str  # of the error, as a regular expression
    compression: Any = None
    batches: Any = None
    state: Any = None
    error: type[Exception] = ConfigError


def _with(**keys: Any) -> dict[str, Any]:
    return {**INT8, **keys}


def _precision(**keys: Any) -> dict[str, Any]:
    return _with(initializer={**INT8["initializer"], "precision": keys})


MISTAKES = (
    Mistake("empty_loader", "range initialisation: the data loader gave no batch", INT8, []),
    Mistake("nan_in_the_data", r"input_0\|output saw NaN or infinite values", INT8, [np.full((8, 6), np.nan, np.float32)]),
    Mistake("infinity_in_the_data", "saw NaN or infinite values", INT8, [np.full((8, 6), np.inf, np.float32)]),
    Mistake("data_of_another_shape", "the model does not run on the data loader's inputs", INT8, [np.zeros((8, 5), np.float32)]),
    Mistake("scope_without_a_node", 'ignored_scopes: "fc9" matches no node; the nearest', _with(ignored_scopes=["fc9"]), GOOD),
    Mistake("expression_without_a_node", 'matches no node; the nearest node is ".*fc[12]', _with(target_scopes="{re}fc9"), GOOD),
    Mistake(
        "scope_of_a_group", r"compression.weights.ignored_scopes: .*matches no node", _with(weights={"ignored_scopes": "x"}), GOOD
    ),
    Mistake(
        "pruning_that_empties_a_layer",
        r"compression.params.pruning_target: found 0.95, expected at most 0.8750: more would empty a layer",
        {**PRUNE, "params": {"all_weights": True, "pruning_target": 0.95}},
        GOOD,
    ),
    Mistake(
        "pruning_that_takes_no_filter",
        r"compression.params.pruning_target: 0.6 prunes nothing: each layer keeps a multiple of 8 filters .*fc1.* \(8: never\)",
        {**PRUNE, "params": {"pruning_target": 0.6}},
        GOOD,
    ),
    Mistake(
        "pruning_of_nothing",
        r"compression: found no filter that can be pruned: .*fc1.*: is in ignored_scopes",
        {**PRUNE, "ignored_scopes": "{re}fc"},
        GOOD,
    ),
    Mistake("override_without_a_quantizer", '"fc9" matches no quantizer', _with(scope_overrides={"weights": {"fc9": {}}}), GOOD),
    Mistake(
        "quantizer_without_a_range",
        "initializer.range: no entry is about .*, expected one entry for every quantizer",
        _with(initializer={"range": [{"target_scopes": "{re}fc1", "target_quantizer_group": "weights"}]}),
        GOOD,
    ),
    Mistake("hawq_without_a_loss", "initializer.precision: hawq needs the loss on labelled data", _precision(type="hawq"), GOOD),
    Mistake("autoq_without_a_score", "precision: autoq needs a score", _precision(type="autoq", iter_number=2), GOOD),
    Mistake(
        "ratio_out_of_reach",
        "precision.compression_ratio: found 5, expected from 1 to 4, which is what the bits",
        _precision(type="hawq", compression_ratio=5),
        GOOD,
    ),
    Mistake(
        "bits_of_no_quantizer",
        r'bitwidth_per_scope\[0\]: "fc3\|weight" matches no quantizer; ',
        _precision(bitwidth_per_scope=[[4, "fc3|weight"]]),
        GOOD,
    ),
    Mistake("no_compression_state", "expected what get_compression_state", INT8, GOOD, {"weights": 1}, CheckpointError),
    Mistake(
        "state_of_other_algorithms",
        r"state is of \['magnitude_sparsity'\], this model is compressed with \['quantization'\]",
        INT8,
        GOOD,
        "sparse",
        CheckpointError,
    ),
)


def check_mistake(driver: Driver, mistake: Mistake) -> None:
    state = mistake.state
    if state == "sparse":
        state = compressed(driver, Case("sparse", SPARSE)).get_compression_state()
    model = driver.build(initial_weights())
    before = _looks(driver, model)
    with pytest.raises(mistake.error, match=mistake.words):
        driver.compress(model, config_of(Case(mistake.name, mistake.compression)), mistake.batches, state)
    _check_as_it_was(before, _looks(driver, model))
    driver.compress(model, config_of(Case("right", INT8)), GOOD)  # it is plain: no transform is left in it


def check_wrong_checkpoints(driver: Driver, folder: Path) -> None:
    """Files that are no checkpoint of this model and plan are refused; model, schedules and files stay as they were."""
    controller = compressed(driver, Case("all", [INT8, SPARSE, DISTIL]))
    run_epochs(driver, controller, range(1))
    whole = folder / "whole.safetensors"
    controller.save_checkpoint(whole)

    other = compressed(driver, Case("other", [{**INT8, "preset": "mixed"}, SPARSE, DISTIL]))
    other.save_checkpoint(folder / "other_plan.safetensors")
    compressed(driver, Case("fewer", SPARSE)).save_checkpoint(folder / "fewer.safetensors")
    (folder / "truncated.safetensors").write_bytes(whole.read_bytes()[:-10])
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))
    (folder / "text.safetensors").write_text("{}")

    run_epochs(driver, controller, range(1, 2))
    files = {path: path.read_bytes() for path in folder.iterdir()}
    before, state = _looks(driver, controller.model), controller.get_compression_state()
    for name, words in {
        "other_plan": "saved with another plan: quantizer at .*: found symmetric False, expected True",
        "fewer": "saved with another plan",
        "truncated": "truncated or not a checkpoint",
        "pickle": "looks like a pickle",
        "text": "truncated or not a checkpoint",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            controller.load_checkpoint(folder / f"{name}.safetensors")
        _check_as_it_was(before, _looks(driver, controller.model))
        assert controller.get_compression_state() == state, name
    with (
        pytest.warns(UserWarning, match="has not reached its target"),
        pytest.raises(FileNotFoundError, match="is not a folder: cannot write"),
    ):
        controller.export_model(folder / "nowhere" / "model.onnx")
    with pytest.raises(ValueError, match="compressed already"):
        driver.compress(controller.model, config_of(Case("twice", INT8)), GOOD)
    with pytest.raises(ConfigError, match="found a dict, expected an NNCFConfig"):
        driver.compress(driver.build(initial_weights()), {"compression": INT8}, None)  # type: ignore[arg-type]
    _check_as_it_was(before, _looks(driver, controller.model))
    assert {path: path.read_bytes() for path in folder.iterdir()} == files

    controller.load_checkpoint(whole)
    assert controller.scheduler.current_epoch == 0


def _looks(driver: Driver, model: Any) -> tuple[type, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    modes = [driver.outputs(model, GOOD[0], training) for training in (True, False)]
    return type(model), {name: value.copy() for name, value in driver.weights(model).items()}, *modes


def _check_as_it_was(before: Any, after: Any) -> None:
    assert before[0] is after[0]
    assert all((before[1][name] == after[1][name]).all() for name in before[1])
    assert all((x == y).all() for x, y in zip(before[2:], after[2:], strict=True))
