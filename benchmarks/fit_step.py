"""One contestant in Keras, in a process of its own: what `fit` of its MobileNetV2 costs over `fit` of the float32 one.

`qat_step_keras.py` runs this file, with the Python of the contestant's own environment. The last line it prints is the result.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import warnings
from dataclasses import asdict

import numpy as np
import tensorflow as tf

from benchmarks.contest import Result, report_result
from benchmarks.measure import interleaved, paired_ratio

BATCH, PIXELS, CLASSES = 8, 96, 1000


def compare(peer: str, rounds: int, steps: int) -> Result:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(steps * BATCH, PIXELS, PIXELS, 3)).astype(np.float32)
    classes = rng.integers(0, CLASSES, len(images))
    float_model, quantized, quantizers = importlib.import_module(f"benchmarks.peers.{peer}").build(PIXELS, images[:BATCH])
    for model in (float_model, quantized):
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)

    def epoch_of(model):
        return lambda: model.fit(images, classes, batch_size=BATCH, shuffle=False, verbose=0)

    times = interleaved({"quantized": epoch_of(quantized), "float": epoch_of(float_model)}, rounds, warmup=2)
    ratio = paired_ratio(times["quantized"], times["float"])
    return {"ratio": asdict(ratio), "quantizers": quantizers, "float_seconds": statistics.median(times["float"]) / steps}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("peer")
    arguments.add_argument("--rounds", type=int, required=True)
    arguments.add_argument("--steps", type=int, required=True, help="steps in an epoch")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(0)
    report_result(lambda: compare(options.peer, options.rounds, options.steps))


if __name__ == "__main__":
    main()
