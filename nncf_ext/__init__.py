"""Compress neural networks while they train, driven by one JSON config. Importing this loads no framework, and its modules when
they are asked for: the command line begins here, and an interrupt ends it quietly from its first moment."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nncf_ext.calibration.initialization import InitializationWarning
    from nncf_ext.errors import ConfigError
    from nncf_ext.nncf_config import NNCFConfig
    from nncf_ext.training.run_log import RunLog

    __version__: str

# `nncf_ext.configs` is the folder `configs` beside this one in the repository, and inside of it in an installation. Scripts that
# run in the repository's folder find this package before the installed one.
if not Path(__file__).with_name("configs").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

_FROM = {
    "NNCFConfig": "nncf_ext.nncf_config",
    "ConfigError": "nncf_ext.errors",
    "InitializationWarning": "nncf_ext.calibration.initialization",
    "RunLog": "nncf_ext.training.run_log",
}
__all__ = ["ConfigError", "InitializationWarning", "NNCFConfig", "RunLog", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("nncf_ext")
    elif name in _FROM:
        found = getattr(import_module(_FROM[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found
