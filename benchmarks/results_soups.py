"""What soups gain, on digits in both frameworks: `make results` writes it into docs/results.md.

python -m benchmarks.results_soups [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.contest import Result, machine, report_result, run_worker, show, write_section
from benchmarks.seeded import DOCUMENT, SEEDS
from nncf_ext import NNCFConfig
from nncf_ext.tools import demo

WIDTHS = (8, 8, 16, 16)
TRAIN, BATCH = 500, 50  # images to train with; those of the training set that are left choose among soups,
PIECE = 212  # which learned soups see in pieces of so many
EPOCHS, FINE_EPOCHS, RATE = 4, 3, 0.05
FINE_RATES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # one ingredient each, with an order of the batches of its own
SPARSE_INT8 = [
    {"algorithm": "magnitude_sparsity", "sparsity_init": 0.6, "params": {"schedule": "multistep", "multistep_steps": [99]}},
    {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 256}}},
]
KINDS: Mapping[str, list[Any]] = {"float": [], "60 % zeros, int8": SPARSE_INT8}
METHODS: Mapping[str, tuple[str, bool]] = {
    "uniform": ("uniform", False),
    "greedy": ("greedy", False),
    "learned": ("learned", False),
    "learned by layer": ("learned", True),
}
FRAMEWORKS = {"torch": "PyTorch", "keras": "Keras"}


class Split:
    """Digits to train with, to choose with (`held_out`) and to test with, in a framework's layout."""

    def __init__(self, axis: int):
        data = demo.load_digits()
        images, test = np.expand_dims(data.train_images, axis), np.expand_dims(data.test_images, axis)
        self.train = images[:TRAIN], data.train_labels[:TRAIN]
        self.held_out = images[TRAIN:], data.train_labels[TRAIN:]
        self.test = test, data.test_labels


