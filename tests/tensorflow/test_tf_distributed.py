"""tf.distribute.MirroredStrategy on two logical CPUs trains as one device does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
COMPRESSIONS = [
    [
        {"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}},
        {"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 0.5, "sparsity_target_epoch": 2}},
        {
            "algorithm": "knowledge_distillation",
            "type": "softmax",
            "features": [{"student": "{re}^a/"}, {"student": "{re}^b", "loss": "attention"}],
        },
    ],
    [{"algorithm": "soft_threshold", "params": {"weight": 0.5, "initial_threshold": -4}}],
    [{"algorithm": "dynamic_sparse_training", "params": {"sparsity_target": 0.7, "update_interval": 3, "end": 11}}],
    [{"algorithm": "corad", "regularization": {"type": "group_lasso", "weight": 10, "proximal_step": 0.1}}],
    [{"algorithm": "ecsq", "params": {"target_bits": 2, "start_epoch": 1}, "compression_lr_multiplier": 0.05}],
]


def test_two_replicas_train_as_one():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.tensorflow.mirrored_worker", json.dumps(COMPRESSIONS)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr[-3000:]
    for one, two in json.loads(finished.stdout.splitlines()[-1]):
        assert one["state"] == two["state"]
        np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-5)
        for path, weight in one["weights"].items():
            if path.endswith("mask"):
                assert weight == two["weights"][path], path
            else:
                np.testing.assert_allclose(weight, two["weights"][path], rtol=1e-4, atol=1e-5, err_msg=path)
