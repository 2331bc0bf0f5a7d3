"""Weights beyond protobuf's 2 GB are in a file of their own, which never is another model's: whoever dies, whoever writes too."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from nncf_ext.files import onnx_file as writing
from nncf_ext.files.onnx_file import write
from nncf_ext.packed import pack_file, unpack_file

SIZE = 400

_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from nncf_ext.files.onnx_file import write
from tests.core.test_export_weights_beside import model
replace, left = os.replace, int(sys.argv[2])
def until_killed(source, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = until_killed
import onnx_ir
saved = onnx_ir.save
def save(*args, **kwargs):  # onnx_ir renames, too: it is not what is interrupted here
    os.replace = replace
    saved(*args, **kwargs)
    os.replace = until_killed
onnx_ir.save = save
write(model(2), Path(sys.argv[1]), most_inline=100)
"""


def model(factor):
    weight = onnx.numpy_helper.from_array(np.full(SIZE, factor, np.float32), "w")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [SIZE]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Mul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10))


def factor_in(path):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.ones(SIZE, np.float32)})[0]
    assert len(set(found.tolist())) == 1
    return found[0]


def ends(folder):
    return sorted("data" if path.name.endswith(".data") else path.name for path in folder.iterdir())


def test_a_model_that_is_written_again(tmp_path):
    path = tmp_path / "model.onnx"
    (tmp_path / "model.onnx.abcdefgh.date").write_text("of the user's")
    for factor in (1, 2):
        write(model(factor), path, most_inline=100)
        assert factor_in(path) == factor and ends(tmp_path) == ["data", "model.onnx", "model.onnx.abcdefgh.date"]
    write(model(3), path)
    assert factor_in(path) == 3 and ends(tmp_path) == ["model.onnx", "model.onnx.abcdefgh.date"]


def test_whoever_reads_between_the_renames_finds_the_old_model(tmp_path, monkeypatch):
    path, replace, seen = tmp_path / "model.onnx", os.replace, []
    write(model(1), path, most_inline=100)

    def looked(source, target):
        replace(source, target)
        if Path(target).parent == tmp_path:
            seen.append(factor_in(path))

    monkeypatch.setattr(os, "replace", looked)
    write(model(2), path, most_inline=100)
    assert seen == [1, 2]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize(("renames", "factor"), [(0, 1), (1, 1)])
def test_a_writer_that_dies_between_the_renames(tmp_path, renames, factor):
    path = tmp_path / "model.onnx"
    write(model(1), path, most_inline=100)
    arguments = [sys.executable, "-c", _KILLED, str(path), str(renames)]
    killed = subprocess.run(arguments, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    assert factor_in(path) == factor and ends(tmp_path).count("data") == 1 + renames
    write(model(3), path, most_inline=100)
    assert factor_in(path) == 3 and ends(tmp_path) == ["data", "model.onnx"]


def test_threads_that_write_to_one_path(tmp_path):
    path, errors = tmp_path / "model.onnx", []

    def work(factor):
        try:
            for _ in range(10):
                write(model(factor), path, most_inline=100)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and factor_in(path) in (1, 2)
    write(model(3), path, most_inline=100)
    assert factor_in(path) == 3 and ends(tmp_path) == ["data", "model.onnx"]


def test_a_packed_model_is_unpacked_beyond_the_limit(tmp_path, monkeypatch):
    write(model(2), tmp_path / "model.onnx", most_inline=100)
    pack_file(tmp_path / "model.onnx", tmp_path / "model.ncp")
    monkeypatch.setattr(writing, "MOST_INLINE", 100)
    (tmp_path / "new").mkdir()
    unpack_file(tmp_path / "model.ncp", tmp_path / "new" / "model.onnx")
    assert factor_in(tmp_path / "new" / "model.onnx") == 2 and ends(tmp_path / "new") == ["data", "model.onnx"]
