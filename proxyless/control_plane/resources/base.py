"""What every spec model shares: field names, leniencies of protobuf's JSON form, and the API's few basic types."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictStr,
    ValidationInfo,
    model_validator,
)

# Validation context of a document that somebody wrote, as against a model built in Python.
DOCUMENT = "document"

_DURATION = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+\Z")
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# google.protobuf.Duration: about 10,000 years.
_LONGEST = 315_576_000_000.0


def camel(name: str) -> str:
    """The JSON name of a protobuf field: ``consecutive_5xx_errors`` -> ``consecutive5xxErrors``."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


class Spec(BaseModel):
    """A frozen message of the API. Attributes are snake_case, YAML is camelCase; a null field is an absent field."""

    model_config = ConfigDict(
        alias_generator=camel,
        validate_by_alias=True,
        validate_by_name=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict) and None in data.values():
            return {key: value for key, value in data.items() if value is not None}
        return data


def parse_duration(text: str) -> float:
    """Go's duration form (``1.5h``, ``1m30s``, ``10ms``) in seconds; raises ValueError for anything else."""
    if text in {"0", "+0", "-0"}:
        return 0.0
    if len(text) > 64 or not _DURATION.match(text):
        raise ValueError('not a duration; write a number with its unit, such as "10s", "250ms" or "1m30s"')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds > _LONGEST:
        raise ValueError("a duration longer than 10000 years")
    return -seconds if text.startswith("-") else seconds


def format_duration(seconds: float) -> str:
    """Seconds in the form protobuf's JSON has: ``10s``, ``0.25s``."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _duration(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        return parse_duration(value)
    if info.context == DOCUMENT:
        raise ValueError('a duration needs a unit; write it as a text such as "10s"')
    return value


def _integer(value: Any) -> Any:
    """protobuf's JSON form writes int64 as a text, and any integer may be written as 5.0 or 5e0."""
    if isinstance(value, bool):
        raise ValueError("must be an integer, not true or false")
    if isinstance(value, str):
        if not re.fullmatch(r"-?[0-9]{1,19}", value):
            raise ValueError("must be an integer")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise ValueError("must be an integer")
        return int(value)
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _int_or_string(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a port number or a port name")
    return value


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        said = str(value).lower()
        raise ValueError(
            f"must be a text; write it in quotes, for YAML reads yes, no, on and off as well as {said} as one"
        )
    if isinstance(value, int | float):
        raise ValueError(f'must be a text; write "{value}" in quotes')
    return value


Text = Annotated[StrictStr, BeforeValidator(_text)]
Boolean = StrictBool
Int32 = Annotated[int, BeforeValidator(_integer), Field(ge=-(2**31), lt=2**31)]
UInt32 = Annotated[int, BeforeValidator(_integer), Field(ge=0, lt=2**32)]
Port = Annotated[int, BeforeValidator(_integer), Field(ge=1, le=65535)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
IntOrString = Annotated[int | str, BeforeValidator(_int_or_string)]
# Seconds. In YAML Go's form; in Python a number does too.
Duration = Annotated[
    float, BeforeValidator(_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]


def one_of(message: Spec, *names: str) -> None:
    """A protobuf ``oneof``: raises ValueError when more than one of the fields is there."""
    present = [camel(name) for name in names if getattr(message, name) is not None]
    if len(present) > 1:
        raise ValueError(f"only one of {', '.join(map(camel, names))} may be set, found {' and '.join(present)}")


class StringMatch(Spec):
    """Istio's StringMatch: at most one of the three; none of them asks for presence (headers, query parameters)."""

    exact: Text | None = None
    prefix: Text | None = None
    regex: Text | None = None

    @model_validator(mode="after")
    def _oneof(self) -> Self:
        one_of(self, "exact", "prefix", "regex")
        return self

    @property
    def is_presence(self) -> bool:
        return self.exact is None and self.prefix is None and self.regex is None


class Percent(Spec):
    """0.0 to 100.0. An absent value is 0, as in protobuf."""

    value: Number = 0.0


class PortSelector(Spec):
    number: Port


class WorkloadSelector(Spec):
    """Istio's type.v1beta1.WorkloadSelector (PeerAuthentication, DestinationRule)."""

    match_labels: Mapping[Text, Text] = {}


class PolicyTargetReference(Spec):
    """Istio's type.v1beta1.PolicyTargetReference: a gateway, or what a waypoint stands before."""

    group: Text = ""
    kind: Text = ""
    name: Text = ""
    namespace: Text = ""


class NetworkingWorkloadSelector(Spec):
    """Istio's networking.v1alpha3.WorkloadSelector (ServiceEntry, Sidecar): ``labels``, not ``matchLabels``."""

    labels: Mapping[Text, Text] = {}
