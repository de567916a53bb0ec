"""AuthorizationPolicy: what Istio's ValidateAuthorizationPolicy checks, and what would not match as it looks."""

import ipaddress
import re
from collections.abc import Sequence

from proxyless.control_plane.resources.authorization_policy import (
    ATTRIBUTES,
    CLAIMS,
    FILTERS,
    HEADERS,
    REPLACED,
    Action,
    AuthorizationPolicySpec,
    Condition,
    Operation,
    Rule,
    Source,
)
from proxyless.control_plane.resources.base import Spec, camel
from proxyless.control_plane.resources.paths import child
from proxyless.control_plane.resources.validation.checks import Checks
from proxyless.control_plane.resources.validation.policy_target import check_target

_MOST_SERVICE_ACCOUNTS, _LONGEST_SERVICE_ACCOUNT = 16, 320
# Of values that become an expression; Istio has no limit, but Envoys and libraries do.
_LONGEST_PATTERN = 512
_ANYTHING_ONE, _ANYTHING = "{*}", "{**}"
# Istio's: variables, and asterisks that are a segment or come before one.
_NOT_A_TEMPLATE = re.compile(r"/\{\w+=\*\*?\}|\{\w*\}|/\*\*?|\*\*?/")
_IPS = ("ip_blocks", "remote_ip_blocks")
_IDENTITIES = ("principals", "namespaces")
# What can be told of a connection, without a request.
_OF_CONNECTIONS = (*_IPS, *_IDENTITIES, "service_accounts")


def check_authorization_policy(checks: Checks, spec: AuthorizationPolicySpec) -> None:
    check_target(checks, spec)
    if not spec.rules and spec.action in (Action.DENY, Action.CUSTOM):
        checks.error("spec.rules", f"{spec.action} without rules never acts; the rule {{}} is about every request")
    if spec.action is Action.CUSTOM and spec.rules and not (spec.provider and spec.provider.name):
        checks.error("spec.provider.name", "is required with action CUSTOM")
    if spec.provider is not None and spec.action is not Action.CUSTOM:
        checks.error("spec.provider", f"is only for action CUSTOM, not {spec.action}")
    for index, rule in enumerate(spec.rules):
        path = child("spec.rules", index)
        _rule(checks, path, rule)
        if spec.action is Action.CUSTOM:
            _custom(checks, path, rule)
        elif spec.action is Action.DENY and _is_about_requests_only(rule):
            checks.warning(
                path,
                "denies every connection to ports that are not HTTP (of a Sidecar's ingress), for these have none of "
                "its attributes; add ports to say which it means",
            )


def _rule(checks: Checks, path: str, rule: Rule) -> None:
    for field in ("from_", "to"):
        if field in rule.model_fields_set and not getattr(rule, field):
            checks.error(f"{path}.{field.rstrip('_')}", "must not be empty; remove it to match everything")
    for index, one in enumerate(rule.from_):
        here = f"{path}.from[{index}].source"
        if one.source is None or _is_empty(one.source):
            checks.error(here, "must say something; remove `from` to match every caller")
        else:
            _source(checks, here, one.source)
    for index, to in enumerate(rule.to):
        here = f"{path}.to[{index}].operation"
        if to.operation is None or _is_empty(to.operation):
            checks.error(here, "must say something; remove `to` to match every request")
        else:
            _operation(checks, here, to.operation)
    for index, condition in enumerate(rule.when):
        _condition(checks, f"{path}.when[{index}]", condition)


def _source(checks: Checks, path: str, source: Source) -> None:
    for field, values in _lists(source):
        here, what = f"{path}.{camel(field)}", field.removeprefix("not_")
        if what in _IPS:
            _ips(checks, here, values)
        elif what == "service_accounts":
            _service_accounts(checks, here, values)
        else:
            _texts(checks, here, values, anywhere=what == "namespaces", pattern=what in _IDENTITIES)
    if (source.service_accounts or source.not_service_accounts) and any(
        getattr(source, name) or getattr(source, f"not_{name}") for name in _IDENTITIES
    ):
        checks.error(f"{path}.serviceAccounts", "may not be set beside principals or namespaces")


def _operation(checks: Checks, path: str, operation: Operation) -> None:
    for field, values in _lists(operation):
        here, what = f"{path}.{camel(field)}", field.removeprefix("not_")
        if what == "ports":
            _ports(checks, here, values)
        elif what == "paths":
            _paths(checks, here, values)
        else:
            _texts(checks, here, values)


def _condition(checks: Checks, path: str, condition: Condition) -> None:
    key = condition.key
    if not key:
        checks.error(f"{path}.key", "is required")
        return
    if not condition.values and not condition.not_values:
        checks.error(path, "one of values, notValues is required")
    if key.startswith((HEADERS, CLAIMS, FILTERS)):
        name = key.partition("[")[2]
        # Istio's form: a[b].
        if not (key.endswith("]") and len(name) > 1):
            checks.error(f"{path}.key", f"{key!r} must be of the form {key.partition('[')[0]}[NAME]")
        elif key.startswith(HEADERS) and key.startswith(f"{HEADERS}["):
            checks.header_name(f"{path}.key", key.removeprefix(f"{HEADERS}[").removesuffix("]"))
        elif not key.startswith((f"{HEADERS}[", f"{CLAIMS}[", FILTERS)):
            checks.error(f"{path}.key", f"{key!r} is not an attribute")
    elif (instead := REPLACED.get(key.partition("[")[0])) is not None:
        checks.error(f"{path}.key", f"{key!r} is not an attribute any more; use {instead}")
    elif key not in ATTRIBUTES:
        checks.error(f"{path}.key", f"{key!r} is not an attribute; known are {', '.join(sorted(ATTRIBUTES))}")
    for field, values in (("values", condition.values), ("notValues", condition.not_values)):
        here = f"{path}.{field}"
        if key in ("source.ip", "remote.ip", "destination.ip"):
            _ips(checks, here, values)
        elif key == "destination.port":
            _ports(checks, here, values)
        elif key == "source.serviceAccount":
            _service_accounts(checks, here, values)
        else:
            namespace = key == "source.namespace"
            _texts(checks, here, values, anywhere=namespace, pattern=namespace or key == "source.principal")


