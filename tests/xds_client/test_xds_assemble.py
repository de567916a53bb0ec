"""Closed sets: what is published when, and what a target looks like while something is missing or refused."""

from typing import Any

import pytest
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from xds_resources import ROUTER, assignment, cluster, listener, packed, route_configuration, upstream_tls

from proxyless.model.route import Forward, Listener, Refused
from proxyless.model.snapshot import EMPTY, Snapshot
from proxyless.xds_client.assemble import NO_CLUSTER, Assembler
from proxyless.xds_client.compile.resource import compile_decoded, decode
from proxyless.xds_client.entry import Entry, empty
from proxyless.xds_client.kinds import Kind
from proxyless.xds_client.offline import compile_snapshot

TARGET = "a:80"


class Cache:
    def __init__(self, initial: Snapshot = EMPTY) -> None:
        self.entries = empty()
        self.assembler = Assembler(initial)

    def put(self, *messages: Any) -> None:
        for message in messages:
            kind = next(kind for kind in Kind if kind.type_url.endswith(f"/{message.DESCRIPTOR.full_name}"))
            decoded = decode(kind, packed(message))
            self.entries[kind].setdefault(decoded.name, Entry()).accept(compile_decoded(decoded), decoded.data, "1")

    def build(self) -> Snapshot:
        built = self.assembler.build(self.entries, [TARGET], {})
        return Snapshot(1, listeners=built.listeners, clusters=built.clusters, inbound=built.inbound)

    def wanted(self) -> dict[str, set[str]]:
        return {kind.short: names for kind, names in self.assembler.wanted(self.entries, [TARGET]).items()}


def forwards_to(snapshot: Snapshot) -> list[str]:
    found = snapshot.listeners[TARGET]
    assert found is not None
    assert found.virtual_host is not None
    return [r.action.clusters[0].cluster for r in found.virtual_host.routes if isinstance(r.action, Forward)]


def test_nothing_is_published_before_the_set_is_closed() -> None:
    cache = Cache()
    assert cache.wanted() == {"RDS": set(), "CDS": set(), "EDS": set()}
    for message, wanted in (
        (listener(TARGET, "r"), {"RDS": {"r"}, "CDS": set(), "EDS": set()}),
        (route_configuration("r", "v1", "v2"), {"RDS": {"r"}, "CDS": {"v1", "v2"}, "EDS": set()}),
        (cluster("v1"), {"RDS": {"r"}, "CDS": {"v1", "v2"}, "EDS": {"v1"}}),
        (cluster("v2"), {"RDS": {"r"}, "CDS": {"v1", "v2"}, "EDS": {"v1", "v2"}}),
        (assignment("v1", "10.0.0.1:80"), {"RDS": {"r"}, "CDS": {"v1", "v2"}, "EDS": {"v1", "v2"}}),
    ):
        cache.put(message)
        assert TARGET not in cache.build().listeners
        assert cache.wanted() == wanted
    cache.put(assignment("v2", "10.0.0.2:80"))
    snapshot = cache.build()
    assert forwards_to(snapshot) == ["v1", "v2"]
    assert {name: len(one.endpoints) for name, one in snapshot.clusters.items()} == {"v1": 1, "v2": 1}


def test_where_copies_go_belongs_to_the_set() -> None:
    cache = Cache()
    routes = route_configuration("r", "v1")
    routes.virtual_hosts[0].request_mirror_policies.add(cluster="copies")
    cache.put(listener(TARGET, "r"), routes, cluster("v1"), assignment("v1", "10.0.0.1:80"))
    assert TARGET not in cache.build().listeners
    assert cache.wanted()["CDS"] == {"v1", "copies"}
    cache.put(cluster("copies"), assignment("copies", "10.0.0.2:80"))
    assert set(cache.build().clusters) == {"v1", "copies"}


