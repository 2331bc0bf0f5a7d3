"""The errors of `nncf_ext.errors`, where the config's modules look for them."""

from nncf_ext.errors import (
    ConfigError,
    choose,
    json_path,
    nearest,
    parse,
    refusal,
    sentence,
    shown,
)

__all__ = ["ConfigError", "choose", "json_path", "nearest", "parse", "refusal", "sentence", "shown"]
