"""An object of the user's own code, named on a command line: `train.py:make_model` or `package.module:make_model`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from nncf_ext.config.errors import nearest


def named_object(name: str) -> Any:
    """The object; ValueError in one sentence where there is none, or where its module cannot be imported."""
    source, separator, attribute = name.rpartition(":")
    if not separator or not source or not attribute:
        raise ValueError(f"found {name!r}, expected FILE.py:NAME or package.module:NAME")
    module = _module(source)
    if not hasattr(module, attribute):
        close = nearest(attribute, [other for other in vars(module) if not other.startswith("_")])
        raise ValueError(f"{source} has no {attribute!r}{f'; did you mean {close!r}?' if close else ''}")
    return getattr(module, attribute)


def made_by(name: str) -> Any:
    """What the function or class called `name` gives without arguments; an object that is neither is taken as it is.

    ValueError in one sentence where there is no such object, or where the call fails.
    """
    found = named_object(name)
    if not (isinstance(found, type) or callable(found) and hasattr(found, "__code__")):
        return found
    try:
        return found()
    except Exception as error:
        raise ValueError(f"{name}() fails: {_in_one_line(error)}") from error


def _module(source: str) -> ModuleType:
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        path = Path(source).resolve()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ValueError(f"there is no file {source}")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))  # as `python FILE.py` does: the file may import its neighbours
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{source} cannot be imported: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