def test_the_former_set_stays_and_is_followed_until_the_new_one_is_closed() -> None:
    cache = Cache()
    cache.put(listener(TARGET, "r"), route_configuration("r", "v1"), cluster("v1"), assignment("v1", "10.0.0.1:80"))
    cache.build()
    cache.put(route_configuration("r", "v2"))
    assert cache.wanted() == {"RDS": {"r"}, "CDS": {"v1", "v2"}, "EDS": {"v1"}}
    cache.put(assignment("v1", "10.0.0.5:80"))  # the old cluster's endpoints go on being updated
    snapshot = cache.build()
    assert forwards_to(snapshot) == ["v1"]
    assert str(snapshot.clusters["v1"].endpoints[0]) == "10.0.0.5:80"
    cache.put(cluster("v2"), assignment("v2", "10.0.0.2:80"))
    snapshot = cache.build()
    assert forwards_to(snapshot) == ["v2"]
    assert list(snapshot.clusters) == ["v2"]
    assert cache.wanted() == {"RDS": {"r"}, "CDS": {"v2"}, "EDS": {"v2"}}


def test_a_cluster_that_does_not_exist_answers_for_itself() -> None:
    cache = Cache()
    cache.put(listener(TARGET, "r"), route_configuration("r", "v1", "v2"), cluster("v2"), assignment("v2"))
    cache.entries[Kind.CLUSTER]["v1"] = Entry(absent=True)
    snapshot = cache.build()
    assert snapshot.clusters["v1"].problem == NO_CLUSTER
    assert not snapshot.clusters["v2"].problem


def test_what_was_refused_and_never_good_says_so() -> None:
    refused = Entry(refused="the reason")
    good = [listener(TARGET, "r"), route_configuration("r", "v1"), cluster("v1"), assignment("v1", "10.0.0.1:80")]
    for kind, name in ((Kind.LISTENER, TARGET), (Kind.ROUTE, "r")):
        cache = Cache()
        cache.put(*good)
        cache.entries[kind][name] = refused
        found = cache.build().listeners[TARGET]
        assert isinstance(found, Listener)  # refused is not unknown: no passthrough
        assert found.virtual_host is not None
        action = found.virtual_host.routes[0].action
        assert isinstance(action, Refused)
        assert "the reason" in action.reason
    for kind in (Kind.CLUSTER, Kind.ENDPOINT):
        cache = Cache()
        cache.put(*good)
        cache.entries[kind]["v1"] = refused
        assert "the reason" in cache.build().clusters["v1"].problem


def test_routes_that_do_not_come_are_no_routes_and_endpoints_that_do_not_come_none() -> None:
    cache = Cache()
    cache.put(listener(TARGET, "r"))
    cache.entries[Kind.ROUTE]["r"] = Entry(absent=True)
    found = cache.build().listeners[TARGET]
    assert found is not None
    assert found.virtual_host is None
    assert "no route configuration r" in found.metadata["problem"]
    cache.put(route_configuration("r", "v1"), cluster("v1"))
    cache.entries[Kind.ENDPOINT]["v1"] = Entry(absent=True)
    assert cache.build().clusters["v1"].endpoints == ()


def test_faults_of_routes_need_a_fault_filter() -> None:
    routes = route_configuration("r", "v1")
    fault = fault_pb2.HTTPFault()
    fault.abort.http_status = 503
    fault.abort.percentage.numerator = 100
    routes.virtual_hosts[0].routes[0].typed_per_filter_config["envoy.filters.http.fault"].Pack(fault)
    with_filter = [hcm_pb2.HttpFilter(name="fault", typed_config=packed(fault_pb2.HTTPFault())), ROUTER]
    for filters, injected in ((None, False), (with_filter, True)):
        cache = Cache()
        cache.put(listener(TARGET, "r", filters=filters), routes, cluster("v1"), assignment("v1"))
        found = cache.build().listeners[TARGET]
        assert found is not None
        assert found.virtual_host is not None
        assert (found.virtual_host.routes[0].fault is not None) is injected
        assert any("fault" in one for one in found.ignored) is not injected