def _custom(checks: Checks, path: str, rule: Rule) -> None:
    """What an external authorizer cannot be asked for, for it is asked before anybody is authenticated (Istio)."""
    allowed = (*_IPS, *(f"not_{name}" for name in _IPS))
    for index, one in enumerate(rule.from_):
        for field, _ in _lists(one.source) if one.source else ():
            if field not in allowed:
                checks.error(f"{path}.from[{index}].source.{camel(field)}", "is not supported with action CUSTOM")
    for index, condition in enumerate(rule.when):
        key = condition.key
        if key.startswith(("source.namespace", "source.serviceAccount", "source.principal", "request.auth.")):
            checks.error(f"{path}.when[{index}].key", f"{key} is not supported with action CUSTOM")


def _is_about_requests_only(rule: Rule) -> bool:
    fields = {field.removeprefix("not_") for one in rule.from_ if one.source for field, _ in _lists(one.source)}
    ports = any(to.operation.ports or to.operation.not_ports for to in rule.to if to.operation)
    return not ports if rule.to else bool(rule.from_) and not fields & set(_OF_CONNECTIONS)


def _texts(checks: Checks, path: str, values: Sequence[str], *, anywhere: bool = False, pattern: bool = False) -> None:
    """anywhere: an asterisk means something in the middle too. pattern: values with one become an expression."""
    for index, value in enumerate(values):
        _text(checks, child(path, index), value, anywhere=anywhere, pattern=pattern)


def _text(checks: Checks, here: str, value: str, *, anywhere: bool = False, pattern: bool = False) -> None:
    if not value:
        checks.error(here, "must not be empty")
    elif pattern and len(value) > _LONGEST_PATTERN and (anywhere or "*" in value):
        checks.error(here, f"may have at most {_LONGEST_PATTERN} characters")
    elif not anywhere and "*" in (value[1:] if value.startswith("*") else value.removesuffix("*")):
        checks.warning(here, f"{value!r} has an asterisk that stands for itself; one is a wildcard, at either end")


def _paths(checks: Checks, path: str, values: Sequence[str]) -> None:
    for index, value in enumerate(values):
        if not {"{", "}"} & set(value):
            _text(checks, child(path, index), value)
        elif (_ANYTHING_ONE not in value and _ANYTHING not in value) or _NOT_A_TEMPLATE.search(value):
            # Without a template a brace would stand for itself, which Istio refuses too: a DENY would let all through.
            checks.error(child(path, index), "a path template has {*} and {**} only: no names, and no bare asterisks")
        elif not value.startswith("/") or value.count(_ANYTHING) > 1 or not _ends(value):
            checks.error(child(path, index), "a path template starts with / and has {**} once, as its last variable")
        elif len(value) > _LONGEST_PATTERN:
            checks.error(child(path, index), f"may have at most {_LONGEST_PATTERN} characters")


def _ends(template: str) -> bool:
    """Envoy: nothing that varies comes after {**}, and a segment has one variable at most."""
    segments = [segment.replace(_ANYTHING_ONE, "*").replace(_ANYTHING, "*") for segment in template.split("/")]
    return _ANYTHING_ONE not in template.partition(_ANYTHING)[2] and all(
        segment.count("*") <= 1 and not {"{", "}"} & set(segment) for segment in segments
    )


def _ips(checks: Checks, path: str, values: Sequence[str]) -> None:
    for index, value in enumerate(values):
        if not _is_ip_or_prefix(value):
            checks.error(child(path, index), f"{value!r} is neither an IP address nor a CIDR such as 10.0.0.0/8")


def _is_ip_or_prefix(text: str) -> bool:
    """As Go reads it: a prefix is a number, and no zone."""
    address, slash, length = text.partition("/")
    if "%" in text or (slash and not (length.isascii() and length.isdigit())):
        return False
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return bool(address)


def _ports(checks: Checks, path: str, values: Sequence[str]) -> None:
    for index, value in enumerate(values):
        if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= 65535):
            checks.error(child(path, index), f"{value!r} is not a port from 0 to 65535")


def _service_accounts(checks: Checks, path: str, values: Sequence[str]) -> None:
    if len(values) > _MOST_SERVICE_ACCOUNTS:
        checks.error(path, f"may have at most {_MOST_SERVICE_ACCOUNTS} values")
    for index, value in enumerate(values):
        namespace, slash, name = value.rpartition("/")
        if "*" in value or "/" in namespace or not name or (slash and not namespace):
            checks.error(child(path, index), f"{value!r} must be NAME or NAMESPACE/NAME, without wildcards")
        elif len(value) > _LONGEST_SERVICE_ACCOUNT:
            checks.error(child(path, index), f"may have at most {_LONGEST_SERVICE_ACCOUNT} characters")


def _lists(message: Spec) -> list[tuple[str, tuple[str, ...]]]:
    """The fields that say something."""
    return [(name, getattr(message, name)) for name in type(message).model_fields if getattr(message, name)]


def _is_empty(message: Spec) -> bool:
    return not _lists(message)
