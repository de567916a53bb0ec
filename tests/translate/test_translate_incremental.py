"""A translator that comes after others gives what one made from scratch gives, and says what may have changed."""

import random
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from changing_world import CLIENTS, NAMES, PIECES, ChangingWorld
from hypothesis import given, settings
from hypothesis import strategies as st
from translate_world import world

from proxyless.control_plane import type_urls
from proxyless.control_plane.resources.resource import Resource
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import KeySet

Change = tuple[int, bool, int, bool]
# Pieces that have to do with each other: rarely do all of what it takes meet by chance.
_THEMES = [
    {"Sidecar", "Service", "ServiceEntry", "VirtualService", "DestinationRule", "MeshSettings"},
    {"Service", "DestinationRule", "Workload", "MeshSettings"},
    {"Service", "ServiceEntry", "VirtualService"},
    {"Service", "Workload", "WorkloadEntry", "EndpointSlice", "ServiceEntry", "PeerAuthentication"},
    # A tuple: what was fetched of a key set.
    {"AuthorizationPolicy", "RequestAuthentication", "tuple", "PeerAuthentication", "Sidecar", "MeshSettings"},
    {"HTTPRoute", "GRPCRoute", "VirtualService", "Service", "ServiceEntry", "Sidecar"},
]


def _kind(piece: Any) -> str:
    return piece.kind if isinstance(piece, Resource) else type(piece).__name__


@st.composite
def _histories(draw: st.DrawFn) -> tuple[list[int], list[tuple[list[Change], set[int]]]]:
    """Pieces to begin with, most of those of a theme, and what happens then."""
    theme = draw(st.sampled_from([None, *_THEMES]))
    about = [number for number, piece in enumerate(PIECES) if theme is None or _kind(piece) in theme]
    chance = random.Random(draw(st.integers(0, 2**16)))
    share = draw(st.sampled_from([0.2, 0.8]))
    start = [number for number in about if chance.random() < share]
    chance.shuffle(start)
    # Which piece, whether it goes, its age, and whether the world is published after this change.
    change = st.tuples(st.sampled_from(about), st.sampled_from([False, False, True]), st.integers(0, 1), st.booleans())
    # The clients that ask after it.
    step = st.tuples(st.lists(change, min_size=1, max_size=3), st.sets(st.integers(0, len(CLIENTS) - 1), max_size=3))
    return start, draw(st.lists(step, min_size=2, max_size=6))


Given = dict[tuple[str, str], tuple[str, bytes, Any, bool]]


def given_to(translator: Translator, number: int) -> Given:
    """All that a client gets, by type and name."""
    return {
        (type_url, name): (resource.version, resource.body, resource.notes, resource.stand_in)
        for type_url, names in NAMES.items()
        for name, resource in translator.resources(CLIENTS[number], type_url, names).items()
    }


def from_scratch(translator: Translator) -> Translator:
    """One that knows nothing of the worlds before, leaves out no label of a client, nor where it is, and makes
    everything for one namespace.
    """
    scratch = Translator(translator.world)
    scratch._askers = lambda scope: (scope,)  # type: ignore[method-assign]
    scratch._label_keys = scratch._local_keys = frozenset(label for client in CLIENTS for label in client.labels)
    return scratch


def explained(type_url: str, name: str, number: int, changed: Any) -> bool:
    """Whether a difference was announced: by its name, or as one of all."""
    wildcard = CLIENTS[number].kind is ClientKind.ENVOY and (type_url, "*") in changed
    return (type_url, name) in changed or wildcard


@settings(max_examples=25, deadline=None)
@given(_histories(), st.sampled_from([60_000, 60_000, 100, 5]))
def test_after_any_changes_it_gives_what_one_from_scratch_gives(
    history: tuple[list[int], list[tuple[list[Change], set[int]]]], limit: int
) -> None:
    with mock.patch("proxyless.control_plane.translate.translator._MAX_REMEMBERED", limit):
        check(*history)


