"""Compress neural networks while they train, driven by one JSON config. Importing this loads no framework."""

from importlib.metadata import version
from pathlib import Path

from nncf_ext.config import NNCFConfig
from nncf_ext.config.errors import ConfigError
from nncf_ext.initialization import InitializationWarning
from nncf_ext.run_log import RunLog

# `nncf_ext.configs` is the folder `configs` beside this one in the repository, and inside of it in an installation. Scripts that
# run in the repository's folder find this package before the installed one.
if not Path(__file__).with_name("configs").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

__version__ = version("nncf_ext")
__all__ = ["ConfigError", "InitializationWarning", "NNCFConfig", "RunLog", "__version__"]
