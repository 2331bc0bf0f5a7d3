"""The contract without a framework: controller, compress, checkpoints and schedules over numpy, with gradients by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from nncf_ext import NNCFConfig
from nncf_ext.calibration.initialization import AutoQPrecisionInitArgs, QuantizationPrecisionInitArgs
from nncf_ext.compress import compress
from nncf_ext.data import Batches, Data
from nncf_ext.nncf_config import register_loader
from nncf_ext.quantization import placement
from tests.contract.numpy_adapter import SGD, MeanSquaredError, NumpyAdapter, NumpyData, NumpyModel
from tests.contract.reference_net import ReferenceNet, initial_weights, loss_and_gradients
from tests.contract.rows import ContractTests

EXAMPLE, MSE = np.zeros((8, 6), np.float32), MeanSquaredError()


class NumpyDriver:
    def build(self, weights: dict[str, np.ndarray]) -> NumpyModel:
        return NumpyModel(weights)

    def compress(self, model: NumpyModel, config: NNCFConfig, batches: Any, state: Any = None) -> Any:
        config = NNCFConfig.expected(config)
        if batches is not None:
            register_loader(config, Batches(Data([(x, None) for x in batches], NumpyData(), "data_loader")))
        return compress(NumpyAdapter(), model, config, EXAMPLE, copy.deepcopy(state))

    def compress_labelled(
        self, model: NumpyModel, config: NNCFConfig, pairs: Any, criterion: Any = MSE, autoq_eval_fn: Any = None
    ) -> Any:
        data = Data(list(pairs), NumpyData(), "data_loader")
        if criterion is not None:
            config.register_extra_structs([QuantizationPrecisionInitArgs(Batches(data, labelled=True), criterion)])
        if autoq_eval_fn is not None:
            config.register_extra_structs([AutoQPrecisionInitArgs(autoq_eval_fn, list(pairs))])
        return compress(NumpyAdapter(), model, register_loader(config, Batches(data)), EXAMPLE)

    def traced(self, model: NumpyModel) -> tuple[Any, Any]:
        return NumpyAdapter(), NumpyAdapter().trace(model, EXAMPLE)

    def labelled(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, y

    mean_squared_error = MSE

    def outputs(self, model: NumpyModel, x: np.ndarray, training: bool) -> np.ndarray:
        return model(x, training)

    def train_step(self, controller: Any, x: np.ndarray, y: np.ndarray, rate: float) -> float:
        """The loss is the product's, its gradients are by hand."""
        model = controller.model
        out = model(x, training=True)
        loss = controller.total_loss(MSE(out, y))
        teacher = ReferenceNet(initial_weights(), {}, {})
        _, by_weight, by_variable = loss_and_gradients(model, controller.algorithms, x, y, out, teacher)
        SGD(rate).step(model, by_weight, by_variable)
        return float(loss)

    def weights(self, model: NumpyModel) -> dict[str, np.ndarray]:
        return {name: value.copy() for name, value in model.weights.items()}

    def to_reference(self, role: str, array: np.ndarray) -> np.ndarray:
        return array


@pytest.fixture(autouse=True, scope="module")
def placed_once():
    """NNCF's placement of quantizers is asked once for each config: it takes a hundred times as long as all else here."""
    ask = placement.quantizer_setup
    with pytest.MonkeyPatch.context() as patch:
        answers: dict[str, Any] = {}

        def asked_once(graph: Any, **settings: Any) -> Any:
            question = repr((graph, settings))
            if question not in answers:
                answers[question] = ask(graph, **settings)
            return copy.deepcopy(answers[question])

        patch.setattr(placement, "quantizer_setup", asked_once)
        yield


class TestNumpy(ContractTests):
    driver = NumpyDriver()
