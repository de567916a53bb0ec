"""What is the same for clients of all namespaces is made once, and what is not is not shared."""

import pytest
from changing_world import NAMES
from envoy.config.route.v3 import route_pb2
from translate_world import ENVOY, get, world

from proxyless.control_plane import type_urls
from proxyless.control_plane.discovery.anyone import ANYONE, Varies
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import World

HOST = "reviews.a.svc.cluster.local"
CLUSTER = f"outbound|80||{HOST}"
PLAIN = """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: a}
spec: {ports: [{name: http, port: 80}, {name: tcp, port: 81}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: a}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: a}
spec: {hosts: [reviews], http: [{timeout: 3s, route: [{destination: {host: reviews, subset: v1}}]}]}
"""
# Each makes something of it another thing for clients of some namespaces.
DIFFERENCES = {
    "a service that not all see": """
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: a, annotations: {networking.istio.io/exportTo: '.'}}
spec: {ports: [{name: http, port: 80}]}
""",
    "one host in two namespaces": """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: b}
spec:
  hosts: [reviews.a.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1}]
""",
    "a rule that not all see": """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: a}
spec: {hosts: [reviews], exportTo: [b], http: [{route: [{destination: {host: reviews}}]}]}
""",
    "a rule for requests of one namespace": """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: a}
spec:
  hosts: [reviews]
  http: [{match: [{sourceNamespace: b}], timeout: 4s, route: [{destination: {host: reviews}}]}]
""",
    "a rule for connections of one namespace": """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: a}
spec:
  hosts: [reviews]
  tcp: [{match: [{sourceNamespace: b}], route: [{destination: {host: other.b, port: {number: 1}}}]}]
""",
    "a policy that not all see": """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: a}
spec: {host: reviews, exportTo: ['.'], trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}}
""",
    "a policy of the client's namespace": """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: theirs, namespace: b}
spec: {host: '*.a.svc.cluster.local', trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}}
""",
    "a policy of the root namespace beside the service's": """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: all, namespace: istio-system}
spec: {host: '*.svc.cluster.local', trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}}
""",
    "a policy that selects clients": """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: theirs, namespace: a}
spec:
  host: reviews
  workloadSelector: {matchLabels: {role: x}}
  trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}
""",
    "a consumer's route": """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: theirs, namespace: b}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: a}]
  rules: [{backendRefs: [{name: reviews, namespace: a, port: 81}]}]
""",
    "a consumer's route for gRPC to what others do not see": """
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: theirs, namespace: b}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: a}]
  rules: [{backendRefs: [{name: hidden, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: hidden, namespace: b, annotations: {networking.istio.io/exportTo: '.'}}
spec: {ports: [{name: http, port: 80}]}
""",
    "a producer's route beside an older rule": """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: younger-by-name, namespace: a}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules: [{backendRefs: [{name: reviews, port: 81}]}]
""",
    "who may call the servers of one namespace": """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: b}
spec: {}
""",
    "who may call the servers with a label in one namespace": """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: some, namespace: c}
spec:
  selector: {matchLabels: {role: x}}
  action: DENY
  rules: [{from: [{source: {namespaces: [b]}}]}]
""",
    "whose tokens servers of one namespace verify": """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: b}
spec: {jwtRules: [{issuer: i, jwks: '{"kty": "oct", "k": "AQIDBA"}'}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tokens, namespace: b}
spec: {rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}
""",
    "a Sidecar": """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: own, namespace: b}
spec: {egress: [{hosts: [./*]}]}
""",
}
NAMESPACES = ("a", "b", "c", "istio-system")


def overlaid(*texts: str) -> World:
    """Later resources are in place of earlier ones."""
    resources = {key: resource for text in texts for key, resource in world(text).resources.items()}
    return World(resources=resources)


def everything(translator: Translator, client: Client) -> dict[tuple[str, str], bytes]:
    return {
        (type_url, name): resource.body
        for type_url, names in NAMES.items()
        for name, resource in translator.resources(client, type_url, names).items()
    }


@pytest.mark.parametrize("kind", ClientKind)
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_nobody_is_given_what_is_for_others(difference: str, kind: ClientKind) -> None:
    found = overlaid(PLAIN, DIFFERENCES[difference])
    clients = [Client(kind, namespace=namespace, labels={"role": "x"}) for namespace in NAMESPACES]
    apart = Translator(found)
    apart._askers = lambda scope: (scope,)  # type: ignore[method-assign]
    alone = [everything(apart, client) for client in clients]
    for order in (clients, clients[::-1]):
        translator = Translator(found)
        made = {client.namespace: everything(translator, client) for client in order}
        assert [made[client.namespace] for client in clients] == alone
    # The difference is one.
    assert any(one.get(key) != alone[0].get(key) for one in alone for key in one | alone[0] if "http_proxy" not in key)


