"""Any document that a kind's model allows, derived from its fields: a field that is added is tried without a word here.

What a type cannot say (that a text is a host, a regex, a header) is said by field in ``valid_worlds``.
"""

import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from proxyless.control_plane.resources.base import (
    Boolean,
    Duration,
    Int32,
    IntOrString,
    Number,
    Port,
    Spec,
    Text,
    UInt32,
    format_duration,
)

DURATIONS = st.sampled_from([0.001, 0.25, 1.0, 15.0, 3600.0, 90_000_000.0]).map(format_duration)
_BASIC: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Text, st.sampled_from(["", "a", "default"])),
    (Boolean, st.booleans()),
    (Duration, DURATIONS),
    (Port, st.sampled_from([80, 81, 9080, 65535])),
    (Int32, st.sampled_from([0, 1, 50, 100, 2**31 - 1])),
    (UInt32, st.sampled_from([0, 1, 2, 1024, 2**32 - 1])),
    (Number, st.sampled_from([0, 0.0001, 0.5, 1, 33.3, 100])),
    (IntOrString, st.sampled_from([80, 9080, "http"])),
]


@dataclass(frozen=True)
class Hints:
    """What the types do not say. fields: by what a field is filled. always: fields that are there although they need
    not be. either: fields of which there may be one.
    """

    fields: Mapping[tuple[type[Spec], str], st.SearchStrategy[Any]]
    always: Collection[tuple[type[Spec], str]] = ()
    either: Mapping[type[Spec], Sequence[Collection[str]]] = field(default_factory=dict)


def message(model: type[Spec], hints: Hints) -> st.SearchStrategy[dict[str, Any]]:
    """Documents of a model in their YAML form: required fields and some of the others."""
    types_of = get_type_hints(model, include_extras=True)
    parts = {
        name: hints.fields[model, name] if (model, name) in hints.fields else of_type(types_of[name], hints)
        for name in model.model_fields
    }
    first = [name for name, each in model.model_fields.items() if each.is_required()]
    last = [name for name in parts if (model, name) in hints.always]
    optional = sorted(parts.keys() - first)
    alias = {name: str(each.alias or name) for name, each in model.model_fields.items()}
    rivals = {name: [group for group in hints.either.get(model, ()) if name in group] for name in parts}
    choice = st.sampled_from(optional) if optional else None

    @st.composite
    def draw_message(draw: st.DrawFn) -> dict[str, Any]:
        # Few of them at a time: rules that exclude each other would leave nothing of a large message.
        chosen = [draw(choice) for _ in range(min(len(optional), 4))] if choice is not None else []
        kept: list[str] = []
        for name in dict.fromkeys((*first, *chosen, *last)):
            if not any(other in group for group in rivals[name] for other in kept):
                kept.append(name)
        return {alias[name]: draw(parts[name]) for name in kept}

    return draw_message()


def of_type(hint: Any, hints: Hints) -> st.SearchStrategy[Any]:
    for basic, strategy in _BASIC:
        if hint == basic:
            return strategy
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded(hint)
    if origin in (Union, types.UnionType):
        (only,) = [each for each in arguments if each is not type(None)]
        return of_type(only, hints)
    if origin is tuple:
        return st.lists(of_type(arguments[0], hints), min_size=1, max_size=2)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(
            of_type(arguments[0], hints).map(str), of_type(arguments[1], hints), min_size=1, max_size=2
        )
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from([each.value for each in hint])
    if isinstance(hint, type) and issubclass(hint, Spec):
        return st.deferred(lambda: message(hint, hints))
    raise TypeError(f"no strategy for {hint}; add one")


def _bounded(hint: Any) -> st.SearchStrategy[Any]:
    """A basic type that a field narrows further."""
    bounds: list[Any] = []
    for each in get_args(hint)[1:]:
        bounds += each.metadata if isinstance(each, FieldInfo) else [each]
    for basic, strategy in _BASIC:
        if get_args(basic) and get_args(hint)[: len(get_args(basic))] == get_args(basic):
            return strategy.filter(lambda value: all(_holds(bound, value) for bound in bounds))
    raise TypeError(f"no strategy for {hint}; add one")


def _holds(bound: Any, value: Any) -> bool:
    match bound:
        case Ge():
            return bool(value >= bound.ge)
        case Gt():
            return bool(value > bound.gt)
        case Le():
            return bool(value <= bound.le)
        case Lt():
            return bool(value < bound.lt)
    return True
