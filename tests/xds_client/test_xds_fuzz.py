"""Whatever bytes a control plane sends: a resource compiles or is refused, nothing else happens."""

import random
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xds_resources import (
    ROUTER,
    assignment,
    cluster,
    downstream_tls,
    inbound,
    listener,
    manager,
    packed,
    route_configuration,
    upstream_tls,
)

from proxyless.xds_client.compile.decode import InvalidResource
from proxyless.xds_client.compile.resource import compile_strictly, decode
from proxyless.xds_client.kinds import Kind

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)


def compiles_or_is_refused(kind: Kind, resource: AnyMessage) -> None:
    try:
        compile_strictly(decode(kind, resource))
    except InvalidResource as refused:
        assert str(refused)


@FUZZ
@given(kind=st.sampled_from(Kind), data=st.binary(max_size=400))
def test_random_bytes(kind: Kind, data: bytes) -> None:
    compiles_or_is_refused(kind, AnyMessage(type_url=kind.type_url, value=data))


def seeds() -> dict[Kind, list[Any]]:
    tls = cluster("c", transport_socket=upstream_tls("spiffe://td/ns/a/sa/b"))
    return {
        Kind.LISTENER: [
            listener("a:80", "r"),
            inbound(80, ("tls", downstream_tls("spiffe://x")), ("raw_buffer", None)),
        ],
        Kind.ROUTE: [route_configuration("r", "a", "b")],
        Kind.CLUSTER: [tls],
        Kind.ENDPOINT: [assignment("c", "10.0.0.1:80", "10.0.0.2:80")],
    }


@FUZZ
@given(kind=st.sampled_from(Kind), edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
def test_damaged_resources(kind: Kind, edits: list[tuple[int, int]]) -> None:
    for seed in seeds()[kind]:
        data = bytearray(packed(seed).value)
        for position, value in edits:
            data[position % len(data)] = value
        compiles_or_is_refused(kind, AnyMessage(type_url=kind.type_url, value=bytes(data)))


# Texts a control plane could put where anything is allowed.
TEXTS = ("", "x", "*", "/", "a*b", "%REQ(x)%", "(", "\\9", "\x00", ":path", "10.0.0.1", "é", "a" * 300)


def random_message(message: Any, rng: random.Random, depth: int) -> None:
    """Set random fields of a message of any type to random values, the way a hostile or newer sender could."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() > (0.25 if depth else 0.5) or (field.message_type and depth > 5):
            continue
        if field.is_repeated:
            many = getattr(message, field.name)
            if field.message_type and field.message_type.GetOptions().map_entry:
                key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
                if value.message_type:
                    random_message(many[random_value(key, rng)], rng, depth + 1)
            elif field.message_type:
                random_message(many.add(), rng, depth + 1)
            else:
                many.append(random_value(field, rng))
        elif field.message_type:
            nested = getattr(message, field.name)
            nested.SetInParent()
            random_message(nested, rng, depth + 1)
        else:
            setattr(message, field.name, random_value(field, rng))


def random_value(field: Any, rng: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            value = rng.choice(TEXTS)
            return value.encode() if field.type == FieldDescriptor.TYPE_BYTES else value
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e300))
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return rng.choice((0, 1, -1, 2**31 - 1, -(2**31)))
        case _:
            return rng.choice((0, 1, 80, 2**32 - 1))


@pytest.mark.parametrize("kind", list(Kind))
def test_well_formed_nonsense(kind: Kind) -> None:
    rng = random.Random(20261123)
    for _ in range(150):
        for seed in seeds()[kind]:
            random_message(seed, rng, 0)
            compiles_or_is_refused(kind, packed(seed))


def test_well_formed_nonsense_inside_of_what_is_packed() -> None:
    rng = random.Random(7)
    for _ in range(300):
        hcm, tls, fault = manager("r"), tls_pb2.UpstreamTlsContext(), fault_pb2.HTTPFault()
        for message in (hcm, tls, fault):
            random_message(message, rng, 0)
        made = listener("a:80")
        made.api_listener.api_listener.Pack(hcm)
        compiles_or_is_refused(Kind.LISTENER, packed(made))
        filters = [hcm_pb2.HttpFilter(name="f", typed_config=packed(fault)), ROUTER]
        compiles_or_is_refused(Kind.LISTENER, packed(listener("a:80", "r", filters=filters)))
        socket = base_pb2.TransportSocket(name="tls", typed_config=packed(tls))
        compiles_or_is_refused(Kind.CLUSTER, packed(cluster("c", transport_socket=socket)))
