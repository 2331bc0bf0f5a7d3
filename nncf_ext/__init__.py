"""Compress neural networks while they train, driven by one JSON config. Importing this loads no framework."""

from importlib.metadata import version

from nncf_ext.config import NNCFConfig
from nncf_ext.config.errors import ConfigError
from nncf_ext.initialization import InitializationWarning
from nncf_ext.run_log import RunLog

__version__ = version("nncf_ext")
__all__ = ["ConfigError", "InitializationWarning", "NNCFConfig", "RunLog", "__version__"]
