"""Values of an AuthorizationPolicy as Envoy's RBAC matches them: one function an attribute.

Source: Istio's pilot/pkg/security/authz/model, whose matchers these are. Names are quoted where they become a part of
an expression, which Istio leaves out.
"""

import re
from collections.abc import Iterable

from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import metadata_pb2, path_pb2, value_pb2
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from proxyless.control_plane.translate.generated import pack
from proxyless.control_plane.translate.matchers import regex

JWT_FILTER, JWT_PAYLOAD = "envoy.filters.http.jwt_authn", "payload"
_SPIFFE = "spiffe://"
_SOMETHING = ".+"
_URI_TEMPLATE = "envoy.path.match.uri_template.uri_template_matcher"
_ONE, _ANY = "{*}", "{**}"
# What Envoy lets {*} stand for, which {**} may have in any number of segments.
_PATH_CHARACTERS = r"a-zA-Z0-9\-._~%!$&'()+,;:@=*"


def text(value: str) -> StringMatcher:
    """``*`` is any text but none, ``*x`` a suffix, ``x*`` a prefix, and anything else itself."""
    if value == "*":
        return _expression(_SOMETHING)
    if value.startswith("*"):
        return StringMatcher(suffix=value[1:])
    return StringMatcher(prefix=value[:-1]) if value.endswith("*") else StringMatcher(exact=value)


def _expression(source: str) -> StringMatcher:
    return StringMatcher(safe_regex=regex(source))


def header(name: str, value: str, *, ignore_case: bool = False) -> rc.HeaderMatcher:
    # gRPC compares the name as it stands with names that are lower case.
    name = name.lower()
    if value == "*":
        return rc.HeaderMatcher(name=name, present_match=True)
    matcher = text(value)
    matcher.ignore_case = ignore_case
    return rc.HeaderMatcher(name=name, string_match=matcher)


def path(value: str, *, template: bool) -> Permission:
    """template: the client knows path templates; for others they are an expression."""
    if _ONE not in value and _ANY not in value:
        return Permission(url_path=path_pb2.PathMatcher(path=text(value)))
    if template:
        result = Permission()
        result.uri_template.name = _URI_TEMPLATE
        config = uri_template_match_pb2.UriTemplateMatchConfig(
            path_template=value.replace(_ONE, "*").replace(_ANY, "**")
        )
        result.uri_template.typed_config.CopyFrom(pack(config))
        return result
    parts = re.split(r"(\{\*\*?\})", value)
    known = {_ONE: f"[{_PATH_CHARACTERS}]+", _ANY: f"[{_PATH_CHARACTERS}/]*"}
    source = "".join(known[part] if part in known else re.escape(part) for part in parts)
    return Permission(url_path=path_pb2.PathMatcher(path=_expression(source)))


def principal(value: str, trust_domain: str) -> Principal:
    if value != "*" and value.startswith("*"):
        return _authenticated(_expression(f"{_SPIFFE}.*{re.escape(value[1:])}"))
    parts = value.split("/")
    # Istio: ``cluster.local`` in a policy stands for the mesh's own trust domain, whatever its name.
    if len(parts) == 5 and parts[0] == "cluster.local":
        value = "/".join((trust_domain, *parts[1:]))
    return _authenticated(text(value) if value == "*" else text(f"{_SPIFFE}{value}"))


def namespace(value: str) -> Principal:
    name = ".*".join(map(re.escape, value.split("*")))
    return _authenticated(_expression(f".*/ns/{name}/.*"))


def service_account(value: str, namespace: str) -> Principal:
    """namespace: of the policy, which names without one mean."""
    place, _, name = value.rpartition("/")
    place, name = re.escape(place or namespace), re.escape(name)
    return _authenticated(_expression(f"{_SPIFFE}.+/ns/{place}/(.+/|)sa/{name}(/.+)?"))


def _authenticated(name: StringMatcher) -> Principal:
    return Principal(authenticated=Principal.Authenticated(principal_name=name))


def request_principal(value: str) -> Principal:
    """ISSUER/SUBJECT, where the issuer may have slashes of its own."""
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        issuer, subject = value, ""
    something = _expression(_SOMETHING)
    if value == "*":
        by_issuer = by_subject = something
    elif value.startswith("*"):
        if slash:
            by_issuer = something if issuer == "*" else StringMatcher(suffix=issuer[1:])
            by_subject = StringMatcher(exact=subject)
        else:
            by_issuer, by_subject = something, StringMatcher(suffix=value[1:])
    elif value.endswith("*"):
        if slash:
            by_issuer = StringMatcher(exact=issuer)
            by_subject = something if subject == "*" else StringMatcher(prefix=subject[:-1])
        else:
            by_issuer, by_subject = StringMatcher(prefix=value[:-1]), something
    else:
        by_issuer, by_subject = StringMatcher(exact=issuer), StringMatcher(exact=subject)
    both = [
        _claim(["iss"], value_pb2.ValueMatcher(string_match=by_issuer)),
        _claim(["sub"], value_pb2.ValueMatcher(string_match=by_subject)),
    ]
    return Principal(and_ids=Principal.Set(ids=both))


def claim(names: Iterable[str], values: Iterable[str]) -> Principal:
    """A claim is a text or a list of texts. names: from the outermost in."""
    said = _any_of([value_pb2.ValueMatcher(string_match=text(value)) for value in values])
    listed = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=said))
    return _claim(names, _any_of([listed, said]))


def _claim(names: Iterable[str], value: value_pb2.ValueMatcher) -> Principal:
    return Principal(metadata=_metadata(JWT_FILTER, (JWT_PAYLOAD, *names), value))


def _any_of(matchers: list[value_pb2.ValueMatcher]) -> value_pb2.ValueMatcher:
    if len(matchers) == 1:
        return matchers[0]
    return value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=matchers))


def filter_metadata(name: str, key: str, values: Iterable[str]) -> Permission:
    """What a filter of an Envoy says: a text, or with [] around the value a list that has it."""
    found = []
    for value in values:
        if value.startswith("[") and value.endswith("]"):
            one = value_pb2.ValueMatcher(string_match=text(value.strip("[]")))
            found.append(value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=one)))
        else:
            found.append(value_pb2.ValueMatcher(string_match=text(value)))
    return Permission(metadata=_metadata(name, [key], _any_of(found)))


def _metadata(name: str, keys: Iterable[str], value: value_pb2.ValueMatcher) -> metadata_pb2.MetadataMatcher:
    segments = [metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in keys]
    return metadata_pb2.MetadataMatcher(filter=name, path=segments, value=value)