# In place of its rule.
ATTACHED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: a}
spec: {hosts: [ratings], http: [{route: [{destination: {host: reviews}}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: a}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules: [{backendRefs: [{name: reviews, port: 81}]}]
"""


@pytest.mark.parametrize("routed", ["", ATTACHED, ATTACHED.replace("HTTP", "GRPC")])
@pytest.mark.parametrize("kind", ClientKind)
def test_clients_of_all_namespaces_share_what_is_the_same(kind: ClientKind, routed: str) -> None:
    translator = Translator(overlaid(PLAIN, routed))
    names = {type_urls.ROUTE: f"{HOST}:80", type_urls.CLUSTER: CLUSTER, type_urls.ENDPOINT: CLUSTER}
    for type_url, name in names.items():
        first, *others = (
            translator.resources(Client(kind, namespace=namespace), type_url, [name])[name] for namespace in NAMESPACES
        )
        assert all(other is first for other in others)


def test_joined_routes_are_one_message_in_order() -> None:
    translator = Translator(overlaid(PLAIN, *DIFFERENCES.values()))
    for namespace in NAMESPACES:
        client = Client(ClientKind.ENVOY, namespace=namespace)
        body = translator.resources(client, type_urls.ROUTE, ["http_proxy"])["http_proxy"].body
        parsed = route_pb2.RouteConfiguration.FromString(body)
        assert parsed.SerializeToString(deterministic=True) == body
        domains = [domain for host in parsed.virtual_hosts for domain in host.domains]
        assert len({*domains}) == len(domains)
        assert ("reviews" in domains) is (namespace == "a")


@pytest.mark.parametrize("limit", [3, 7, 8, 9, 12])
def test_routes_whose_parts_were_forgotten_are_not_taken_for_unchanged(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyless.control_plane.translate.translator._MAX_REMEMBERED", limit)
    client = Client(ClientKind.ENVOY, namespace="b")
    hosts = [PLAIN.replace("reviews", f"host-{number}") for number in range(6)]
    # The routes of the first host are the oldest result.
    first = overlaid(*hosts)
    changed = {
        key: one for key, one in world(hosts[0].replace("3s", "5s")).resources.items() if key.kind == "VirtualService"
    }
    second = World(resources={**first.resources, **changed}, generation=1)
    expected = get(Translator(second), client, type_urls.ROUTE, "http_proxy")
    for others in range(limit + 1):
        before = Translator(first)
        get(before, client, type_urls.ROUTE, "http_proxy")
        # What is old makes way for these.
        for number in range(others):
            before.resources(client, type_urls.ENDPOINT, [f"outbound|{number + 1}||nobody"])
        assert get(Translator(second, before), client, type_urls.ROUTE, "http_proxy") == expected


def test_a_domain_that_two_hosts_have_is_the_first_ones() -> None:
    two = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: odd, namespace: a}
spec: {hosts: [reviews.a.svc], http: [{timeout: 9s, route: [{destination: {host: reviews}}]}]}
"""
    parsed = get(Translator(world(PLAIN + two)), ENVOY, type_urls.ROUTE, "http_proxy")
    domains = [domain for host in parsed.virtual_hosts for domain in host.domains]
    assert len({*domains}) == len(domains)


def test_a_change_of_one_rule_leaves_the_routes_of_other_hosts_as_they_are() -> None:
    other = PLAIN.replace("reviews", "ratings")
    before = Translator(overlaid(PLAIN, other))
    client = Client(ClientKind.ENVOY, namespace="b")
    old = get(before, client, type_urls.ROUTE, "http_proxy")
    old_clusters = before.resources(client, type_urls.CLUSTER, ["*"])
    changed = {
        key: one for key, one in world(PLAIN.replace("3s", "5s")).resources.items() if key.kind == "VirtualService"
    }
    after = Translator(World(resources={**before.world.resources, **changed}, generation=1), before)
    assert after.changed == {(type_urls.ROUTE, "http_proxy")}
    new = get(after, client, type_urls.ROUTE, "http_proxy")
    differing = {one.name for one, two in zip(old.virtual_hosts, new.virtual_hosts, strict=True) if one != two}
    assert differing == {f"{HOST}:80"}
    assert after.resources(client, type_urls.CLUSTER, ["*"]) == old_clusters


@pytest.mark.parametrize("dialled", ["reviews:80", "reviews.:80", ".:80", "REVIEWS:80"])
def test_a_short_name_is_of_the_clients_namespace(dialled: str) -> None:
    translator = Translator(world(PLAIN))
    known = [
        namespace
        for namespace in NAMESPACES
        if translator.resources(Client(namespace=namespace), type_urls.LISTENER, [dialled])
    ]
    assert known == ([] if dialled == ".:80" else ["a"])


def test_nobody_can_look_at_the_namespace_of_anyone_unnoticed() -> None:
    for look in (
        lambda: ANYONE == "a",
        lambda: ANYONE != "a",
        lambda: "a".__eq__(ANYONE) is NotImplemented and ANYONE.__eq__("a"),
        lambda: ANYONE in ("", "a"),
        lambda: ANYONE in {"a"},
        lambda: {"a": 1}.get(ANYONE),
        lambda: f"{ANYONE}",
        lambda: str(ANYONE),
    ):
        with pytest.raises(Varies):
            look()
