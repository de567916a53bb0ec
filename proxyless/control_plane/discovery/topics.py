"""What a question to the catalog is about, so that after a change only questions about what changed are asked again.

A topic is a kind of fact and, mostly, whose. A question that is not known here is about everything.
"""

from typing import Any

from proxyless.control_plane.discovery.anyone import ANYONE
from proxyless.control_plane.discovery.endpoints import EndpointSources
from proxyless.control_plane.resources.names import candidates, canonical

Topic = tuple[str, ...]

EVERYTHING: Topic = ("everything",)
# Any service; which hosts there are; any VirtualService; any PeerAuthentication; any Sidecar.
SERVICES, HOSTS, RULES, PEERS, SIDECARS = ("services",), ("hosts",), ("rules",), ("peers",), ("sidecars",)
# Any service that limits the rate of requests.
LIMITS = ("limits",)
_ANY = "*"


def service_topic(host: str) -> Topic:
    """Every wildcard concerns every host."""
    return "service", _ANY if host.startswith("*") else host


def rule_topic(host: str) -> Topic:
    return "rule", _ANY if host.startswith("*") else host


def attached_topic(host: str) -> Topic:
    return "attached", host


def policy_topic(host: str) -> Topic:
    return "policy", _ANY if host.startswith("*") else host


def authorizations_topic(namespace: str | None) -> Topic:
    """None: those of the whole mesh."""
    return "authorizations", _ANY if namespace is None else namespace


def requests_topic(namespace: str | None) -> Topic:
    return "requests", _ANY if namespace is None else namespace


def key_set_topic(url: str) -> Topic:
    return "keys", url


def topics(
    part: str, question: str, arguments: tuple[Any, ...], cluster_domain: str, *, scoped: bool
) -> tuple[Topic, ...]:
    """part: the attribute of the catalog that is asked, "" for itself. scoped: asked of what a Sidecar's clients see,
    who know what imported rules send to. That a Sidecar is another is a question of its own.
    """
    match part, question, arguments:
        case "", "service", (host, _):
            return service_topic(host), service_topic(_ANY), *((RULES, HOSTS) if scoped else ())
        case "", "listed", (host, _):
            return service_topic(host), service_topic(_ANY)
        case "", "visible" | "by_age" | "served", _:
            return (SERVICES,)
        case "", "limited", _:
            return (LIMITS,)
        case "", "called", _:
            return SERVICES, *((RULES, HOSTS) if scoped else ())
        case "", "under_wildcards", _:
            return SERVICES, RULES, HOSTS
        case "", "sidecar" | "egress_listeners" | "allows_unknown", _:
            return ()
        case "", "qualify" | "egress_proxy", _:
            return (HOSTS,)
        case "", "resolve", (name, namespace) if namespace is ANYONE and "." not in canonical(name):
            return ()  # another in each, whatever happens
        case "", "resolve", (name, _):
            names = (*candidates(name, arguments[1], cluster_domain), _ANY)
            return *(service_topic(one) for one in names), *(rule_topic(one) for one in names)
        case "", "endpoints" | "identities" | "target_ports", (service, _):
            return tuple(("endpoints", *bucket) for bucket in EndpointSources.buckets(service))
        case "", "mutual_tls", (service, _):
            return PEERS, *(("endpoints", *bucket) for bucket in EndpointSources.buckets(service))
        case "", "key_set", (url,):
            return (key_set_topic(url),)
        case "virtual_services", "of" | "named", (host, _):
            return rule_topic(host), rule_topic(_ANY)
        case "virtual_services", "about", (host, _) if not host.startswith("*"):
            return rule_topic(host), rule_topic(_ANY)
        case "attached_routes", "of", (host, *_):
            return (attached_topic(host),)
        case "virtual_services", _, _:
            return (RULES,)
        case "destination_rules", "of", (host, *_):
            return policy_topic(host), policy_topic(_ANY)
        case "peer_authentications", _, _:
            return (PEERS,)
        case "authorization_policies", "of", (namespace, _):
            return authorizations_topic(namespace), authorizations_topic(None)
        case "request_authentications", "of", (namespace, _):
            return requests_topic(namespace), requests_topic(None)
        case "sidecars", _, _:
            return (SIDECARS,)
    return (EVERYTHING,)
