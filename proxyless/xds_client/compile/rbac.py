"""RBAC filters (gRFC A41, Envoy's extensions.filters.http.rbac.v3.RBAC and its network counterpart).

What Envoy refuses is refused. What Envoy knows and we do not (CEL conditions, matcher trees, URI templates, metadata of
other filters ...) becomes ``Unknown`` and is reported: it never allows, and always denies.
"""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

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
from proxyless.model.matching import NEVER, StringMatcher
from proxyless.xds_client.compile import matching
from proxyless.xds_client.compile.decode import FieldError, has_unknown

JWT = "envoy.filters.http.jwt_authn"
# Bounds on what a control plane may make us evaluate for each request.
MAX_DEPTH = 32
MAX_CONDITIONS = 20_000

_ALLOW, _DENY, _LOG = 0, 1, 2


class _Compiler:
    """One filter. trusts_forwarded: the connection manager takes the remote address from somewhere else (gRFC A41)."""

    def __init__(self, ignored: list[str], trusts_forwarded: bool) -> None:
        self._ignored = ignored
        self._trusts_forwarded = trusts_forwarded
        self._left = MAX_CONDITIONS

    def unknown(self, what: str) -> Unknown:
        self._ignored.append(f"{what} is not supported: it never allows, and always denies")
        return Unknown(what)

    def any_of(self, rules: Any, what: str, depth: int, one: "_One") -> Condition:
        if not rules:
            raise FieldError(f"{what} is empty: it needs at least one")
        parts = tuple(one(rule, f"{what}[{index}]", depth + 1) for index, rule in enumerate(rules))
        return parts[0] if len(parts) == 1 else Some(parts)

    def all_of(self, rules: Any, what: str, depth: int, one: "_One") -> Condition:
        if not rules:
            raise FieldError(f"{what} is empty: it needs at least one")
        parts = tuple(one(rule, f"{what}[{index}]", depth + 1) for index, rule in enumerate(rules))
        return parts[0] if len(parts) == 1 else All(parts)

    def permission(self, rule: Any, what: str, depth: int) -> Condition:
        kind = self._enter(rule, "rule", what, depth)
        where = f"{what}.{kind}"
        match kind:
            case "and_rules":
                return self.all_of(rule.and_rules.rules, f"{where}.rules", depth, self.permission)
            case "or_rules":
                return self.any_of(rule.or_rules.rules, f"{where}.rules", depth, self.permission)
            case "not_rule":
                return Not(self.permission(rule.not_rule, where, depth + 1))
            case "destination_ip":
                return _network(rule.destination_ip, Side.LOCAL, where)
            case "destination_port":
                if rule.destination_port > 65535:
                    raise FieldError(f"{where} must be at most 65535, not {rule.destination_port}")
                return LocalPort(rule.destination_port, rule.destination_port + 1)
            case "destination_port_range":
                first, end = rule.destination_port_range.start, rule.destination_port_range.end
                if not 0 <= first < end <= 65536:
                    raise FieldError(f"{where} must be 0 <= start < end <= 65536, not {first} and {end}")
                return LocalPort(first, end)
            case "requested_server_name":
                return self._text(rule.requested_server_name, where, ServerName)
            case _:
                return self._common(kind, rule, what)

    def principal(self, rule: Any, what: str, depth: int) -> Condition:
        kind = self._enter(rule, "identifier", what, depth)
        where = f"{what}.{kind}"
        match kind:
            case "and_ids":
                return self.all_of(rule.and_ids.ids, f"{where}.ids", depth, self.principal)
            case "or_ids":
                return self.any_of(rule.or_ids.ids, f"{where}.ids", depth, self.principal)
            case "not_id":
                return Not(self.principal(rule.not_id, where, depth + 1))
            case "authenticated":
                if has_unknown(rule.authenticated):
                    return self.unknown(where)
                if not rule.authenticated.HasField("principal_name"):
                    return Authenticated()
                return self._text(rule.authenticated.principal_name, f"{where}.principal_name", Authenticated)
            case "remote_ip" if self._trusts_forwarded:
                return self.unknown(where)
            case "source_ip" | "direct_remote_ip" | "remote_ip":
                return _network(getattr(rule, kind), Side.REMOTE, where)
            case _:
                return self._common(kind, rule, what)

    def _enter(self, rule: Any, oneof: str, what: str, depth: int) -> str:
        """The kind of a rule, "" if it is one of a newer API."""
        self._left -= 1
        if self._left < 0:
            raise FieldError(f"{what}: more than {MAX_CONDITIONS} conditions in one filter")
        if depth > MAX_DEPTH:
            raise FieldError(f"{what}: conditions are nested deeper than {MAX_DEPTH}")
        if has_unknown(rule):
            return ""
        kind: str | None = rule.WhichOneof(oneof)
        if kind is None:
            raise FieldError(f"{what} is empty: it needs a condition")
        return kind

    def _common(self, kind: str, rule: Any, what: str) -> Condition:
        where = f"{what}.{kind}" if kind else f"{what}: a field of a newer API"
        match kind:
            case "any":
                if not rule.any:
                    raise FieldError(f"{where} must be true")
                return Anything()
            case "header":
                compiled = matching.header(rule.header, where)
                # gRFC A41: what gRPC's own headers say is not the same for each implementation.
                if compiled.value == NEVER or compiled.name.startswith("grpc-"):
                    return self.unknown(f"{where} ({compiled.name})")
                return Header(compiled)
            case "url_path":
                if has_unknown(rule.url_path):
                    return self.unknown(where)
                if rule.url_path.WhichOneof("rule") is None:
                    raise FieldError(f"{where} has no path")
                return self._text(rule.url_path.path, f"{where}.path", UrlPath)
            case "metadata":
                return self._metadata(rule.metadata, where)
            case "sourced_metadata" if (
                not has_unknown(rule.sourced_metadata) and rule.sourced_metadata.metadata_source == 0
            ):
                return self._metadata(rule.sourced_metadata.metadata_matcher, f"{where}.metadata_matcher")
            case _:
                return self.unknown(where)

    def _text(self, message: Any, where: str, make: Callable[[StringMatcher], Condition]) -> Condition:
        matcher = matching.string(message, where)
        return self.unknown(where) if matcher == NEVER else make(matcher)

    def _metadata(self, message: Any, where: str) -> Condition:
        if not message.filter:
            raise FieldError(f"{where}.filter is empty")
        if not message.path:
            raise FieldError(f"{where}.path is empty")
        if not message.HasField("value"):
            raise FieldError(f"{where}.value is missing")
        if message.filter != JWT:
            return self.unknown(f"{where} of filter {message.filter}")
        value = _json(message.value, f"{where}.value", 0)
        if value is None or has_unknown(message) or any(not segment.key for segment in message.path):
            return self.unknown(where)
        return Claim(tuple(segment.key for segment in message.path), value, bool(message.invert))