def check(start: list[int], steps: list[tuple[list[Change], set[int]]]) -> None:
    changing = ChangingWorld()
    for piece in start:
        changing.change(PIECES[piece], remove=False, created=0)
    translator = Translator(changing.next())
    # What each client was given last, and what was announced since then.
    last: dict[int, tuple[Given, set[tuple[str, str]] | None]] = {}
    for changes, asking in [*steps, ([], set(range(len(CLIENTS))))]:
        for piece, remove, created, publish in changes:
            changing.change(PIECES[piece], remove=remove, created=created)
            if publish:
                translator = after(changing, translator, last)
        translator = after(changing, translator, last)
        scratch = from_scratch(translator)
        for number in sorted(asking):
            found = given_to(translator, number)
            assert found == given_to(scratch, number)
            before, announced = last.get(number, ({}, None))
            if announced is not None:
                differing = {key for key in before.keys() | found.keys() if before.get(key) != found.get(key)}
                assert not {key for key in differing if not explained(*key, number, announced)}
            last[number] = found, set()


def after(
    changing: ChangingWorld, before: Translator, last: dict[int, tuple[Given, set[tuple[str, str]] | None]]
) -> Translator:
    translator = Translator(changing.next(), before)
    for number, (found, announced) in last.items():
        last[number] = (
            found,
            None if announced is None or translator.changed is None else announced | translator.changed,
        )
    return translator


def test_a_change_of_endpoints_concerns_only_what_has_them() -> None:
    changing = ChangingWorld()
    for piece in PIECES:
        if not hasattr(piece, "outbound_allow_any"):
            changing.change(piece, remove=False, created=0)
    first = Translator(changing.next())
    for number in range(len(CLIENTS)):
        given_to(first, number)
    changing.workloads["9"] = replace(changing.workloads["3"], id="9", address="10.9.9.9")
    second = Translator(changing.next(), first)
    assert second.changed is not None
    assert {name for type_url, name in second.changed if type_url == type_urls.ENDPOINT} == {
        "outbound|80||reviews.b.svc.cluster.local",
        "outbound|80|v1|reviews.b.svc.cluster.local",
        "outbound|8080||reviews.b.svc.cluster.local",
        # It selects the same workloads.
        "outbound|80||x.example.com",
    }
    assert {type_url for type_url, _ in second.changed} <= {type_urls.ENDPOINT, type_urls.CLUSTER}


def test_an_unchanged_world_changes_nothing() -> None:
    changing = ChangingWorld()
    for piece in PIECES[:-2]:
        changing.change(piece, remove=False, created=0)
    first = Translator(changing.next())
    for number in range(len(CLIENTS)):
        given_to(first, number)
    second = Translator(changing.next(), first)
    assert second.changed == set()
    assert given_to(second, 0) == given_to(first, 0)


MESH = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: a}
spec: {jwtRules: [{issuer: i, jwksUri: 'http://keys/'}]}
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: NAMESPACE}
spec: {}
"""
ATTACHED = """
apiVersion: gateway.networking.k8s.io/v1
kind: KIND
metadata: {name: to, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: a}]
  rules: [{backendRefs: [{name: ratings, namespace: a, port: 80}]}]
