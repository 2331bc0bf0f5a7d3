"""What a user names on the command line, a model or a function: `MODEL.py:FUNCTION` or `package.module:FUNCTION`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from nncf_ext.errors import nearest

# What a model is: the base class by its package and name, and who compresses it. Keras comes first: on the backend torch its
# models are torch modules too.
_KINDS = (("keras", "Model", "nncf_ext_tensorflow", "tensorflow"), ("torch", "Module", "nncf_ext_torch", "torch"))
_EXTRAS = {"torch": "torch", "tensorflow": "tensorflow", "keras": "tensorflow", "tf2onnx": "tensorflow", "onnxscript": "torch"}


def load_model(argument: str) -> Any:
    """The model itself, or what the function or class of that name returns without arguments.

    ValueError, in one sentence, for whatever is wrong with it. The folder of the file, or the current one for a module, is
    importable while and after it runs, as it is when Python runs the script.
    """
    source, name, found = _named("--model", argument)
    if _kind(found) is None and callable(found):
        needed = _needed(found)
        if needed:
            raise ValueError(f"--model: {name} in {source} needs {', '.join(needed)}, expected a function without arguments")
        with _raised_as_option_error(f"{name} in {source} failed"):
            found = found()
    if _kind(found) is None:
        raise ValueError(
            f"--model: {argument} gave an object of class {type(found).__name__}, expected a torch.nn.Module or a keras.Model"
        )
    return found


def load_function(option: str, argument: str) -> Callable[..., Any]:
    """The function that `option` names, with whatever it raises told in one sentence. ValueError where there is none."""
    source, name, found = _named(option, argument)
    if not callable(found):
        raise ValueError(f"{option}: {argument} is a {type(found).__name__}, expected a function")

    def call(*arguments: Any) -> Any:
        with _raised_as_option_error(f"{name} in {source} failed", option):
            return found(*arguments)

    return call


def _named(option: str, argument: str) -> tuple[str, str, Any]:
    """(file or module, name, what has that name there)."""
    source, _, name = argument.rpartition(":")
    if not source or not name.isidentifier():
        raise ValueError(f"{option}: found {argument!r}, expected MODEL.py:FUNCTION or package.module:FUNCTION")
    module = _from_file(Path(source), argument, option) if source.endswith(".py") else _from_name(source, argument, option)
    if not hasattr(module, name):
        close = nearest(name, [public for public in vars(module) if not public.startswith("_")])
        raise ValueError(f"{option}: {source} has no {name!r}{f'; did you mean {close!r}?' if close else ''}")
    return source, name, getattr(module, name)


def adapter_package(model: Any) -> Any:
    """The package of the adapter for a model that `load_model` gave."""
    kind = _kind(model)
    assert kind is not None
    package, framework = kind
    with _raised_as_option_error(f"{package} cannot be used"):
        if framework == "tensorflow":
            _expect_backend()
        return importlib.import_module(package)


def _kind(model: Any) -> tuple[str, str] | None:
    """(package of the adapter, framework); None for what is no model."""
    for root, name, package, framework in _KINDS:
        if any(c.__name__ == name and c.__module__.partition(".")[0] == root for c in type(model).__mro__):
            return package, framework
    return None


def _expect_backend() -> None:
    backend = sys.modules["keras"].backend.backend()
    if backend != "tensorflow":
        raise ValueError(f"found Keras on {backend}, expected it on tensorflow (KERAS_BACKEND)")


def _from_file(path: Path, argument: str, option: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{option}: {argument}: no such file: {path}")
    loaded = sys.modules.get("nncf_ext_model")
    if loaded is not None and loaded.__file__ == str(path.resolve()):
        return loaded  # named by several options: it runs once, and what it made is one
    _importable(path.resolve().parent)
    spec = importlib.util.spec_from_file_location("nncf_ext_model", path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and Keras look a class's module up there
    with _raised_as_option_error(f"{path} failed", option):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
    return module


def _from_name(name: str, argument: str, option: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{option}: found {argument!r}, expected MODEL.py:FUNCTION or package.module:FUNCTION")
    _importable(Path.cwd())
    with _raised_as_option_error(f"{name} failed", option):
        return importlib.import_module(name)


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _needed(function: Any) -> list[str]:
    """Names of the arguments that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


@contextmanager
def _raised_as_option_error(what: str, option: str = "--model") -> Iterator[None]:
    """Whatever the user's code raises, in one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        advice = f": pip install 'nncf_ext[{extra}]'" if extra else ""
        raise ValueError(f"{option}: {what}: {error.name} is not installed, or is no module{advice}") from error
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{option}: {what}: {type(error).__name__}{f': {text}' if text else ''}{_line_of(error)}") from error


def _line_of(error: BaseException) -> str:
    """Where in the user's code it was raised: the last line outside of what is installed."""
    traceback, found = error.__traceback__, ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if os.path.isfile(file) and "site-packages" not in file and not file.startswith(sys.base_prefix) and file != __file__:
            found = f" ({file}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found
