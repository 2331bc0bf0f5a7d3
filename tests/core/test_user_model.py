"""`--model` on the command line: which model it names, which adapter is for it, and one sentence for every mistake."""

import sys
import types

import pytest

from nncf_ext.tools import cli, user_model

NETS = """
class Module:  # what a torch.nn.Module looks like from outside
    __module__ = "torch.nn.modules.module"

class Net(Module):
    def __init__(self, width=4):
        self.width = width

    def __call__(self, x):
        raise AssertionError("a model is not called")

def small():
    return Net(2)

def wide(width, *more, depth=1):
    return Net(width)

def fails():
    raise RuntimeError("no weights\\nfound")

def quits():
    raise SystemExit(3)

def number():
    return 3

model = Net(8)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nncf_ext_model", raising=False)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    path = tmp_path / "my_nets.py"
    path.write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("nncf_ext_model", None)
    sys.modules.pop("my_nets", None)


@pytest.mark.parametrize("name, width", [("small", 2), ("Net", 4), ("model", 8)])
@pytest.mark.parametrize("source", ["my_nets", "my_nets.py", "./my_nets.py"])
def test_a_function_a_class_and_a_model(nets, source, name, width):
    assert user_model.load_model(f"{source}:{name}").width == width


def test_a_file_imports_its_neighbours(nets, tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text("import my_nets\nnet = my_nets.small\n", encoding="utf-8")
    monkeypatch.chdir("/")
    assert user_model.load_model(f"{tmp_path / 'main.py'}:net").width == 2


@pytest.mark.parametrize(
    "argument, words",
    [
        ("my_nets.py", ("found 'my_nets.py', expected MODEL.py:FUNCTION or package.module:FUNCTION",)),
        (":small", ("found ':small', expected",)),
        ("my nets:small", ("found 'my nets:small', expected",)),
        ("my_nets.py:3", ("expected MODEL.py:FUNCTION",)),
        ("other.py:small", ("no such file: other.py",)),
        ("other.nets:small", ("other is not installed",)),
        ("my_nets.py:smal", ("my_nets.py has no 'smal'; did you mean 'small'?",)),
        ("my_nets.py:xyz", ("my_nets.py has no 'xyz'",)),
        ("my_nets.py:wide", ("wide in my_nets.py needs width, expected a function without arguments",)),
        ("my_nets.py:fails", ("fails in my_nets.py failed: RuntimeError: no weights found", "my_nets.py:19)")),
        ("my_nets.py:quits", ("quits in my_nets.py failed: SystemExit: 3",)),
        ("my_nets.py:number", ("gave an object of class int, expected a torch.nn.Module or a keras.Model",)),
    ],
)
def test_mistakes_are_one_sentence(nets, tmp_path, capsys, argument, words):
    config = tmp_path / "config.json"
    config.write_text('{"compression": {"algorithm": "quantization"}}', encoding="utf-8")
    assert cli.main(["validate", str(config), "--model", argument]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nncf-ext: --model: ")
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize(
    "text, words",
    [
        ("def f(:", "SyntaxError"),
        ("import caffe", "caffe is not installed"),
        ("raise ModuleNotFoundError('x', name='torch')", "pip install 'nncf_ext[torch]'"),
        ("raise ModuleNotFoundError('x', name='keras.src')", "pip install 'nncf_ext[tensorflow]'"),
    ],
)
def test_a_file_that_does_not_run(nets, tmp_path, text, words):
    (tmp_path / "broken.py").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.py failed") as error:
        user_model.load_model("broken.py:f")
    assert words in str(error.value)


def test_a_config_with_a_mistake_is_told_before_the_model_runs(nets, tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text('{"compression": {"algorithm": "quantisation"}}', encoding="utf-8")
    assert cli.main(["validate", str(config), "--model", "my_nets.py:fails"]) == 1
    assert "did you mean 'quantization'" in capsys.readouterr().err


def of(*bases):
    """An object of a user's class with bases of these modules and names."""
    made = tuple(type(name, (), {"__module__": module}) for module, name in bases)
    return type("Net", made, {"__module__": "my_nets"})()


@pytest.mark.parametrize(
    "bases, package",
    [
        ([("torch.nn.modules.module", "Module")], "nncf_ext_torch"),
        ([("keras.src.models.model", "Model")], "nncf_ext_tensorflow"),
        ([("keras.src.models.model", "Model"), ("torch.nn.modules.module", "Module")], "nncf_ext_tensorflow"),  # Keras on torch
    ],
)
def test_the_adapter_is_that_of_the_models_base_class(monkeypatch, bases, package):
    keras = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "tensorflow"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    monkeypatch.setattr(user_model.importlib, "import_module", lambda name: name)
    assert user_model.adapter_package(of(*bases)) == package


def test_keras_on_another_backend(monkeypatch):
    keras = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    with pytest.raises(ValueError, match="found Keras on jax, expected it on tensorflow"):
        user_model.adapter_package(of(("keras.src.models.model", "Model")))


def test_an_adapter_whose_framework_is_missing(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(user_model.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"onnxscript is not installed.*pip install 'nncf_ext\[torch\]'"):
        user_model.adapter_package(of(("torch.nn.modules.module", "Module")))