def torch_results(seed: int) -> Result:
    import copy

    import torch
    from nncf_ext_torch import create_compressed_model, make_soup, register_default_init_args
    from nncf_ext_torch.adapter import TorchAdapter
    from nncf_ext_torch.demo import DigitsNet
    from torch import nn

    torch.set_num_threads(1)
    split = Split(1)
    train, held_out, test = (tuple(map(torch.from_numpy, part)) for part in (split.train, split.held_out, split.test))

    def fit(model: Any, rate: float, order: int, epochs: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
        generator = torch.Generator().manual_seed(order)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(TRAIN, generator=generator).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
                optimizer.step()

    def accuracy(model: Any, part: Any) -> float:
        model.eval()
        with torch.no_grad():
            return float((model(part[0]).argmax(1) == part[1]).float().mean())

    torch.manual_seed(seed)
    pretrained = DigitsNet(WIDTHS)
    fit(pretrained, RATE, seed, EPOCHS)

    def compressed(compression: list[Any]) -> Any:
        config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": compression})
        register_default_init_args(config, [train])
        return create_compressed_model(copy.deepcopy(pretrained), config)[1]

    return compared(
        seed,
        TorchAdapter(),
        compressed,
        lambda model, rate, order: fit(model, rate, order, FINE_EPOCHS),
        lambda model: accuracy(model, held_out),
        lambda model: accuracy(model, test),
        make_soup,
        lambda: [train[0]],
        nn.functional.cross_entropy,
        lambda: zip(held_out[0].split(PIECE), held_out[1].split(PIECE), strict=True),
    )


def keras_results(seed: int) -> Result:
    import keras
    import tensorflow as tf
    from nncf_ext_tensorflow import create_compressed_model, make_soup, register_default_init_args
    from nncf_ext_tensorflow.adapter import KerasAdapter
    from nncf_ext_tensorflow.demo import digits_net

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    split, task_loss = Split(-1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def fit(model: Any, rate: float, order: int, epochs: int) -> None:
        """Compiled once for each model, as that takes longer than to train."""
        keras.utils.set_random_seed(order)
        if getattr(model, "optimizer", None) is None:
            model.compile(keras.optimizers.SGD(rate, momentum=0.9), task_loss)
        for variable in model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        model.optimizer.learning_rate = rate
        model.fit(*split.train, batch_size=BATCH, epochs=epochs, verbose=0)

    def accuracy(model: Any, part: Any) -> float:
        return float((np.argmax(model(part[0], training=False), 1) == part[1]).mean())

    keras.utils.set_random_seed(seed)
    pretrained = digits_net(WIDTHS)
    fit(pretrained, RATE, seed, EPOCHS)

    def compressed(compression: list[Any]) -> Any:
        copy = digits_net(WIDTHS)
        copy.set_weights(pretrained.get_weights())
        config = NNCFConfig.from_dict({"input_info": {"sample_size": [1, 8, 8, 1]}, "compression": compression})
        register_default_init_args(config, [split.train], TRAIN)
        return create_compressed_model(copy, config)[1]

    def pieces(array: np.ndarray) -> list[np.ndarray]:
        return [array[start : start + PIECE] for start in range(0, len(array), PIECE)]

    return compared(
        seed,
        KerasAdapter(),
        compressed,
        lambda model, rate, order: fit(model, rate, order, FINE_EPOCHS),
        lambda model: accuracy(model, split.held_out),
        lambda model: accuracy(model, split.test),
        make_soup,
        lambda: [split.train[0]],
        lambda outputs, target: task_loss(target, outputs),
        lambda: zip(pieces(split.held_out[0]), pieces(split.held_out[1]), strict=True),
    )


def compared(
    seed: int,
    adapter: Any,
    compressed: Callable[[list[Any]], Any],
    fine_tune: Callable[[Any, float, int], None],
    evaluate: Callable[[Any], float],
    test: Callable[[Any], float],
    make_soup: Callable[..., Any],
    batches: Callable[[], Iterable[Any]],
    loss: Callable[[Any, Any], Any],
    data: Callable[[], Iterable[Any]],
) -> Result:
    """{kind: {row: (accuracy on the held-out images, on the test images)}}."""
    found: dict[str, Any] = {}
    for kind, compression in KINDS.items():
        model = compressed(compression)
        start = {name: np.array(value) for name, value in adapter.tensors(model).items()}
        ingredients, alone = [], []
        for number, rate in enumerate(FINE_RATES):
            adapter.load_tensors(model, start)
            fine_tune(model, rate, 100 * (seed + 1) + number)
            adapter.adapt_batchnorm(model, batches())  # as for soups: else a gain could be that
            ingredients.append({name: np.array(value) for name, value in adapter.tensors(model).items()})
            alone.append((evaluate(model), test(model)))
        rows = {
            "mean of the ingredients": tuple(np.mean(alone, 0).tolist()),
            "best ingredient": max(alone, key=lambda pair: pair[0]),
        }
        for row, (method, by_layer) in METHODS.items():
            more = {"loss": loss, "data": data, "by_layer": by_layer} if method == "learned" else {}
            soup = make_soup(model, ingredients, method, evaluate=evaluate, batches=batches, **more)
            rows[row] = (soup.score, test(model))
        found[kind] = rows
    return found


def lines(seeds: Sequence[Result]) -> list[list[str]]:
    """A row per kind and way: mean accuracy on held-out and test images, and the test images' gain on the best ingredient."""
    table = []
    for kind in KINDS:
        for row in seeds[0][kind]:
            held_out, test = (100 * np.mean([seed[kind][row][part] for seed in seeds]) for part in (0, 1))
            gains = [100 * (seed[kind][row][1] - seed[kind]["best ingredient"][1]) for seed in seeds]
            table.append([kind, row, f"{held_out:.2f}", f"{test:.2f}", f"{np.mean(gains):+.2f}", f"{min(gains):+.2f}"])
    return table


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="one seed; docs/results.md stays as it is")
    arguments.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        framework, seed = options.worker
        report_result(lambda: {"torch": torch_results, "keras": keras_results}[framework](int(seed)))
        return
    header = ("models", "", "held-out", "test", "gain on the best ingredient: mean", "worst")
    texts, failures = [f"{machine()}; one thread."], []
    for framework, title in FRAMEWORKS.items():
        seeds = []
        for seed in SEEDS[:1] if options.quick else SEEDS:
            result = run_worker("", "benchmarks.results_soups", "--worker", framework, str(seed))
            if "error" in result:
                failures.append(f"{title} fails: {result['error']}")
            else:
                seeds.append(result)
        if seeds:
            texts.append(show(f"Soups of {len(FINE_RATES)} models in {title}, {len(seeds)} seeds", header, lines(seeds)))
    Console(stderr=True).print("\n".join(failures), markup=False, highlight=False)
    if not options.quick:
        write_section("results_soups", "\n\n".join(texts), DOCUMENT)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
