"""Several training processes: masks, ranges and schedules agree on all ranks, and training is that of one process."""

import json
import os
import socket
import subprocess
import sys
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
    "distillation": [SPARSITY, {"algorithm": "knowledge_distillation", "type": "softmax"}],
}


def job(folder, wrapper, compression, resume=""):
    folder.mkdir()
    return {"folder": str(folder), "wrapper": wrapper, "compression": compression, "resume": str(resume)}


def on_two_ranks(jobs):
    """Train one job after the other, each on two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, *launcher, "-m", "tests.torch.distributed_worker", json.dumps(jobs)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert finished.returncode == 0, finished.stderr[-3000:]


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
    """Every compression trained on two ranks under DDP and FSDP2, in `<wrapper>-<compression>`."""
    folder = tmp_path_factory.mktemp("distributed")
    on_two_ranks([job(folder / f"{w}-{name}", w, COMPRESSION[name]) for w in WRAPPERS for name in COMPRESSION])
    return folder


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


@pytest.mark.parametrize("name", ["distillation", "rb"])  # ranges start from the first rank's data: one process would have others
def test_two_ranks_train_as_one_process(folder, tmp_path, name):
    expected, _ = alone(job(tmp_path / "one", "alone", COMPRESSION[name]))
    for wrapper in WRAPPERS:
        assert_same_training(expected, finals(folder / f"{wrapper}-{name}")[0][0], 1e-5)


def test_resuming_with_another_number_of_ranks(folder, tmp_path):
    compression = COMPRESSION["int8_and_magnitude"]
    saved = {wrapper: folder / f"{wrapper}-int8_and_magnitude" for wrapper in WRAPPERS}
    saved["alone"] = tmp_path / "alone"
    expected = {"alone": alone(job(saved["alone"], "alone", compression))[0]}
    expected |= {wrapper: finals(saved[wrapper])[0][0] for wrapper in WRAPPERS}
    ways = [("alone", "fsdp"), ("fsdp", "ddp"), ("ddp", "alone")]
    jobs = {way: job(tmp_path / "-".join(way), way[1], compression, saved[way[0]] / "first_epoch_0.safetensors") for way in ways}
    on_two_ranks([jobs[way] for way in ways if way[1] != "alone"])
    alone(jobs["ddp", "alone"])
    for way in ways:
        assert_same_training(expected[way[0]], finals(jobs[way]["folder"])[0][0], 1e-5)
