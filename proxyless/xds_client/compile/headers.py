"""Header mutations: core.v3.HeaderValueOption and the lists of names to remove."""

from collections.abc import Iterable
from typing import Any

from proxyless.model.route import HeaderAction, HeaderMutations, HeaderSet
from proxyless.xds_client.compile.decode import FieldError

_ACTIONS = {
    0: HeaderAction.APPEND,
    1: HeaderAction.ADD_IF_ABSENT,
    2: HeaderAction.OVERWRITE,
    3: HeaderAction.OVERWRITE_IF_EXISTS,
}
# RFC 9110 section 5.5: what a field value must not contain, lest one header become two.
_FORBIDDEN = ("\r", "\n", "\0")


def mutations(message: Any, side: str, ignored: list[str], what: str) -> HeaderMutations:
    """``side`` is ``request`` or ``response``: the fields ``SIDE_headers_to_add`` and ``SIDE_headers_to_remove``."""
    field = f"{what}.{side}_headers_to"
    added = sets(getattr(message, f"{side}_headers_to_add"), ignored, f"{field}_add")
    removes = tuple(name.lower() for name in getattr(message, f"{side}_headers_to_remove"))
    for name in removes:
        # Envoy refuses the same: a route is chosen by them.
        if name.startswith(":") or name == "host":
            raise FieldError(f"{field}_remove: {name!r} cannot be removed")
    return HeaderMutations(added, removes)


def sets(options: Iterable[Any], ignored: list[str], what: str) -> tuple[HeaderSet, ...]:
    """A list of core.v3.HeaderValueOption."""
    compiled = (_option(option, ignored, f"{what}[{index}]") for index, option in enumerate(options))
    return tuple(one for one in compiled if one is not None)


def _option(option: Any, ignored: list[str], what: str) -> HeaderSet | None:
    name, value = option.header.key.lower(), option.header.value
    if not value and option.header.raw_value:
        value = option.header.raw_value.decode("latin-1")
    if not name or any(character in name for character in ("\r", "\n", "\0", " ")):
        raise FieldError(f"{what}: {name!r} is not a header name")
    if any(character in value for character in _FORBIDDEN):
        raise FieldError(f"{what}: the value of {name!r} contains a line break")
    if name.startswith(":") and name not in (":authority", ":path", ":method", ":scheme"):
        raise FieldError(f"{what}: {name!r} is not a header name")
    literal = _literal(value)
    if literal is None:
        ignored.append(f"{what}: {name} uses a command operator (%...%), which is not supported")
        return None
    if not literal and not option.keep_empty_value:
        return None  # Envoy: an empty value is not added unless keep_empty_value
    action = _ACTIONS.get(int(option.append_action))
    if action is None:
        ignored.append(f"{what}.append_action {int(option.append_action)}")
        return None
    if option.HasField("append"):  # the deprecated form: true appends, false overwrites
        action = HeaderAction.APPEND if option.append.value else HeaderAction.OVERWRITE
    return HeaderSet(name, literal, action)


def _literal(value: str) -> str | None:
    """Envoy's formatter: ``%%`` is a percent sign, any other ``%`` starts a command, which we do not know (None)."""
    if "%" not in value:
        return value
    return None if "%" in value.replace("%%", "") else value.replace("%%", "%")