_One = Callable[[Any, str, int], Condition]


def rbac(message: Any, ignored: list[str], what: str, *, trusts_forwarded: bool = False) -> Rbac | None:
    """An RBAC filter's configuration, of HTTP or of the network; None if it enforces nothing."""
    for field in ("shadow_rules", "shadow_matcher"):
        if message.HasField(field):
            ignored.append(f"{what}.{field}")
    if message.HasField("matcher") or has_unknown(message):
        field = "matcher" if message.HasField("matcher") else "a field of a newer API"
        ignored.append(f"{what}.{field} is not supported: everything is denied")
        return Rbac(Action.ALLOW)
    if not message.HasField("rules"):
        return None
    return _rules(message.rules, ignored, f"{what}.rules", trusts_forwarded)


def _rules(message: Any, ignored: list[str], what: str, trusts_forwarded: bool) -> Rbac | None:
    if message.HasField("audit_logging_options"):
        ignored.append(f"{what}.audit_logging_options")
    if message.action == _LOG:
        ignored.append(f"{what}: action LOG")  # gRFC A41: as if it were not there
        return None
    if message.action not in (_ALLOW, _DENY):
        ignored.append(f"{what}.action {message.action} is not supported: everything is denied")
        return Rbac(Action.ALLOW)
    compiler = _Compiler(ignored, trusts_forwarded)
    if has_unknown(message):
        ignored.append(f"{what}: a field of a newer API is not supported: everything is denied")
        return Rbac(Action.ALLOW)
    policies = []
    for name in sorted(message.policies):  # Envoy's order
        policy, where = message.policies[name], f"{what}.policies[{name}]"
        permission = compiler.any_of(policy.permissions, f"{where}.permissions", 0, compiler.permission)
        principal = compiler.any_of(policy.principals, f"{where}.principals", 0, compiler.principal)
        for field in ("condition", "checked_condition"):
            if policy.HasField(field):
                permission = All((permission, compiler.unknown(f"{where}.{field}")))
        if has_unknown(policy):
            permission = All((permission, compiler.unknown(f"{where}: a field of a newer API")))
        policies.append(Policy(name, permission, principal))
    return Rbac(Action.DENY if message.action == _DENY else Action.ALLOW, tuple(policies))


