"""What every compiler needs: refusing, unpacking an Any, and protobuf's durations and fractions as plain numbers."""

from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from proxyless.model.errors import ProxylessError

M = TypeVar("M", bound=Message)

MILLION = 1_000_000
# FractionalPercent.DenominatorType -> what a numerator of one is worth in parts per million.
_WORTH = {0: 10_000, 1: 100, 2: 1}
# google.protobuf.Duration holds 10 000 years; nobody waits for more than a year.
_LONGEST = 366 * 86_400.0


class InvalidResource(ProxylessError):
    """An xDS resource cannot be used as it is: it is NACKed, and the last good version stays (gRFC A46).

    name: of the resource, "" when not even that could be read. message: the field and why.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name or '(unnamed resource)'}: {message}")
        self.name = name
        self.message = message


class FieldError(ProxylessError):
    """A field that makes its resource unusable; whoever knows the resource's name turns it into ``InvalidResource``."""


def parse(message_type: type[M], data: bytes, what: str) -> M:
    try:
        return message_type.FromString(data)
    except DecodeError as error:
        raise FieldError(f"{what} is not a valid {message_type.DESCRIPTOR.full_name}: {error}") from error


def is_a(any_message: Any, message_type: type[Message]) -> bool:
    return bool(any_message.type_url.rpartition("/")[2] == message_type.DESCRIPTOR.full_name)


def unpack(any_message: Any, message_type: type[M], what: str) -> M:
    """The message in a google.protobuf.Any, which must be of this type."""
    if not is_a(any_message, message_type):
        raise FieldError(
            f"{what} is a {any_message.type_url or 'message without type_url'}, "
            f"where only {message_type.DESCRIPTOR.full_name} is supported"
        )
    return parse(message_type, any_message.value, what)


def has_unknown(message: Message) -> bool:
    """Whether a field of a newer API is set: a matcher may then be narrower than it looks."""
    return len(UnknownFieldSet(message)) > 0


def set_fields(message: Any, names: tuple[str, ...], what: str = "") -> list[str]:
    """Those of the fields that are set, as ``WHAT.FIELD``: for reports of what is not acted on."""
    prefix = f"{what}." if what else ""
    fields = message.DESCRIPTOR.fields_by_name
    found = [
        name for name in names if (message.HasField(name) if fields[name].has_presence else getattr(message, name))
    ]
    return [prefix + name for name in found]


def seconds(duration: Any, what: str) -> float:
    """A google.protobuf.Duration, which must not be negative."""
    value = float(duration.seconds) + float(duration.nanos) / 1e9
    if value < 0:
        raise FieldError(f"{what} must not be negative, not {value:g} s")
    return min(value, _LONGEST)


def parts_per_million(fraction: Any) -> int:
    """A type.v3.FractionalPercent; more than all is all (Envoy), a denominator we do not know is nothing."""
    return min(int(fraction.numerator) * _WORTH.get(int(fraction.denominator), 0), MILLION)


def text_map(struct: Any, prefix: str = "") -> dict[str, str]:
    """The text values of a google.protobuf.Struct, one level deep."""
    return {prefix + key: value.string_value for key, value in struct.fields.items() if value.HasField("string_value")}
