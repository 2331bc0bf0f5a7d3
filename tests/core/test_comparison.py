"""Runs beside each other."""

import json

import numpy as np
import onnx
import pytest

from nncf_ext.tools.cli import main
from nncf_ext.tools.comparison import compare_runs


def run(folder, accuracy, size, suffix=".onnx"):
    folder.mkdir()
    records = [{"epoch": epoch, "metrics": {"accuracy": value}} for epoch, value in enumerate((0.1, accuracy))]
    (folder / "run.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / f"model{suffix}").write_bytes(bytes(size))
    return folder


@pytest.fixture
def runs(tmp_path):
    sizes = {"float": (0.98, 1000), "int8": (0.97, 250), "pruned": (0.96, 500), "both": (0.95, 125)}
    return [run(tmp_path / name, *numbers) for name, numbers in sizes.items()]


def test_ratios_front_and_scores(runs):
    compared = compare_runs(runs, weights=(1.0, 0.01))
    assert [r.ratio for r in compared] == [1, 4, 2, 8]
    assert [r.best for r in compared] == [True, True, False, True]  # int8 is more accurate than pruned, and smaller
    assert [r.score for r in compared] == pytest.approx([0.99, 1.01, 0.98, 1.03])
    assert all(r.zipped < r.size for r in compared)
    assert compare_runs(runs[1:], original=runs[0] / "model.onnx")[0].ratio == 4


def test_command_line(runs, tmp_path, capsys):
    picture = tmp_path / "out" / "front.png"
    arguments = ["compare", *map(str, runs), "--alpha", "1", "--beta", "0.01", "--output", str(picture)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.index("both") < printed.index("int8") < printed.index("float")  # by score
    assert "8.00x" in printed and str(picture) in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_latency(tmp_path):
    helper = onnx.helper
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 64])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 64])
    weight = onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folders = [run(tmp_path / name, 0.9, 1) for name in "ab"]
    for folder in folders:
        onnx.save(model, folder / "model.onnx")
    first, second = compare_runs(folders, latency=True)
    assert first.milliseconds > 0 and second.milliseconds > 0


@pytest.mark.parametrize(
    ("break_it", "arguments", "message"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), {}, r"int8: found no model file, expected one .onnx, .keras or .saf"),
        (
            lambda folder: (folder / "b.onnx").write_bytes(b"1"),
            {},
            r"found 2 .onnx files \(b.onnx, model.onnx\), expected one: name it",
        ),
        (lambda folder: (folder / "run.jsonl").unlink(), {}, r"run.jsonl: no such file"),
        (lambda folder: None, {"metric": "acuracy"}, r"no metric 'acuracy', did you mean 'accuracy'\?"),
    ],
)
def test_mistakes(runs, break_it, arguments, message):
    break_it(runs[1])
    with pytest.raises((ValueError, OSError), match=message):
        compare_runs(runs[1:], **arguments)


def test_what_a_demo_leaves_behind(runs, tmp_path, capsys):
    """A folder of runs, each with two files of a kind: the one named as the checkpoint counts, or that is given."""
    for folder in runs:
        (folder / "float.onnx").write_bytes(bytes(2000))
        (folder / "model.safetensors").write_bytes(bytes(1))
    compared = compare_runs([tmp_path], original=runs[0] / "float.onnx")
    assert [(r.name, r.file.name) for r in compared] == [(n, "model.onnx") for n in ("both", "float", "int8", "pruned")]
    assert [r.ratio for r in compared] == [16, 2, 8, 4]
    assert [r.file for r in compare_runs([runs[1] / "float.onnx", runs[2]])] == [runs[1] / "float.onnx", runs[2] / "model.onnx"]
    assert main(["plot", str(tmp_path)]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(str(folder / "curves.png") for folder in runs)


def test_half_a_score(runs, capsys):
    assert main(["compare", str(runs[0]), "--alpha", "1"]) == 1
    assert "expected both or none" in capsys.readouterr().err
