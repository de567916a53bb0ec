"""Whether RBAC filters let a request in, as Envoy's RBAC filter and gRFC A41 decide it.

Three answers: a condition is met, unmet, or cannot be told (None). What cannot be told fails closed: it is neither
enough for an ALLOW policy nor keeps a DENY policy from denying, however it is nested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from proxyless.engine.caller import Caller
from proxyless.engine.matching import header_matches, string_matches
from proxyless.engine.readings import as_text, decoded, is_ambiguous, resolved, unescaped
from proxyless.engine.request import Request
from proxyless.model.authorization import (
    Action,
    Address,
    All,
    Anything,
    Authenticated,
    Claim,
    Condition,
    Header,
    JsonKind,
    JsonMatcher,
    LocalPort,
    Not,
    Policy,
    Rbac,
    ServerName,
    Side,
    Some,
    Unknown,
    UrlPath,
)
from proxyless.model.matching import StringKind, StringMatcher
from proxyless.model.spiffe import SpiffeId

_ABSENT = object()


class Situation:
    """A request with what conditions ask of it. claims: what the JWT filter wrote.

    authority_known: False where the server does not tell which ``:authority`` was asked for.
    """

    __slots__ = ("authority_known", "caller", "claims", "path", "request")

    def __init__(
        self, request: Request, caller: Caller, claims: Mapping[str, Any] | None = None, authority_known: bool = True
    ) -> None:
        self.request = request
        self.caller = caller
        self.claims: Mapping[str, Any] = claims or {}
        self.authority_known = authority_known
        self.path = request.path_only


def denied_by(rbac: Rbac, situation: Situation) -> str | None:
    """The name of the policy that denies, "none" where no policy allows; None if the request may pass."""
    if rbac.action is Action.DENY:
        for policy in rbac.policies:
            if _met(policy, situation) is not False:
                return policy.name
        return None
    for policy in rbac.policies:
        if _met(policy, situation):
            return None
    return "none"


def _met(policy: Policy, situation: Situation) -> bool | None:
    # Who is asking is the cheaper question, and a request that is not certain in one part may be in the other.
    principal = holds(policy.principal, situation)
    if principal is False:
        return False
    permission = holds(policy.permission, situation)
    return False if permission is False else None if principal is None or permission is None else True


def holds(condition: Condition, situation: Situation) -> bool | None:
    """Whether a condition is met; None if that cannot be told."""
    return _HOLDS[type(condition)](condition, situation)


def _all(condition: All, situation: Situation) -> bool | None:
    answer: bool | None = True
    for part in condition.parts:
        found = _HOLDS[type(part)](part, situation)
        if found is False:
            return False
        if found is None:
            answer = None
    return answer


def _some(condition: Some, situation: Situation) -> bool | None:
    answer: bool | None = False
    for part in condition.parts:
        found = _HOLDS[type(part)](part, situation)
        if found:
            return True
        if found is None:
            answer = None
    return answer


def _not(condition: Not, situation: Situation) -> bool | None:
    found = _HOLDS[type(condition.part)](condition.part, situation)
    return None if found is None else not found


def _header(condition: Header, situation: Situation) -> bool | None:
    matcher, request = condition.matcher, situation.request
    name = matcher.name
    if name in (":authority", "host"):
        return header_matches(matcher, request) if situation.authority_known else None
    if name == ":path":
        return header_matches(matcher, request) if not is_ambiguous(request.path) else _path_header(condition, request)
    if all(value.isascii() for value in request.values(name)):
        return header_matches(matcher, request)
    # Lines are decoded as latin-1, matchers are written in UTF-8.
    lines = [(key, as_text(value)) for key, value in request.headers if key == name]
    is_regex = isinstance(matcher.value, StringMatcher) and matcher.value.kind is StringKind.REGEX
    if is_regex and any("\udc80" <= letter <= "\udcff" for _, text in lines for letter in text):
        # RE2 matches no byte that is not UTF-8: such a line could hide from a pattern (CVE-2026-73552).
        return None
    return header_matches(matcher, Request(request.method, request.target, request.path, headers=lines))


def _path_header(condition: Header, request: Request) -> bool | None:
    plain = header_matches(condition.matcher, request)
    path, mark, query = request.path.partition("?")
    other = Request(request.method, request.target, decoded(path) + mark + query)
    return plain if header_matches(condition.matcher, other) is plain else None


def _url_path(condition: UrlPath, situation: Situation) -> bool | None:
    matcher, path = condition.matcher, situation.path
    found = string_matches(matcher, path)
    if not is_ambiguous(path):
        return found
    # Applications are given the decoded path: what they may take it for must come to the same.
    other = string_matches(matcher, resolved(path)) or _decoded_matches(matcher, decoded(path))
    return found if other is found else None


def _decoded_matches(matcher: StringMatcher, path: str) -> bool:
    if string_matches(matcher, path):
        return True
    if matcher.kind is StringKind.REGEX or "%" not in matcher.value:
        return False
    return string_matches(StringMatcher(matcher.kind, unescaped(matcher.value), matcher.ignore_case), path)


def _address(condition: Address, situation: Situation) -> bool | None:
    caller = situation.caller
    found = _ip(caller.local if condition.side is Side.LOCAL else caller.remote)
    return None if found is None else found in condition.network


def _local_port(condition: LocalPort, situation: Situation) -> bool | None:
    port = situation.caller.local.rpartition(":")[2]
    return condition.first <= int(port) < condition.end if port.isdecimal() and port.isascii() else None


@lru_cache(maxsize=1024)
def _ip(address: str) -> IPv4Address | IPv6Address | None:
    """The address in ``host:port``; an IPv4 address that a dual-stack socket writes as IPv6 is an IPv4 one."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        found = ip_address(host)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _server_name(condition: ServerName, situation: Situation) -> bool | None:
    caller = situation.caller
    name = "" if caller.tls is False else caller.server_name
    return None if name is None else string_matches(condition.matcher, name)


