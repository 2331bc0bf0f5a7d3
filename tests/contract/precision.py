"""Choosing bits on a real model: second derivatives against formulas worked out by hand, the choice against every other one;
the search of clip_q against the same one on the reference net."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext import numpy_xp as xp
from nncf_ext.algorithms.clip_q import SEARCHED
from nncf_ext.calibration.trials import search
from nncf_ext.edits import Range
from nncf_ext.graph import Site
from nncf_ext.quantization.quantizers import NNCFQuantizer
from tests.contract.cases import INT8
from tests.contract.contract import Driver, role_of
from tests.contract.reference_net import ReferenceNet, data, initial_weights
from tests.contract.references.clip_q import clipped

WEIGHTS = ("fc1.weight", "fc2.weight")
FLOPS = {"fc1.weight": 2 * 6 * 8, "fc2.weight": 2 * 8 * 3}
SIZES = {"fc1.weight": 6 * 8, "fc2.weight": 8 * 3}


class LabelledDriver(Driver, Protocol):
    def traced(self, model: Any) -> tuple[Any, Any]:
        """(adapter, trace)"""
        ...

    def labelled(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]: ...
    def mean_squared_error(self, outputs: Any, target: Any) -> Any: ...
    def compress_labelled(self, model: Any, config: NNCFConfig, pairs: Any, **functions: Any) -> Any: ...


def config(folder: Path, device: str = "TRIAL", **precision: Any) -> NNCFConfig:
    quantization = {**INT8, "initializer": {**INT8["initializer"], "precision": precision}}
    top = {"input_info": {"sample_size": [8, 6]}, "target_device": device, "log_dir": str(folder)}
    return NNCFConfig.from_dict({**top, "compression": quantization})


def bits_of(controller: Any) -> dict[str, int]:
    return {role_of(edit): edit.transform.bits for edit in controller.plan}


def traces_by_hand(batches: int = 2) -> dict[str, float]:
    """Mean second derivatives of the mean squared error over N samples and 3 outputs, y = relu(x W1 + b1) W2 + b2.

    By W2[j, k]: 2/(3N) sum_n h[n, j]^2. By W1[i, j]: 2/(3N) sum_n x[n, i]^2 on[n, j] |W2[j, :]|^2, as relu is piecewise linear.
    """
    w, x = initial_weights(), np.concatenate([data(batch)[0] for batch in range(batches)]).astype(np.float64)
    pre = x @ w["fc1.weight"] + w["fc1.bias"]
    hidden, on = np.maximum(pre, 0), pre > 0
    return {
        "fc1.weight": 2 / (3 * len(x)) * float((x**2).sum(1) @ on @ (w["fc2.weight"] ** 2).sum(1)) / 48,
        "fc2.weight": 2 / (3 * len(x)) * 3 * float((hidden**2).sum()) / 24,
    }


def check_hessian(driver: LabelledDriver) -> None:
    """The diagonal, one product for each weight, against the formulas; the whole is symmetric; the model stays as it is."""
    model = driver.build(initial_weights())
    adapter, traced = driver.traced(model)
    nodes = [node.name for node in traced.graph.nodes if node.parameter("weight")]
    sites, shapes = [Site(node, "weight") for node in nodes], [traced.graph.shape_of(Site(node, "weight")) for node in nodes]
    batch = driver.labelled(*(np.concatenate(parts) for parts in zip(data(0), data(1), strict=True)))
    product_with = adapter.hessian_products(model, traced, sites, driver.mean_squared_error)
    rows = []
    for flat in np.eye(48 + 24, dtype=np.int8):
        directions = [flat[:48].reshape(shapes[0]), flat[48:].reshape(shapes[1])]
        rows.append(np.concatenate([product.ravel() for product in product_with(batch, directions)]))
    hessian = np.array(rows)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-4, atol=1e-5)
    by_hand = traces_by_hand()
    assert hessian[:48, :48].trace() / 48 == pytest.approx(by_hand["fc1.weight"], rel=1e-5)
    assert hessian[48:, 48:].trace() / 24 == pytest.approx(by_hand["fc2.weight"], rel=1e-5)
    for name, value in driver.weights(model).items():
        assert (value == initial_weights()[name]).all()


def check_estimated_traces(driver: LabelledDriver, folder: Path) -> None:
    """What hawq estimates, and writes down, is near the formulas."""
    settings = {"type": "hawq", "num_data_points": 16, "iter_number": 300, "tolerance": 0, "dump_init_precision_data": True}
    pairs = [data(batch) for batch in range(3)]
    controller = driver.compress_labelled(driver.build(initial_weights()), config(folder, **settings), pairs)
    written = json.loads((folder / "hawq_precision.json").read_text())
    assert (folder / "hawq_precision.png").stat().st_size > 1000
    for found, role in zip(written["traces"].values(), WEIGHTS, strict=True):
        assert found == pytest.approx(traces_by_hand()[role], rel=0.1)
    # what was written down is a manual choice, and the traces spare their computation
    by_hand = config(folder, bitwidth_per_scope=written["bitwidth_per_scope"])
    assert driver.compress_labelled(driver.build(initial_weights()), by_hand, pairs).plan == controller.plan
    again = config(folder, type="hawq", traces_per_layer_path=str(folder / "hawq_precision.json"))
    assert driver.compress_labelled(driver.build(initial_weights()), again, pairs, criterion=None).plan == controller.plan


def damage_by_hand(driver: LabelledDriver, role: str, bits: int) -> float:
    """|trace| * |Q(W) - W|^2 on the symmetric grid of one scale that reaches the largest weight (8 bits: without -128)."""
    weight = initial_weights()[role]
    largest = np.full((1, 1), np.abs(weight).max(), np.float32)
    transform, variables = NNCFQuantizer(bits=bits, symmetric=True, signed=True, narrow=bits == 8).calibrate(
        weight.shape, Range(-largest, largest)
    )
    rounded = transform.apply(xp, weight, {name: var.value for name, var in variables.items()}, False)
    return traces_by_hand()[role] * float(np.sum((rounded - weight).astype(np.float64) ** 2))


def check_hawq_is_the_best(driver: LabelledDriver, folder: Path) -> None:
    """At every ratio: no other choice of bits with that ratio does less damage, by numpy."""
    traces = folder / "traces.json"
    traces.write_text(json.dumps([traces_by_hand()[role] for role in WEIGHTS]))
    every = list(itertools.product((2, 4, 8), repeat=2))
    ratio = {choice: 8 * sum(FLOPS.values()) / float(np.dot(choice, list(FLOPS.values()))) for choice in every}
    damage = {
        choice: sum(damage_by_hand(driver, role, bits) for role, bits in zip(WEIGHTS, choice, strict=True)) for choice in every
    }
    for target in (1.0, 1.5, 2.0, 3.0, 4.0):
        settings = {"type": "hawq", "compression_ratio": target, "traces_per_layer_path": str(traces)}
        controller = driver.compress_labelled(driver.build(initial_weights()), config(folder, **settings), [data(0)])
        bits = bits_of(controller)
        best = min((choice for choice in every if ratio[choice] >= target), key=damage.__getitem__)
        assert tuple(bits[role] for role in WEIGHTS) == best
        assert (bits["input"], bits["relu"]) == best  # each activation meets one weight


def check_autoq(driver: LabelledDriver, folder: Path) -> None:
    """The best of the models tried, within the size; the model is restored whatever the user's function does to it."""
    model = driver.build(initial_weights())
    x = data(0)[0]
    float_outputs = driver.outputs(model, x, False)
    adapter, _ = driver.traced(driver.build(initial_weights()))
    seen: list[float] = []

    def score(candidate: Any, loader: Any) -> float:
        assert len(list(loader)) == len(loader) == 2  # half of the batches
        error = float(np.abs(driver.outputs(candidate, x, False) - float_outputs).mean())
        if not seen:
            assert error == 0  # the float model
        adapter.load_tensors(candidate, {name: value * 0 for name, value in adapter.tensors(candidate).items()})
        seen.append(-error)
        return -error

    settings = {"type": "autoq", "iter_number": 6, "warmup_iter_number": 3, "eval_subset_ratio": 0.5}
    written = config(folder, **settings, dump_init_precision_data=True)
    pairs = [data(batch) for batch in range(4)]
    controller = driver.compress_labelled(model, written, pairs, autoq_eval_fn=score)
    for name, value in driver.weights(model).items():
        assert (value == initial_weights()[name]).all(), name
    result = json.loads((folder / "autoq_precision.json").read_text())
    assert [trial["score"] for trial in result["trials"]] == seen[1:]
    assert result["score"] == max(seen[1:])
    assert (folder / "autoq_precision.png").stat().st_size > 1000
    bits = bits_of(controller)
    for trial in result["trials"]:
        assert trial["size_ratio"] <= 0.15
        chosen = dict(zip(WEIGHTS, trial["bits"].values(), strict=True))
        assert trial["size_ratio"] == pytest.approx(sum(SIZES[role] * chosen[role] for role in WEIGHTS) / (32 * 72))
    best = max(result["trials"], key=lambda trial: trial["score"])
    assert [bits[role] for role in WEIGHTS] == list(best["bits"].values())
    # the model in training is the one that was scored
    assert -np.abs(driver.outputs(controller.model, x, False) - float_outputs).mean() == pytest.approx(result["score"])


