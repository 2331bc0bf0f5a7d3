"""Several training processes: masks, ranges and schedules agree on all ranks, and training is that of one process."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tests.torch import distributed_worker

WRAPPERS = ("ddp", "fsdp")
ROOT = Path(__file__).resolve().parents[2]
SPARSITY = {
    "algorithm": "magnitude_sparsity",
    "sparsity_init": 0.1,
    "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 2},
}
COMPRESSION = {
    "int8_and_magnitude": [{"algorithm": "quantization", "initializer": {"range": {"num_init_samples": 64}}}, SPARSITY],
    "rb": {
        "algorithm": "rb_sparsity",
        "sparsity_init": 0.3,
        "compression_lr_multiplier": 50,
        "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 2},
    },
    "distillation": [
        SPARSITY,
        {
            "algorithm": "knowledge_distillation",
            "type": "softmax",
            "features": [{"student": "{re}Linear.0."}, {"student": "{re}Linear.2.", "loss": "attention"}],
        },
    ],
    "soft_threshold": {"algorithm": "soft_threshold", "params": {"weight": 0.5, "initial_threshold": -4}},
    "filter_pruning": {
        "algorithm": "filter_pruning",
        "pruning_init": 0.1,
        "params": {"all_weights": True, "pruning_target": 0.5, "pruning_steps": 2},
    },
    "rigl": {
        "algorithm": "dynamic_sparse_training",
        "params": {"method": "rigl", "sparsity_target": 0.7, "update_interval": 2, "end": 5},
    },
    "corad": {"algorithm": "corad", "regularization": {"type": "group_lasso", "weight": 10, "proximal_step": 0.1}},
    "clustering": [
        SPARSITY,
        {
            "algorithm": "weight_clustering",
            "params": {"clusters": 6, "start_epoch": 1, "weighting": "squared_gradients", "weighting_samples": 64},
            "compression_lr_multiplier": 0.05,
        },
    ],
    "movement": {
        "algorithm": "movement_sparsity",
        "params": {
            "warmup_start_epoch": 0,
            "warmup_end_epoch": 2,
            "importance_regularization_factor": 0.05,
            "steps_per_epoch": 2,
            "enable_structured_masking": False,
        },
    },
}

NAME_OF_RESUMED = "int8_and_magnitude"
RESUMED = COMPRESSION[NAME_OF_RESUMED]
RESUMES = [("alone", "fsdp"), ("fsdp", "ddp"), ("ddp", "alone")]  # before and after


def job(folder, wrapper, compression, resume=""):
    folder.mkdir()
    return {"folder": str(folder), "wrapper": wrapper, "compression": compression, "resume": str(resume)}


def on_two_ranks(jobs):
    """Train one job after the other, each on two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.torch.distributed_worker", json.dumps(jobs)]
    with ExitStack() as stack:
        start = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
        ranks = [stack.enter_context(subprocess.Popen(command, env={**environment, "RANK": rank}, **start)) for rank in "01"]
        try:
            for rank in ranks:
                errors = rank.communicate(timeout=500)[1]
                assert rank.returncode == 0, errors[-3000:]
        finally:
            for rank in ranks:
                rank.kill()


def alone(job):
    distributed_worker.train(Path(job["folder"]), job["wrapper"], job["compression"], job["resume"])
    return finals(job["folder"])[0]


def finals(folder):
    """The final state of every rank: (tensors, facts)."""
    found = []
    for path in sorted(Path(folder).glob("final_*.safetensors")):
        with safe_open(path, "numpy") as file:
            found.append(({name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])))  # noqa: SIM118
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every compression trained on two ranks under DDP and FSDP2, in `<wrapper>-<compression>`, and one of them resumed from
    another number of ranks or wrapper, in `<before>-to-<after>`. One launch: it is the imports that take long."""
    folder = tmp_path_factory.mktemp("distributed")
    alone(job(folder / "alone", "alone", RESUMED))
    jobs = [job(folder / f"{w}-{name}", w, COMPRESSION[name]) for w in WRAPPERS for name in COMPRESSION]
    resumed = {(before, after): job_of_resume(folder, before, after) for before, after in RESUMES}
    on_two_ranks([*jobs, *(resumed[way] for way in RESUMES if way[1] != "alone")])
    alone(resumed["ddp", "alone"])
    return folder


def job_of_resume(folder, before, after):
    saved = folder / ("alone" if before == "alone" else f"{before}-{NAME_OF_RESUMED}")
    return job(folder / f"{before}-to-{after}", after, RESUMED, saved / "first_epoch_0.safetensors")


def assert_same_training(ours, theirs, tolerance):
    for name, value in ours.items():
        if name.endswith("mask"):
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
        else:
            np.testing.assert_allclose(value, theirs[name], err_msg=name, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", COMPRESSION)
def test_two_ranks_agree(folder, wrapper, name):
    (first, facts), (second, other) = finals(folder / f"{wrapper}-{name}")
    assert facts["plan"] == other["plan"]
    for tensor, value in first.items():
        assert np.array_equal(value, second[tensor]), tensor
    assert facts["losses"] != other["losses"]  # they saw other data


@pytest.mark.parametrize(
    "name", ["distillation", "soft_threshold", "rb", "filter_pruning", "movement", "rigl"]
)  # ranges start from the first rank's data: one process would have others
def test_two_ranks_train_as_one_process(folder, tmp_path, name):
    expected, _ = alone(job(tmp_path / "one", "alone", COMPRESSION[name]))
    for wrapper in WRAPPERS:
        assert_same_training(expected, finals(folder / f"{wrapper}-{name}")[0][0], 1e-5)


@pytest.mark.parametrize(("before", "after"), RESUMES)
def test_resuming_with_another_number_of_ranks(folder, before, after):
    expected = finals(folder / ("alone" if before == "alone" else f"{before}-{NAME_OF_RESUMED}"))[0][0]
    assert_same_training(expected, finals(folder / f"{before}-to-{after}")[0][0], 1e-5)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("name", "some"), [("filter_pruning", "mask"), ("movement", "score")])
def test_what_is_masked_is_decided(folder, wrapper, name, some):
    """The agreement of ranks says something: part of the weights is masked, and part is not."""
    tensors = finals(folder / f"{wrapper}-{name}")[0][0]
    kept = np.concatenate([(value > 0).ravel() for key, value in tensors.items() if key.endswith(some)])
    assert 0.05 < kept.mean() < 0.95
