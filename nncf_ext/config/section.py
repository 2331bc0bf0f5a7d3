"""The pieces that sections of a config are made of: types of values, and what every section does.

Keys and defaults are NNCF 2.x's. The sections are schema, defaults and documentation in one place; the class of an algorithm
is a subclass of its section, so an algorithm is its config.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Strict,
    Tag,
    model_validator,
)

from nncf_ext.errors import choose, nearest, refusal
from nncf_ext.scopes import MARKER, check_regular_expression


def whole(value: Any) -> Any:
    """8.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_array(value: Any) -> Any:
    """One item stands for an array of one."""
    return value if isinstance(value, list | tuple) or value is None else [value]


def _compiles(pattern: str) -> str:
    try:
        if MARKER in pattern:
            check_regular_expression(pattern)
    except re.error as error:
        raise refusal(f"{pattern[:100]!r} is no regular expression: {error}") from None
    return pattern


def deprecated(sentence: str) -> None:
    warnings.warn(f"config: {sentence}", FutureWarning, stacklevel=2)  # Python shows users no DeprecationWarning of a library's


def without_effect(key: str, beside: str) -> None:
    """Tell of a key that NNCF 2.x takes and that changes nothing beside another one."""
    warnings.warn(f"config: the key {key!r} has no effect with {beside}: take it out", UserWarning, stacklevel=2)


# Bounds stand before the validator, so that they reach the JSON Schema.
Count = Annotated[int, Strict(), Field(ge=0), BeforeValidator(whole)]
Size = Annotated[int, Strict(), Field(ge=1), BeforeValidator(whole)]
Bits = Annotated[int, Strict(), Field(ge=2, le=8), BeforeValidator(whole)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Boolean = Annotated[bool, Strict()]
Percentile = Annotated[Number, Field(ge=0, le=100)]
LrMultiplier = Annotated[Number, Field(ge=0)]
Level = Annotated[Number, Field(ge=0, lt=1)]
Scope = Annotated[str, AfterValidator(_compiles)]
Scopes = Annotated[tuple[Scope, ...], BeforeValidator(as_array, json_schema_input_type=str | tuple[str, ...])]


def _name_or_levels(value: Any) -> str:
    return "<levels>" if isinstance(value, Mapping) else "<name>"


# How layers share in a level: by a rule with a name, or as said of each scope.
Distribution = Annotated[
    Annotated[Literal["uniform", "erk"], Tag("<name>")] | Annotated[dict[Scope, Level], Tag("<levels>")],
    Discriminator(_name_or_levels),
]


class Section(BaseModel):
    """An object of the config. Its fields are the keys it knows; an unknown one is an error that names the nearest."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    not_built: ClassVar[frozenset[str]] = frozenset()  # keys of NNCF 2.x that nncf_ext knows and cannot honour yet
    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})  # older spelling -> key
    without_effect: ClassVar[frozenset[str]] = frozenset()  # keys that NNCF itself dropped

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = cls._in_todays_spelling(data)
        for key in data:
            if key in cls.not_built:
                raise refusal("known, not built yet", key)
            if key not in cls.model_fields and cls.model_config.get("extra") == "forbid":
                close = nearest(str(key), cls.model_fields)
                advice = f"did you mean {close!r}?" if close else choose(key, cls.model_fields)
                raise refusal(f"unknown key, {advice}", str(key))
        return data

    @classmethod
    def _in_todays_spelling(cls, data: Mapping[Any, Any]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in data.items():
            if key in cls.without_effect:
                deprecated(f"the key {key!r} has no effect any more: take it out")
                continue
            name = cls.renamed.get(key, key)
            if name != key:
                if name in data:
                    raise refusal(f"the older spelling of {name!r}, which is given too: expected one of them", key)
                deprecated(f"the key {key!r} is called {name!r} now")
            found[name] = value
        return found


class ScopedConfig(Section):
    """What every section has that speaks about layers."""

    ignored_scopes: Scopes = ()
    """Nodes to leave alone: exact names, or regular expressions marked with {re} that are searched in the name."""

    target_scopes: Scopes | None = None
    """Nodes to look at, in the same notation; all where it is missing."""

    validate_scopes: Boolean = True
    """Whether a scope that matches no node is an error."""

    _json_path: str = PrivateAttr("")

    @property
    def json_path(self) -> str:
        """JSON path of this section in the config that it was read from; "" where it was made in Python."""
        return self._json_path

    def path(self, key: str = "") -> str:
        """JSON path of a key of this section (`params.bits`), for errors; the section's own without a key. An algorithm that was
        made in Python stands in no config: its name begins the path."""
        return ".".join(filter(None, (self.json_path or getattr(self, "algorithm", ""), key)))
