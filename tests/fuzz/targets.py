"""What is tried: each target makes a whole file or config, damages it, and reads it in every way that there is.

A target is a function (folder, rng) -> problem in words, or None. What it may raise is the one error of that kind of file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from nncf_ext import ConfigError, NNCFConfig
from nncf_ext.checkpoint import CheckpointError, find_checkpoint, load_checkpoint, save_checkpoint
from nncf_ext.config.loader import loads
from nncf_ext.distillation.teacher_cache import TeacherCache
from nncf_ext.packed import Packed, PackedError, load, pack_arrays, pack_file, unpack_file
from nncf_ext.packed.inspection import describe_packed
from nncf_ext.quantization.precision.traces_file import read_traces
from nncf_ext.soup import SoupError, uniform
from nncf_ext.sparsity.ranking import load_coefficients
from nncf_ext.tools.inspection import describe
from nncf_ext.training.run_log import read_log
from tests.fuzz.damage import as_text, damaged_bytes, damaged_data

SECONDS = 5.0  # of processor time, which no small input takes
Target = Callable[[Path, random.Random], str | None]


def outcome(read: Callable[[], Any], *allowed: type[BaseException]) -> str | None:
    """What is wrong with how a reading ended; None where it gave something, or one of the errors it may."""
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except allowed as error:
        if len(str(error)) > 2000:
            return f"a message of {len(str(error))} characters"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - started
    return f"{seconds:.1f} s" if seconds > SECONDS else None


def first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)


@cache
def _configs() -> tuple[list[bytes], list[Any]]:
    texts = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "configs").glob("*.json"))]
    return texts, [loads(text.decode()) for text in texts]


def configs(folder: Path, rng: random.Random) -> str | None:
    texts, contents = _configs()
    if rng.random() < 0.25:
        path = folder / "config.json"
        path.write_bytes(damaged_bytes(rng, rng.choice(texts)))
        return outcome(lambda: NNCFConfig.from_json(path), ConfigError)
    content = damaged_data(rng, rng.choice(contents))
    return outcome(lambda: NNCFConfig.from_dict(content), ConfigError)


@cache
def _packed() -> bytes:
    import tempfile

    rng = np.random.default_rng(0)
    sparse = rng.normal(size=(40, 30)).astype(np.float32) * (rng.random((40, 30)) < 0.2)
    arrays = {
        "planes": rng.normal(size=(30, 20)).astype(np.float32),
        "book": rng.integers(0, 4, 500).astype(np.float32),
        "sparse": sparse,
        "raw": np.frombuffer(rng.bytes(64), np.uint8),
        "half": rng.normal(size=100).astype(np.float16),
        "scalar": np.float64(3),
    }
    with tempfile.TemporaryDirectory() as folder:
        pack_arrays(Path(folder) / "x.ncp", arrays, {"source": "safetensors", "metadata": {"a": "b"}})
        return (Path(folder) / "x.ncp").read_bytes()


def packed(folder: Path, rng: random.Random) -> str | None:
    content, path = _packed(), folder / "x.ncp"
    if rng.random() < 0.5:
        path.write_bytes(damaged_bytes(rng, content))
    else:  # behind right checksums
        version, offset, _, _, _ = struct.unpack("<IQQII", content[8:36])
        index = json.loads(zlib.decompress(content[offset:]))
        text = as_text(damaged_data(rng, index, finite=True))
        stored = zlib.compress(text)
        numbers = struct.pack("<IQQII", version, offset, len(stored), len(text), zlib.crc32(stored))
        path.write_bytes(content[:8] + numbers + content[36:offset] + stored)

    def bits() -> None:
        file = Packed(path, 1 << 24)
        for name in file:
            file.bits(name), file.codec(name), file.shape(name), file.stored_bytes(name), file.bound_bytes(name)

    readings = (
        lambda: load(path, limit=1 << 24),
        bits,
        lambda: describe_packed(path),
        lambda: unpack_file(path, folder / "x.safetensors", limit=1 << 24),
    )
    return first(outcome(reading, PackedError) for reading in readings)


STATE = {
    "builder_state": {
        "format": 1,
        "plan": {
            "edits": [
                {"sites": ["a|weight"], "transform": {"kind": "mask"}, "algorithm": "magnitude_sparsity"},
                {"sites": ["b|weight"], "transform": {"kind": "rb_mask"}, "algorithm": "rb_sparsity", "operators": ["b"]},
            ],
            "skipped": [["c", "no weight"]],
        },
    },
    "variables": {
        "a|weight|mask": {"mask": "a.mask"},
        "b|weight|rb_mask": {"scores": "b.scores", "rows": "b.rows", "level": "b.level"},
    },
    "parameters": {"a|weight|mask": ["a.weight"], "b|weight|rb_mask": ["b.weight"]},
    "ctrl_state": {
        "scheduler_state": {"current_epoch": 1, "current_step": 9, "step_in_epoch": 3, "steps_per_epoch": 5},
        "algorithms": {"magnitude_sparsity": {"state": {"level": 0.5}}, "rb_sparsity": {"state": {"frozen": False}}},
    },
}


def _tensors() -> dict[str, np.ndarray]:
    return {
        "a.weight": np.ones((4, 3), np.float32),
        "a.mask": np.eye(4, 3, dtype=bool),
        "b.weight": np.ones((2, 3), np.float32),
        "b.scores": np.ones((2, 3), np.float32),
        "b.rows": np.zeros(1, np.int32),
        "b.level": np.array(0.5, np.float32),
    }


def damaged_safetensors(rng: random.Random, content: bytes, key: str | None = None) -> bytes:
    """Damage to the bytes, to the header, or to the JSON in its metadata at `key`."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = rng.random()
    if kind < 0.3:
        return damaged_bytes(rng, content)
    if kind < 0.6 or key is None:
        header = damaged_data(rng, header)
    else:
        header["__metadata__"][key] = json.dumps(damaged_data(rng, json.loads(header["__metadata__"][key])))
    text = as_text(header)
    return len(text).to_bytes(8, "little") + text + data