def _network(message: Any, side: Side, where: str) -> Condition:
    try:
        # Envoy: an absent prefix_len is 0, a longer one than the address has bits is all of them.
        address = ip_network(message.address_prefix)
        length = message.prefix_len.value
        if length > 128:
            raise ValueError("prefix_len must be at most 128")
        return Address(side, ip_network((message.address_prefix, min(length, address.max_prefixlen)), strict=False))
    except ValueError as error:
        raise FieldError(f"{where} is not an address range: {error}") from error


def _json(message: Any, where: str, depth: int) -> JsonMatcher | None:
    """A type.matcher.v3.ValueMatcher; None for one that is not supported."""
    if depth > MAX_DEPTH:
        raise FieldError(f"{where}: values are nested deeper than {MAX_DEPTH}")
    if has_unknown(message):
        return None
    match message.WhichOneof("match_pattern"):
        case "null_match":
            return JsonMatcher(JsonKind.NULL)
        case "bool_match":
            return JsonMatcher(JsonKind.BOOL, flag=bool(message.bool_match))
        case "present_match":
            return JsonMatcher(JsonKind.PRESENT if message.present_match else JsonKind.NEVER)
        case "string_match":
            text = matching.string(message.string_match, f"{where}.string_match")
            return None if text == NEVER else JsonMatcher(JsonKind.STRING, text=text)
        case "double_match":
            return _number(message.double_match, where)
        case "list_match" if message.list_match.WhichOneof("match_pattern") == "one_of":
            part = _json(message.list_match.one_of, f"{where}.list_match.one_of", depth + 1)
            return None if part is None else JsonMatcher(JsonKind.ONE_OF, parts=(part,))
        case "or_match":
            parts: list[JsonMatcher] = []
            for index, one in enumerate(message.or_match.value_matchers):
                part = _json(one, f"{where}.or_match.value_matchers[{index}]", depth + 1)
                if part is None:
                    return None
                parts.append(part)
            if len(parts) < 2:
                raise FieldError(f"{where}.or_match needs at least two value matchers")
            return JsonMatcher(JsonKind.ANY_OF, parts=tuple(parts))
        case None:
            raise FieldError(f"{where} has no value")
        case _:
            return None


def _number(message: Any, where: str) -> JsonMatcher | None:
    match message.WhichOneof("match_pattern"):
        case "exact":
            return JsonMatcher(JsonKind.NUMBER, number=(message.exact, message.exact))
        case "range" if message.range.start < message.range.end:
            return JsonMatcher(JsonKind.NUMBER, number=(message.range.start, message.range.end))
        case "range":
            return JsonMatcher(JsonKind.NEVER)
        case None if not has_unknown(message):
            raise FieldError(f"{where}.double_match has no number")
        case _:
            return None