def test_unchanged_parts_are_the_same_objects() -> None:
    cache = Cache()
    cache.put(listener(TARGET, "r"), route_configuration("r", "v1"), cluster("v1"), assignment("v1", "10.0.0.1:80"))
    one, other = cache.build(), cache.build()
    assert one.listeners[TARGET] is other.listeners[TARGET]
    assert one.clusters["v1"] is other.clusters["v1"]


def offline(*messages: Any) -> dict[str, dict[str, bytes]]:
    made: dict[str, dict[str, bytes]] = {}
    for message in messages:
        any_message = packed(message)
        name = getattr(message, "cluster_name", "") or message.name
        made.setdefault(any_message.type_url, {})[name] = any_message.SerializeToString()
    return made


def test_offline_snapshots_are_complete_at_once() -> None:
    resources = offline(listener(TARGET, "r"), route_configuration("r", "v1", "gone"), cluster("v1"))
    snapshot = compile_snapshot(resources, [TARGET, "unknown:80"])
    assert snapshot.listeners["unknown:80"] is None
    assert forwards_to(snapshot) == ["v1", "gone"]
    assert snapshot.clusters["gone"].problem == NO_CLUSTER
    assert snapshot.clusters["v1"].endpoints == ()


def test_offline_garbage_is_explained() -> None:
    bad = AnyMessage(type_url=Kind.LISTENER.type_url, value=b"\xff").SerializeToString()
    snapshot = compile_snapshot({Kind.LISTENER.type_url: {TARGET: bad}}, [TARGET])
    found = snapshot.listeners[TARGET]
    assert found is not None
    assert found.virtual_host is not None
    assert isinstance(found.virtual_host.routes[0].action, Refused)


def test_a_target_of_mutual_tls_never_becomes_a_host_outside_the_mesh() -> None:
    for name, fields in (
        ("plain", {}),
        ("secret", {"transport_socket": upstream_tls("spiffe://cluster.local/ns/a/sa/b")}),
    ):
        cache = Cache()
        cache.put(listener(TARGET, "r"), route_configuration("r", name), cluster(name, **fields))
        cache.put(assignment(name, "10.0.0.1:80"))
        secured = cache.build()
        cache.put(assignment(name))  # its last workload went before the service did
        cache.build()
        cache.entries[Kind.LISTENER][TARGET] = Entry(absent=True)
        for assembler in (cache.assembler, Assembler(secured)):  # the second: of a forked child
            found = assembler.build(cache.entries, [TARGET], {}).listeners[TARGET]
            if name == "plain":
                assert found is None
                continue
            assert found is not None
            assert found.virtual_host is not None
            action = found.virtual_host.routes[0].action
            assert isinstance(action, Refused)
            assert (action.status, "plaintext" in action.reason) == (503, True)
    cache.put(listener(TARGET, "r"), route_configuration("r", "secret"))
    assert forwards_to(cache.build()) == ["secret"]


@pytest.mark.parametrize("how", ["absent", "problem", "empty"])
def test_what_is_taken_away_from_routes_that_are_being_replaced_stays_until_the_new_ones_are_complete(how: str) -> None:
    cache = Cache()
    cache.put(listener(TARGET, "r"), route_configuration("r", "v1"), cluster("v1"), assignment("v1", "10.0.0.1:80"))
    cache.build()
    cache.put(route_configuration("r", "v2"))
    match how:
        case "absent":
            cache.entries[Kind.CLUSTER]["v1"].remove()
        case "problem":
            broken = cluster("v1")
            broken.metadata.filter_metadata["proxyless"]["problem"] = "no such subset"
            cache.put(broken)
        case "empty":
            cache.put(assignment("v1"))
    cache.wanted()
    snapshot = cache.build()
    assert forwards_to(snapshot) == ["v1"]
    assert str(snapshot.clusters["v1"].endpoints[0]) == "10.0.0.1:80"
    assert not snapshot.clusters["v1"].problem
    cache.put(cluster("v2"), assignment("v2", "10.0.0.2:80"))
    assert list(cache.build().clusters) == ["v2"]