def checkpoints(folder: Path, rng: random.Random) -> str | None:
    whole, path = folder / "whole.safetensors", folder / "x.safetensors"
    if not whole.exists():
        save_checkpoint(whole, _tensors(), STATE)
    path.write_bytes(damaged_safetensors(rng, whole.read_bytes(), "nncf_ext"))
    return first(
        (
            outcome(lambda: load_checkpoint(path), CheckpointError),
            outcome(lambda: describe(path), CheckpointError),
            outcome(lambda: uniform([whole, path], "union"), SoupError),
            outcome(lambda: uniform([path, path]), SoupError),
        )
    )


def teacher_caches(folder: Path, rng: random.Random) -> str | None:
    tensors = {
        "keys": np.array([1, 2], np.uint64),
        "0.indices": np.array([[0], [3]], np.int32),
        "0.probabilities": np.array([[0.5], [0.9]], np.float32),
        "0.rest": np.array([0.5, 0.1], np.float32),
    }
    about = json.dumps({"format": 1, "temperature": 1.0, "shapes": [[4]]})
    path = folder / "cache.safetensors"
    path.write_bytes(damaged_safetensors(rng, save(tensors, metadata={"nncf_ext_teacher": about}), "nncf_ext_teacher"))

    def use() -> None:
        cache = TeacherCache(path)
        cache.rows(np.zeros((1, 2), np.float32))

    return outcome(use, ConfigError)


def traces(folder: Path, rng: random.Random) -> str | None:
    import io

    kind = rng.choice(["npy", "json", "safetensors"])
    path = folder / f"traces.{kind}"
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, np.array([1.0, 2.0]))
        path.write_bytes(damaged_bytes(rng, file.getvalue()))
    elif kind == "json":
        path.write_bytes(as_text(damaged_data(rng, rng.choice([{"traces": {"a": 1.0, "b": 2.0}}, [1.0, 2.0], {"a": 1, "b": 2}]))))
    else:
        path.write_bytes(damaged_safetensors(rng, save({"a": np.array([1.0]), "b": np.array([2.0])})))
    return outcome(lambda: read_traces(path, ["a", "b"], lambda path: np.zeros(2), "w"), ConfigError)


def rankings(folder: Path, rng: random.Random) -> str | None:
    path = folder / "ranking.json"
    text = as_text(damaged_data(rng, {"a": [1.0, 0.0], "b": [0.5, 2]}))
    path.write_bytes(damaged_bytes(rng, text) if rng.random() < 0.3 else text)
    return outcome(lambda: load_coefficients(path, ["a", "b"], "w"), ConfigError)


def run_logs(folder: Path, rng: random.Random) -> str | None:
    record = {
        "epoch": 1,
        "metrics": {"accuracy": 0.5},
        "loss_terms": {},
        "statistics": {"a/b": 1.0},
        "layers": {"a/l": {"x": 1.0}},
    }
    text = b"".join(as_text(damaged_data(rng, record)) + b"\n" for _ in range(2))
    (folder / "run.jsonl").write_bytes(damaged_bytes(rng, text) if rng.random() < 0.3 else text)
    return outcome(lambda: read_log(folder), ValueError)


def to_pack(folder: Path, rng: random.Random) -> str | None:
    path = folder / "model.safetensors"
    path.write_bytes(damaged_safetensors(rng, save(_tensors(), metadata={"format": "pt"})))
    return outcome(lambda: pack_file(path, folder / "model.ncp"), ValueError)


def onnx_to_pack(folder: Path, rng: random.Random) -> str | None:
    path = folder / "model.onnx"
    path.write_bytes(damaged_bytes(rng, _onnx()))
    return outcome(lambda: pack_file(path, folder / "model.ncp"), ValueError)


@cache
def _onnx() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.arange(40, dtype=np.float32), "w")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [40]) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight])).SerializeToString()


def kills(folder: Path, rng: random.Random) -> str | None:
    """A process that writes is killed at a random moment: files are whole, and the next writer removes what is left."""
    checkpoint, file = folder / "run.safetensors", folder / "run.ncp"
    child = os.fork()
    if child == 0:
        try:
            for number in range(10_000):
                array = np.full(4000, number, np.float32)
                save_checkpoint(checkpoint, {"a": array}, {"number": number})
                pack_arrays(file, {"a": array})
        finally:
            os._exit(1)
    time.sleep(rng.uniform(0.0, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if checkpoint.exists():
        tensors, state = load_checkpoint(find_checkpoint(folder))
        if not (tensors["a"] == state["number"]).all():
            return "a checkpoint of two writings"
    if file.exists() and len(set(load(file)["a"].tolist())) != 1:
        return "a packed file of two writings"
    pack_arrays(file, {"a": np.zeros(3)})
    odd = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return f"left behind: {odd[0]}" if odd else None


TARGETS: dict[str, Target] = {
    "configs": configs,
    "packed files: arrays, bits, inspect, unpack": packed,
    "checkpoints: read, inspected, averaged": checkpoints,
    "teacher caches": teacher_caches,
    "traces of second derivatives": traces,
    "rankings of filters": rankings,
    "run logs": run_logs,
    "safetensors to pack": to_pack,
    "ONNX to pack": onnx_to_pack,
    "kill -9 while writing": kills,
}
