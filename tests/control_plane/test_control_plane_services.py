"""The services beside ADS on the xDS ports: client status, load reports, health, reflection."""

import asyncio
from typing import Any

import grpc
import pytest
from envoy.service.load_stats.v3 import lrs_pb2
from envoy.service.status.v3 import csds_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.reflection.v1.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from running_control_plane import DEADLINE, DeltaStream, RunningControlPlane, XdsStream, node, until

from proxyless.control_plane import grpc_health, grpc_reflection
from proxyless.control_plane.ads import client_status
from proxyless.control_plane.ads.service import SERVICE as ADS
from proxyless.control_plane.load_reports import service as load_reports
from proxyless.control_plane.type_urls import CLUSTER, ROUTE
from proxyless.identity.enrol import request_certificate

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 80}], selector: {app: reviews}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {connectTimeout: %ds}}}}
"""
REVIEWS = "outbound|80||reviews.default.svc.cluster.local"
ROUTES = "reviews.default.svc.cluster.local:80"


def fetch(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(
        f"/{client_status.SERVICE}/{client_status.FETCH}",
        request_serializer=csds_pb2.ClientStatusRequest.SerializeToString,
        response_deserializer=csds_pb2.ClientStatusResponse.FromString,
    )


async def code_of(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await asyncio.wait_for(call.code(), DEADLINE)
    return code


def asks_for(**node_id: Any) -> csds_pb2.ClientStatusRequest:
    return csds_pb2.ClientStatusRequest(node_matchers=[{"node_id": node_id}])


def test_client_status_shows_what_was_accepted_and_refused(running: RunningControlPlane) -> None:
    running.apply(SERVICE % 1)
    admin = (("authorization", f"Bearer {running.admin_token}"),)

    async def scenario() -> None:
        async with running.plaintext() as channel:
            delta, world = DeltaStream(channel, node("csds-delta")), XdsStream(channel, node("csds-world"))
            await delta.ask(CLUSTER, REVIEWS, "missing")
            first = await delta.read()
            await delta.answer(first)
            await world.ask(ROUTE, ROUTES)
            routes = await world.read()
            await world.ask(ROUTE, ROUTES, after=routes)
            await asyncio.to_thread(running.apply, SERVICE % 2)
            second = await delta.read()
            await delta.answer(second, error="not like this")
            await asyncio.to_thread(until, "NACKED", lambda: running.types("csds-delta")["clusters"]["refused"])

            answer = await fetch(channel)(asks_for(prefix="csds-"), metadata=admin)
            configs = {config.node.id: config for config in answer.config}
            assert set(configs) == {"csds-delta", "csds-world"}
            shown = {each.name: each for each in configs["csds-delta"].generic_xds_configs}
            refused, missing = shown[REVIEWS], shown["missing"]
            assert (refused.type_url, refused.config_status, refused.client_status) == (CLUSTER, csds_pb2.ERROR, 4)
            assert refused.version_info == first.resources[0].version
            assert refused.xds_config == first.resources[0].resource
            assert refused.error_state.details == "not like this"
            assert refused.error_state.version_info == second.resources[0].version
            assert refused.error_state.failed_configuration == second.resources[0].resource
            assert (missing.config_status, missing.HasField("xds_config")) == (csds_pb2.NOT_SENT, False)
            (route,) = configs["csds-world"].generic_xds_configs
            assert (route.name, route.config_status, route.version_info) == (
                ROUTES,
                csds_pb2.SYNCED,
                routes.version_info,
            )
            assert configs["csds-world"].node.metadata["SERVICE_ACCOUNT"] == "reviews"

            bare = asks_for(exact="CSDS-world", ignore_case=True)
            bare.exclude_resource_contents = True
            stream = channel.stream_stream(
                f"/{client_status.SERVICE}/{client_status.STREAM}",
                request_serializer=csds_pb2.ClientStatusRequest.SerializeToString,
                response_deserializer=csds_pb2.ClientStatusResponse.FromString,
            )(metadata=admin)
            for request, expected in (
                (bare, ["csds-world"]),
                (asks_for(safe_regex={"regex": "csds-d.*"}), ["csds-delta"]),
                (asks_for(suffix="-nobody"), []),
            ):
                await stream.write(request)
                answer = await asyncio.wait_for(stream.read(), DEADLINE)
                assert [config.node.id for config in answer.config] == expected
                assert not any(
                    each.HasField("xds_config") for c in answer.config for each in c.generic_xds_configs
                ) or (request is not bare)

    asyncio.run(scenario())


def test_client_status_is_for_the_administrator_and_each_workload_itself(running: RunningControlPlane) -> None:
    """Never another workload's configuration, whichever way it is asked for."""
    running.apply(SERVICE % 1)

    async def scenario() -> None:
        reviews, bundle = await running.enrolled(account="reviews")
        ratings, _ = await running.enrolled(account="ratings")
        async with (
            running.secure(reviews, bundle) as as_reviews,
            running.secure(ratings, bundle) as as_ratings,
            running.secure(None, bundle) as as_nobody,
            running.plaintext() as as_anyone,
        ):
            for channel, account in ((as_reviews, "reviews"), (as_ratings, "ratings")):
                stream = XdsStream(channel, node(f"own-{account}", account=account))
                await stream.ask(ROUTE, ROUTES)
                await stream.read()
            anonymous = XdsStream(as_anyone, node("own-anonymous"))
            await anonymous.ask(ROUTE, ROUTES)
            await anonymous.read()

            for channel, account in ((as_reviews, "reviews"), (as_ratings, "ratings")):
                for request in (csds_pb2.ClientStatusRequest(), asks_for(prefix="")):
                    answer = await fetch(channel)(request)
                    assert [config.node.id for config in answer.config] == [f"own-{account}"]
            wrong = (("authorization", "Bearer guessed"),)
            for channel, metadata in (
                (as_nobody, ()),
                (as_anyone, ()),
                (as_anyone, wrong),
                (as_reviews, wrong),
            ):
                call = fetch(channel)(csds_pb2.ClientStatusRequest(), metadata=metadata)
                assert await code_of(call) is grpc.StatusCode.PERMISSION_DENIED
            admin = (("authorization", f"Bearer {running.admin_token}"),)
            answer = await fetch(as_nobody)(asks_for(prefix="own-"), metadata=admin)
            assert len(answer.config) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "matcher",
    [
        {"node_metadatas": [{"path": [{"key": "NAMESPACE"}], "value": {"string_match": {"exact": "default"}}}]},
        {"node_id": {"safe_regex": {"regex": "("}}},
        {"node_id": {}},
    ],
)
def test_a_matcher_that_cannot_be_followed_is_refused(running: RunningControlPlane, matcher: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with running.plaintext() as channel:
            admin = (("authorization", f"Bearer {running.admin_token}"),)
            call = fetch(channel)(csds_pb2.ClientStatusRequest(node_matchers=[matcher]), metadata=admin)
            assert await code_of(call) is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(scenario())


def load_stream(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(
        f"/{load_reports.SERVICE}/{load_reports.METHOD}",
        request_serializer=lrs_pb2.LoadStatsRequest.SerializeToString,
        response_deserializer=lrs_pb2.LoadStatsResponse.FromString,
    )()


def test_load_reports_are_added_up(running: RunningControlPlane) -> None:
    who = node("loaded")
    who.client_features.append(load_reports.ALL_CLUSTERS)
    localities = [
        {"total_issued_requests": 7, "total_successful_requests": 4, "total_error_requests": 1},
        {"total_issued_requests": 2, "total_successful_requests": 2},
    ]
    drops = [{"category": "lb", "dropped_count": 3}]
    stats = {
        "cluster_name": "c1",
        "upstream_locality_stats": localities,
        "total_dropped_requests": 5,
        "dropped_requests": drops,
    }
    expected = [
        'proxyless_load_requests_issued_total{cluster="c1"} 18.0',
        'proxyless_load_requests_succeeded_total{cluster="c1"} 12.0',
        'proxyless_load_requests_failed_total{cluster="c1"} 2.0',
        'proxyless_load_requests_dropped_total{category="lb",cluster="c1"} 6.0',
        'proxyless_load_requests_dropped_total{category="(unnamed)",cluster="c1"} 4.0',
    ]

    async def scenario() -> None:
        svid, bundle = await running.enrolled()
        async with running.secure(svid, bundle) as channel:
            stream = load_stream(channel)
            await stream.write(lrs_pb2.LoadStatsRequest(node=who))
            answer = await asyncio.wait_for(stream.read(), DEADLINE)
            assert (answer.send_all_clusters, answer.load_reporting_interval.seconds) == (True, 10)
            for _ in range(2):
                await stream.write(lrs_pb2.LoadStatsRequest(cluster_stats=[stats]))
            await asyncio.to_thread(
                until, "the sums", lambda: set(expected) <= set(running.http("GET", "/metrics")[1].splitlines())
            )

    asyncio.run(scenario())


def test_load_reports_end_with_the_certificate(running: RunningControlPlane) -> None:
    who = node("short-lived-load")
    who.client_features.append(load_reports.ALL_CLUSTERS)

    async def scenario() -> None:
        first, bundle = await running.enrolled()
        short, _ = await request_certificate(running.at["xds_tls"], first.spiffe_id, bundle, svid=first, ttl=3.0)
        async with running.secure(short, bundle) as channel:
            stream = load_stream(channel)
            await stream.write(lrs_pb2.LoadStatsRequest(node=who))
            await asyncio.wait_for(stream.read(), DEADLINE)
            assert await code_of(stream) is grpc.StatusCode.PERMISSION_DENIED
            assert "has expired" in await stream.details()

    asyncio.run(scenario())


def test_load_is_not_taken_from_strangers_or_from_clients_that_cannot_report_all(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        _, bundle = await running.enrolled()
        async with running.secure(None, bundle) as channel:
            assert await code_of(load_stream(channel)) is grpc.StatusCode.PERMISSION_DENIED
        async with running.plaintext() as channel:
            stream = load_stream(channel)
            await stream.write(lrs_pb2.LoadStatsRequest(node=node("old")))
            assert await code_of(stream) is grpc.StatusCode.FAILED_PRECONDITION

    asyncio.run(scenario())


def test_health_is_open_and_knows_the_services(running: RunningControlPlane) -> None:
    forms: dict[str, Any] = {
        "request_serializer": HealthCheckRequest.SerializeToString,
        "response_deserializer": HealthCheckResponse.FromString,
    }

    async def scenario() -> None:
        _, bundle = await running.enrolled()
        for channel in (running.plaintext(), running.secure(None, bundle)):
            async with channel:
                check = channel.unary_unary(f"/{grpc_health.SERVICE}/Check", **forms)
                watch = channel.unary_stream(f"/{grpc_health.SERVICE}/Watch", **forms)
                for service in ("", ADS, load_reports.SERVICE, client_status.SERVICE):
                    assert (await check(HealthCheckRequest(service=service))).status == HealthCheckResponse.SERVING
                unknown = HealthCheckRequest(service="none.such")
                assert await code_of(check(unknown)) is grpc.StatusCode.NOT_FOUND
                for request, status in (
                    (HealthCheckRequest(), HealthCheckResponse.SERVING),
                    (unknown, HealthCheckResponse.SERVICE_UNKNOWN),
                ):
                    call = watch(request)
                    assert (await asyncio.wait_for(call.read(), DEADLINE)).status == status
                    call.cancel()

    asyncio.run(scenario())


def test_reflection_describes_what_it_lists(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        async with running.plaintext() as channel:
            call = channel.stream_stream(
                f"/{grpc_reflection.SERVICE}/{grpc_reflection.METHOD}",
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )()

            async def ask(**question: Any) -> ServerReflectionResponse:
                await call.write(ServerReflectionRequest(**question))
                answer: ServerReflectionResponse = await asyncio.wait_for(call.read(), DEADLINE)
                return answer

            listed = [each.name for each in (await ask(list_services="*")).list_services_response.service]
            assert {ADS, client_status.SERVICE, load_reports.SERVICE, grpc_health.SERVICE} < set(listed)
            for service in listed:
                answer = await ask(file_containing_symbol=service)
                # Everything that is needed to build it, in a pool that knows nothing.
                pool, waiting = descriptor_pool.DescriptorPool(), {}
                for packed in answer.file_descriptor_response.file_descriptor_proto:
                    proto = descriptor_pb2.FileDescriptorProto.FromString(packed)
                    waiting[proto.name] = proto

                def add(name: str, pool: Any = pool, waiting: Any = waiting) -> None:
                    if (proto := waiting.pop(name, None)) is not None:
                        for dependency in proto.dependency:
                            add(dependency)
                        pool.Add(proto)

                for name in list(waiting):
                    add(name)
                assert pool.FindServiceByName(service).methods
            by_name = await ask(file_by_filename="envoy/service/discovery/v3/ads.proto")
            assert by_name.HasField("file_descriptor_response")
            for question in (
                {"file_by_filename": "none.proto"},
                {"file_containing_symbol": "none.Such"},
                {"all_extension_numbers_of_type": "none.Such"},
                {"file_containing_extension": {"containing_type": "none.Such", "extension_number": 1}},
            ):
                assert (await ask(**question)).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
            assert (await ask()).error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            options = await ask(all_extension_numbers_of_type="google.protobuf.FieldOptions")
            numbers = options.all_extension_numbers_response.extension_number
            assert numbers
            extension = {"containing_type": "google.protobuf.FieldOptions", "extension_number": numbers[0]}
            assert (await ask(file_containing_extension=extension)).HasField("file_descriptor_response")

    asyncio.run(scenario())
