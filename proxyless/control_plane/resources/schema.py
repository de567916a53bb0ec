"""A document's data against its model: pydantic's findings in the words of the person who wrote the document."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxyless.control_plane.resources.base import DOCUMENT, Spec
from proxyless.control_plane.resources.paths import child

# A document with a thousand faults is as unclear as one without a message.
_MOST_FAULTS = 20

_EXPECTED = {
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
}

# (code, path, message)
Fault = tuple[str, str, str]


def validate(model: type[Spec], data: Any, root: str) -> tuple[Spec | None, list[Fault]]:
    """The typed spec, or what is wrong with it. ``root`` is the path of ``data`` in the document."""
    try:
        return model.model_validate(data, context=DOCUMENT, by_alias=True, by_name=False), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        faults = [_fault(model, detail, root) for detail in details[:_MOST_FAULTS]]
        return None, faults
    except RecursionError:
        return None, [("SchemaValidationError", root, "is nested too deeply")]


def _fault(model: type[Spec], detail: ErrorDetails, root: str) -> Fault:
    path = root
    for step in detail["loc"]:
        # pydantic marks a faulty mapping key so.
        if step != "[key]":
            path = child(path, step)
    match detail["type"]:
        case "extra_forbidden":
            return "UnknownField", path, _unknown(model, detail["loc"])
        case "missing":
            return "SchemaValidationError", path, "is required"
        case "enum":
            return "SchemaValidationError", path, f"must be one of {detail.get('ctx', {}).get('expected', '')}"
        case "greater_than_equal" | "less_than_equal" | "greater_than" | "less_than":
            message = detail["msg"].replace("Input should be", "must be")
            return "SchemaValidationError", path, message
        case "value_error":
            return "SchemaValidationError", path, detail["msg"].removeprefix("Value error, ")
        case known:
            return "SchemaValidationError", path, _EXPECTED.get(known, detail["msg"].replace("Input should", "should"))


def _unknown(model: type[Spec], location: Sequence[int | str]) -> str:
    parent = _model_at(model, location[:-1])
    known = [field.alias or name for name, field in parent.model_fields.items()] if parent else []
    written = str(location[-1])
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(written.lower().replace("_", ""), lowered, n=1, cutoff=0.6)
    if close:
        return f"unknown field; did you mean {lowered[close[0]]}?"
    return f"unknown field; known here: {', '.join(sorted(known))}" if known else "unknown field"


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """The model whose field the last step of a location is in."""
    current: Any = model
    for step in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            found = [f.annotation for name, f in current.model_fields.items() if step in (f.alias, name)]
            current = found[0] if found else None
        else:
            current = _element(current)
        current = _bare(current)
        if current is None:
            return None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """Without ``Annotated`` and ``| None``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        return _bare(rest[0]) if len(rest) == 1 else None
    return annotation


def _element(annotation: Any) -> Any:
    """What a container holds."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is tuple and args:
        return args[0]
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
        return args[1]
    return None


def fields_set(message: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every field that a document sets, as (its path, its path without list indexes and map keys), parents first."""
    yield from _set(message, path, path)


def _set(value: Any, path: str, pattern: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name in value.model_fields_set:
                alias = type(value).model_fields[name].alias or name
                here, shape = child(path, alias), child(pattern, alias)
                yield here, shape
                yield from _set(getattr(value, name), here, shape)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _set(item, child(path, index), pattern)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _set(item, child(path, str(key)), pattern)