def check_choice_is_saved(driver: LabelledDriver, folder: Path) -> None:
    """A saved plan is taken up again without data and without a search; statistics tell the bits of each quantizer."""
    settings = config(folder, type="hawq", iter_number=3, compression_ratio=1.5)
    controller = driver.compress_labelled(driver.build(initial_weights()), settings, [data(0)])
    assert len({edit.transform.bits for edit in controller.plan}) > 1
    resumed = driver.compress(driver.build(initial_weights()), settings, None, controller.get_compression_state())
    assert resumed.plan == controller.plan
    rows = {row.quantizer: row.bits for row in controller.statistics().quantization.bits}
    assert rows == {str(edit.site): edit.transform.bits for edit in controller.plan}
    assert all(name in str(controller.statistics()) for name in rows)


def check_clip_q_search(driver: LabelledDriver) -> None:
    """The choice is that of the same search on the reference net; a layer in by_scope has its own numbers from the start."""
    x = data(0)[0]
    plain, wanted = initial_weights(), initial_weights()
    float_outputs = ReferenceNet(plain, {}, {}).forward(x, False)
    scores, expected, chosen = [], [], {}
    start = {"pruning": 0.3, "bits": 3}

    def reward(proposed: Mapping[str, Any]) -> float:
        choice = proposed["pruning"], proposed["bits"]
        if choice not in chosen:
            net = ReferenceNet({**wanted, "fc1.weight": clipped(plain["fc1.weight"], *choice)}, {}, {})
            expected.append(-float(np.abs(net.forward(x, False) - float_outputs).mean()))
            chosen[choice] = expected[-1] + 2 * (1 - (1 - choice[0]) * choice[1] / 32)
        return chosen[choice]

    def score(candidate: Any, loader: Any) -> float:
        assert len(list(loader)) == 1  # half of the batches
        scores.append(-float(np.abs(driver.outputs(candidate, x, False) - float_outputs).mean()))
        return scores[-1]

    wanted["fc2.weight"] = clipped(plain["fc2.weight"], 0.4, 3)
    search(reward, SEARCHED, start, range(8), 4)
    settings = {"trials": 8, "warmup_trials": 4, "trade_off": 2, "eval_subset_ratio": 0.5}
    entry = {"params": {**start, "by_scope": {"{re}fc2": {"pruning": 0.4, "bits": 3}}}, "initializer": {"search": settings}}
    top = {"input_info": {"sample_size": [8, 6]}, "compression": {"algorithm": "clip_q", **entry}}
    pairs = [data(batch) for batch in range(2)]

    def compressed(**functions: Any) -> Any:
        return driver.compress_labelled(driver.build(initial_weights()), NNCFConfig.from_dict(top), pairs, **functions)

    controller = compressed(autoq_eval_fn=score)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    found = {role_of(edit): (edit.transform.pruning, edit.transform.bits) for edit in controller.plan}
    assert found == {"fc1.weight": max(chosen, key=chosen.__getitem__), "fc2.weight": (0.4, 3)}
    assert [(row.pruning, row.bits) for row in controller.statistics().clip_q.layers] == [*found.values()]
    with pytest.raises(ConfigError, match=r"compression.initializer.search: the search needs a score"):
        compressed()
    with pytest.raises(ConfigError, match=r"compression.initializer.search: autoq_eval_fn returned NaN"):
        compressed(autoq_eval_fn=lambda model, loader: math.nan)