"""
INBOUND = {"xds.istio.io/grpc/lds/inbound/0.0.0.0:1", "inbound|0.0.0.0|15006|9080"}
ROUTES = {"reviews.a.svc.cluster.local:80", "http_proxy"}


@pytest.mark.parametrize(
    ("piece", "type_url", "names"),
    [
        (POLICY.replace("NAMESPACE", "a"), type_urls.LISTENER, INBOUND),
        (POLICY.replace("NAMESPACE", "istio-system"), type_urls.LISTENER, INBOUND),
        # Nobody in this namespace serves.
        (POLICY.replace("NAMESPACE", "c"), type_urls.LISTENER, set()),
        ({"http://keys/": KeySet("{}")}, type_urls.LISTENER, INBOUND),
        ({"http://others/": KeySet("{}")}, type_urls.LISTENER, set()),
        *(
            (ATTACHED.replace("KIND", kind).replace("NAMESPACE", namespace), type_urls.ROUTE, ROUTES)
            for kind in ("HTTPRoute", "GRPCRoute")
            for namespace in ("a", "b")
        ),
    ],
)
def test_a_policy_keys_or_a_route_concern_only_what_has_them(
    piece: str | dict[str, KeySet], type_url: str, names: set[str]
) -> None:
    before = world(MESH)
    first = Translator(before)
    for number in range(len(CLIENTS)):
        given_to(first, number)
    came = world(piece).resources if isinstance(piece, str) else {}
    keys = piece if isinstance(piece, dict) else {}
    changed = replace(before, resources={**before.resources, **came}, key_sets=keys, generation=1)
    second = Translator(changed, first)
    assert second.changed == {(type_url, name) for name in names}
    third = Translator(replace(before, generation=2), second)
    for number in range(len(CLIENTS)):
        given_to(third, number)
    # Nobody has asked since, so nothing was made anew that could change.
    assert third.changed == set()


LATER = """
apiVersion: v1
kind: Service
metadata: {name: later, namespace: b}
spec: {ports: [{name: http, port: 80}]}
"""
EARLIER = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: to, namespace: a}
spec: {hosts: [reviews], http: [{route: [{destination: {host: later.b}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: of, namespace: a}
spec: {hosts: [later.b], http: [{timeout: 3s, route: [{destination: {host: reviews}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: of, namespace: b}
spec: {host: later.b, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
"""
LATER_HOST = "later.b.svc.cluster.local"


def test_a_short_name_means_a_service_once_there_is_one() -> None:
    earlier = world(EARLIER)
    added = world(LATER)
    names = {
        type_urls.ROUTE: ["reviews.a.svc.cluster.local:80", f"{LATER_HOST}:80"],
        type_urls.CLUSTER: [f"outbound|80||{LATER_HOST}"],
    }

    def found(translator: Translator) -> Any:
        return [translator.resources(CLIENTS[0], type_url, asked) for type_url, asked in names.items()]

    first = Translator(earlier)
    before = found(first)
    second = Translator(replace(earlier, resources={**earlier.resources, **added.resources}, generation=1), first)
    after_all = found(second)
    assert after_all == found(from_scratch(second)) != before
    third = Translator(replace(earlier, generation=2), second)
    assert found(third) == before


SIDECAR = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: own, namespace: a}
spec: {egress: [{port: {number: 81, protocol: TCP}, hosts: ['*/reviews.a.svc.cluster.local']}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: a}
spec: {ports: [{name: tcp, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: a}
spec: {ports: [{name: tcp, port: 81}, {name: http, port: 80}]}
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: one, namespace: a}
spec: {hosts: ['*.a.svc.cluster.local'], tcp: [{route: [{destination: {host: ratings, port: {number: 81}}}]}]}
"""
OTHER = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: one, namespace: a}
spec:
  hosts: [reviews]
  tcp: [{match: [{sourceLabels: {team: x}}], route: [{destination: {host: ratings, port: {number: 80}}}]}]
"""


def test_what_a_sidecars_listener_sends_on_follows_the_rules() -> None:
    envoy = Client(ClientKind.ENVOY, namespace="a", labels={"team": "x"})
    listener, parts = "127.0.0.1_81", [world(SIDECAR), world(RULE), world(OTHER), world(SIDECAR)]
    translator, seen = Translator(parts[0]), []
    for generation, part in enumerate(parts, 1):
        resources = {**parts[0].resources, **part.resources}
        translator = Translator(replace(part, resources=resources, generation=generation), translator)
        if seen and translator.changed is not None:
            assert (type_urls.LISTENER, listener) in translator.changed
        found = {
            type_url: translator.resources(envoy, type_url, ["*"])
            for type_url in (type_urls.LISTENER, type_urls.CLUSTER)
        }
        scratch = Translator(translator.world)
        assert found == {type_url: scratch.resources(envoy, type_url, ["*"]) for type_url in found}
        seen.append(found[type_urls.LISTENER][listener].body)
    assert len({*seen}) == 3
    assert seen[0] == seen[-1]
    # The rule is imported, and so what it sends to is known.
    assert "outbound|80||ratings.a.svc.cluster.local" not in found[type_urls.CLUSTER]