def _authenticated(condition: Authenticated, situation: Situation) -> bool | None:
    caller = situation.caller
    if not caller.tls:
        return False
    # gRFC A41: DNS names count only in a certificate without a URI, and those of the mesh have one.
    return condition.name is None or string_matches(condition.name, _principal(caller.peer))


@lru_cache(maxsize=1024)
def _principal(peer: SpiffeId | None) -> str:
    return "" if peer is None else str(peer)


def _claim(condition: Claim, situation: Situation) -> bool:
    value: Any = situation.claims
    for key in condition.path:
        value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return _json(condition.value, value) is not condition.invert


def _json(matcher: JsonMatcher, value: Any) -> bool:
    match matcher.kind:
        case JsonKind.STRING:
            return isinstance(value, str) and matcher.text is not None and string_matches(matcher.text, value)
        case JsonKind.ONE_OF:
            return isinstance(value, list) and any(_json(matcher.parts[0], one) for one in value)
        case JsonKind.ANY_OF:
            return any(_json(part, value) for part in matcher.parts)
        case JsonKind.NULL:
            return value is None
        case JsonKind.PRESENT:
            return value is not _ABSENT
        case JsonKind.BOOL:
            return value is matcher.flag
        case JsonKind.NUMBER:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            first, end = matcher.number
            return value == first if first == end else first <= value < end
        case _:
            return False


def _true(condition: Condition, situation: Situation) -> bool | None:
    return True


def _unknown(condition: Condition, situation: Situation) -> bool | None:
    return None


_HOLDS: dict[type[Any], Callable[[Any, Situation], bool | None]] = {
    All: _all,
    Some: _some,
    Not: _not,
    Anything: _true,
    Unknown: _unknown,
    Header: _header,
    UrlPath: _url_path,
    Address: _address,
    LocalPort: _local_port,
    ServerName: _server_name,
    Authenticated: _authenticated,
    Claim: _claim,
}
