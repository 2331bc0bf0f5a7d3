"""What data from files have to look like: pydantic classes, and their mistakes as one sentence."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nncf_ext.errors import sentence
from nncf_ext.files.json_text import Unreadable

Shape = TypeVar("Shape")

Finite = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1, lt=1 << 53)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class Saved(BaseModel):
    """Data that we wrote: types as they were written, nothing that we do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def expect(shape: type[Shape] | TypeAdapter[Shape], data: Any) -> Shape:
    """`data` as `shape`: a pydantic class or adapter. Unreadable with the outermost mistake where it is none."""
    adapter = shape if isinstance(shape, TypeAdapter) else TypeAdapter(shape)
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        outermost = min(error.errors(include_url=False), key=lambda detail: len(detail["loc"]))
    except RecursionError:
        raise Unreadable("found arrays or objects nested too deeply") from None
    raise Unreadable(sentence((), outermost))
