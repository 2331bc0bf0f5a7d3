"""The command line: what it prints, its exit codes, and no traceback for a user's mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nncf_ext.algorithms.magnitude_sparsity import BinaryMask
from nncf_ext.checkpoint import load_checkpoint, save_checkpoint
from nncf_ext.edits import Edit, Plan
from nncf_ext.graph import Site
from nncf_ext.quantization.quantizers import NNCFQuantizer
from nncf_ext.tools import cli

LAYER = "Net/Linear[fc]/linear_0"


@pytest.fixture
def checkpoint(tmp_path):
    """What a controller saves, for one layer with a mask (a third of its weights) and a quantizer."""
    weight = (Site(LAYER, "weight"),)
    plan = Plan(
        (
            Edit(weight, BinaryMask(), "magnitude_sparsity"),
            Edit(weight, NNCFQuantizer(bits=4, symmetric=True, signed=True, channel_axis=0), "quantization"),
        )
    )
    tensors = {
        "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fc.mask": np.array([[0, 0, 1], [1, 1, 1]], np.float32),
        "fc.scale": np.array([[2.0], [5.0]], np.float32),
    }
    state = {
        "builder_state": {"format": 1, "plan": plan.to_json()},
        "variables": {f"{LAYER}|weight|mask": {"mask": "fc.mask"}, f"{LAYER}|weight|quantizer": {"scale": "fc.scale"}},
        "ctrl_state": {
            "scheduler_state": {"epoch": 4, "step": 99, "step_in_epoch": 19, "steps_per_epoch": 20},
            "algorithms": {
                "magnitude_sparsity": {"state": {"level": 0.3, "frozen": False}, "compression_stage": 1},
                "quantization": {"state": {}, "compression_stage": 2},
            },
        },
    }
    path = tmp_path / "run" / "epoch4.safetensors"
    path.parent.mkdir()
    save_checkpoint(path, tensors, state)
    return path


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def config(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    return str(path)


def assert_one_sentence(capsys, *words):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nncf-ext: ")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize("command", [[], ["validate"], ["schema"], ["demo"], ["inspect"], ["soup"]])
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([*command, "--help"])
    assert exit.value.code == 0
    assert "usage: nncf-ext" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["compress"], ["validate"], ["demo", "--framework", "caffe"], ["schema", "extra"]])
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2
    assert "usage: nncf-ext" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith("nncf_ext ")


def test_validate_shows_what_a_config_asks_for(tmp_path, capsys):
    text = '{"target_device": "CPU", "lr": 0.1, "compression": {"algorithm": "quantization", "preset": "mixed",}} // end'
    assert cli.main(["validate", config(tmp_path, text)]) == 0
    out = capsys.readouterr().out
    for words in ("valid", "target device: CPU", 'quantization: preset "mixed"', "lr: left to the training script"):
        assert words in out


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"compression": {"algorithm": "quantization", "prest": "mixed"}}', ("compression.prest", "did you mean 'preset'")),
        ('{"compression": [{"algorithm": "quantisation"}]}', ("compression[0].algorithm", "did you mean 'quantization'")),
        ('{"compression": {"algorithm": "bootstrapNAS"}}', ("'bootstrapNAS' is known, not built yet",)),
        ('{"compression": {"algorithm": "quantization", "weights": {"bits": 9}}}', ("compression.weights.bits", "found 9")),
        ('{"compression": ', ("config.json:1:", "not JSON")),
        ("", ("not JSON",)),
    ],
)
def test_validate_refuses_in_one_sentence(tmp_path, capsys, text, words):
    assert cli.main(["validate", config(tmp_path, text)]) == 1
    assert_one_sentence(capsys, *words)


def test_validate_without_a_file(tmp_path, capsys):
    assert cli.main(["validate", str(tmp_path / "none.json")]) == 1
    assert_one_sentence(capsys, "none.json")


def test_validate_a_folder(tmp_path, capsys):
    assert cli.main(["validate", str(tmp_path)]) == 1
    assert_one_sentence(capsys, str(tmp_path))


def test_validate_a_binary_file(checkpoint, capsys):
    assert cli.main(["validate", str(checkpoint)]) == 1
    assert_one_sentence(capsys, checkpoint.name)


def test_schema_is_a_json_schema(capsys):
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"compression", "input_info", "target_device"} <= schema["properties"].keys()


@pytest.mark.parametrize("which", ["file", "folder", "parent"])
def test_inspect_shows_every_compressed_tensor(checkpoint, capsys, which):
    path = {"file": checkpoint, "folder": checkpoint.parent, "parent": checkpoint.parent.parent}[which]
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for words in (LAYER, "33.3% zeros of 6", "bits 4", "scale 2 .. 5 (2 channels)", "level 0.3", "epoch"):
        assert words in out


def test_inspect_a_folder_without_a_checkpoint(tmp_path, capsys):
    assert cli.main(["inspect", str(tmp_path)]) == 1
    assert_one_sentence(capsys, "no checkpoint")


def test_inspect_a_path_that_is_not_there(tmp_path, capsys):
    assert cli.main(["inspect", str(tmp_path / "none")]) == 1
    assert_one_sentence(capsys, "no such checkpoint or folder")


def test_inspect_a_truncated_checkpoint(checkpoint, capsys):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    assert cli.main(["inspect", str(checkpoint)]) == 1
    assert_one_sentence(capsys, "truncated or not a checkpoint")


def test_inspect_a_state_with_parts_missing(tmp_path, capsys):
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, {"w": np.zeros(2, np.float32)}, {"builder_state": {"plan": {"edits": []}}})
    assert cli.main(["inspect", str(path)]) == 1
    assert_one_sentence(capsys, "the compression state lacks 'ctrl_state'")


@pytest.mark.parametrize("command", [("schema",), ("validate", "demo.json")])
def test_a_reader_that_has_enough(command, tmp_path):
    """`nncf-ext schema | head` ends without a word."""
    (tmp_path / "demo.json").write_text('{"compression": {"algorithm": "quantization"}}')
    program = f"import sys; from nncf_ext.tools.cli import main; sys.exit(main({list(command)}))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, **pipes) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_demo_without_the_framework(capsys, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo", "--framework", "torch"]) == 1
    assert_one_sentence(capsys, "torch not installed", "nncf_ext[torch,demo]")


def test_demo_without_the_data(capsys, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "sklearn" else object())
    assert cli.main(["demo"]) == 1
    assert_one_sentence(capsys, "nncf_ext[demo]")


def test_demo_reports_a_failing_part(tmp_path, capsys, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 3, stderr="the reason\n")

    monkeypatch.setattr(cli.subprocess, "run", run)
    assert cli.main(["demo", "--framework", "torch", "--output", str(tmp_path / "out")]) == 1
    reason, sentence = capsys.readouterr().err.splitlines()
    assert (reason, sentence) == ("the reason", "nncf-ext: demo: the torch part ended with exit code 3")
    assert commands[0][1:4] == ["-P", "-m", "nncf_ext_torch.demo"]
    assert (tmp_path / "out" / "torch").is_dir()


def test_soup_averages_checkpoints(checkpoint, tmp_path, capsys):
    tensors, state = load_checkpoint(checkpoint)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, {**tensors, "fc.weight": tensors["fc.weight"] + 2}, state)
    output = tmp_path / "soup.safetensors"
    assert cli.main(["soup", str(checkpoint.parent), str(other), "--output", str(output)]) == 0  # a folder, and a file
    assert f"50.0% {other}" in capsys.readouterr().out
    np.testing.assert_array_equal(load_checkpoint(output)[0]["fc.weight"], tensors["fc.weight"] + 1)
    assert cli.main(["soup", str(checkpoint), str(other), "--method", "wise-ft", "--alpha", "1", "--output", str(output)]) == 0
    np.testing.assert_array_equal(load_checkpoint(output)[0]["fc.weight"], tensors["fc.weight"] + 2)


@pytest.mark.parametrize(
    "options, words",
    [
        ([], ["expected at least two models"]),
        (["--method", "greedy"], ["greedy: expected --model and --evaluate"]),
        (["--batches", "model.py:batches"], ["--batches: expected --model too"]),
        (["--model", "nowhere.py:net", "--evaluate", "nowhere.py:score"], ["--evaluate: nowhere.py:score: no such file"]),
    ],
)
def test_soup_tells_what_is_missing(checkpoint, tmp_path, capsys, options, words):
    assert cli.main(["soup", str(checkpoint), "--output", str(tmp_path / "soup.safetensors"), *options]) == 1
    assert_one_sentence(capsys, *words)
    assert not (tmp_path / "soup.safetensors").exists()


def test_soup_writes_nothing_into_a_folder_that_is_not_there(checkpoint, tmp_path, capsys):
    assert cli.main(["soup", str(checkpoint), str(checkpoint), "--output", str(tmp_path / "no" / "soup.safetensors")]) == 1
    assert_one_sentence(capsys, "--output:", "is not a folder")


def test_exit_codes_are_said_and_an_interrupt_while_modules_load_is_quiet():
    import subprocess
    import sys

    program = (
        "import sys, builtins; own = builtins.__import__\n"
        "def interrupted(name, *rest, **more):\n"
        "    if name == 'rich.console': raise KeyboardInterrupt\n"
        "    return own(name, *rest, **more)\n"
        "builtins.__import__ = interrupted\n"
        "from nncf_ext.tools.command import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    loaded = "import sys, nncf_ext.tools.command; print([name for name in ('numpy', 'pydantic', 'rich') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"
    for code in ("0 done", "1 a problem", "2 a wrong command line", "130 interrupted"):
        assert code in " ".join(cli.command_line().format_help().split())


def test_an_output_that_is_the_input_is_refused(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, {"w": np.zeros(2, np.float32)}, {})
    content = path.read_bytes()
    (tmp_path / "same").symlink_to(path)
    for command in (
        ["pack", str(path), "--output", str(tmp_path / "same")],
        ["soup", str(path), str(path), "--output", str(path)],
    ):
        assert cli.main(command) == 1
        assert "is the input, expected another file" in capsys.readouterr().err
    assert cli.main(["pack", str(path)]) == 0
    assert cli.main(["unpack", str(tmp_path / "m.ncp"), "--output", str(tmp_path / "m.ncp")]) == 1
    assert path.read_bytes() == content
