"""The one error for a mistake in a config: where it is, what was found, what was expected, the nearest valid name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

Model = TypeVar("Model", bound=BaseModel)

_SHOWN = 60  # characters of a value in a message
_LONGEST_NAME = 1000  # that is compared with others, which takes quadratic time

# What pydantic's error types expected, in JSON's words.
_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "an array",
    "too_short": "a longer array",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


class ConfigError(ValueError):
    """A mistake in a config, in one sentence."""


def json_path(location: Iterable[str | int]) -> str:
    """`("compression", 0, "initializer")` -> `compression[0].initializer`; "top level" for the empty location."""
    path = ""
    for step in location:
        if type(step) is int:
            path += f"[{step}]"
        elif isinstance(step, str) and len(step) <= _SHOWN and re.fullmatch(r"[A-Za-z_]\w*", step):
            path += f".{step}" if path else step
        else:
            path += f"[{as_json(step)}]"
    return path or "top level"


def as_json(value: Any) -> str:
    """`value` as JSON writes it, shortened."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > _SHOWN:
            return f"{text[: _SHOWN - 3]}..."
    return text


def _pieces(value: Any) -> Iterator[str]:
    """`value` as JSON, bit by bit, so that what is long or in itself is not looked at whole: each level writes first."""
    if isinstance(value, str):
        yield json.dumps(value[: _SHOWN + 1], ensure_ascii=False)
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        yield f"a whole number of {value.bit_length()} bits"
    elif isinstance(value, Mapping):
        yield "{"
        for index, (key, item) in enumerate(value.items()):
            yield ", " * (index > 0)
            yield from _pieces(key if isinstance(key, str) else str(key)[:_SHOWN])
            yield ": "
            yield from _pieces(item)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for index, item in enumerate(value):
            yield ", " * (index > 0)
            yield from _pieces(item)
        yield "]"
    else:
        yield json.dumps(value, default=repr, ensure_ascii=False, skipkeys=True)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is most like `name`, if any is."""
    if len(name) > _LONGEST_NAME:
        return None
    folded = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), folded, n=1)
    return folded[close[0]] if close else None


def choose(name: Any, names: Iterable[str]) -> str:
    """What to write instead of `name`: "expected one of a, b; did you mean 'a'?"."""
    names = list(names)
    sentence = f"expected {names[0]}" if len(names) == 1 else f"expected one of {', '.join(names)}"
    close = nearest(name, names) if isinstance(name, str) else None
    return f"{sentence}; did you mean {close!r}?" if close else sentence


def refusal(sentence: str, *keys: str) -> PydanticCustomError:
    """For validators of config models: `sentence` is about the value itself, or about what `keys` lead to in it."""
    return PydanticCustomError("refused", "{sentence}", {"sentence": sentence, "keys": list(keys)})


def parse(model: type[Model], data: Any, location: tuple[str | int, ...] = ()) -> Model:
    """`data` as a `model`; ConfigError about the outermost mistake otherwise. `location` is where `data` stands in the file."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{json_path(location)}: found {as_json(data)}, expected an object")
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        details: list[Any] = error.errors(include_url=False)
    outermost = min(details, key=lambda detail: len(detail["loc"]))
    raise ConfigError(sentence(location, outermost))


def sentence(location: tuple[str | int, ...], detail: Mapping[str, Any]) -> str:
    """A mistake that pydantic found in what stands at `location`."""
    location += tuple(step for step in detail["loc"] if not re.fullmatch(r"<\w+>|\[key\]", str(step)))  # pydantic's own steps
    kind, found, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "refused":
        return f"{json_path((*location, *context['keys']))}: {context['sentence']}"
    if kind == "missing":
        return f"{json_path(location[:-1])}: the key {location[-1]!r} is missing, it is required here"
    if kind == "literal_error":
        expected = choose(found, re.findall(r"'([^']*)'", context["expected"]))
    else:
        expected = f"expected {_EXPECTED.get(kind) or detail['msg'].removeprefix('Input should be ')}"
    return f"{json_path(location)}: found {as_json(found)}, {expected}"
