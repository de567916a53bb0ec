"""ADS of a real control plane process, spoken by a raw gRPC client."""

import asyncio
import time
from collections.abc import Callable

import grpc
import pytest
from running_control_plane import (
    DEADLINE,
    DeltaStream,
    RunningControlPlane,
    StreamEnded,
    XdsStream,
    node,
    registered,
    say,
    struct,
    workload,
)

from proxyless.control_plane import grpc_reflection
from proxyless.control_plane.ads import client_status
from proxyless.control_plane.ads.service import DELTA_METHOD, METHOD, SERVICE
from proxyless.control_plane.load_reports import service as load_reports
from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE
from proxyless.identity.enrol import request_certificate

REVIEWS = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: http}]
"""
SPLIT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http: [{timeout: %ds, route: [{destination: {host: reviews}}]}]
"""
CLUSTER_NAME = "outbound|80||reviews.default.svc.cluster.local"
ROUTE_NAME = "reviews.default.svc.cluster.local:80"


async def eventually(what: str, condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.02)


def test_a_target_is_resolved_step_by_step_and_acknowledged(running: RunningControlPlane) -> None:
    running.apply(REVIEWS)

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("resolver"))
            for type_url, name in (
                (LISTENER, "reviews:80"),
                (ROUTE, ROUTE_NAME),
                (CLUSTER, CLUSTER_NAME),
                (ENDPOINT, CLUSTER_NAME),
            ):
                await stream.ask(type_url, name)
                response = await stream.read()
                assert (response.type_url, len(response.resources)) == (type_url, 1)
                await stream.ask(type_url, name, after=response)
            await eventually(
                "all types SYNCED", lambda: {t["state"] for t in running.types("resolver").values()} == {"SYNCED"}
            )
        await eventually("its end", lambda: running.client("resolver") is None)

    asyncio.run(scenario())


def test_a_missing_listener_is_told_by_absence(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("asks-in-vain"))
            await stream.ask(LISTENER, "nowhere:80")
            assert list((await stream.read()).resources) == []

    asyncio.run(scenario())


def test_a_refusal_is_visible_and_new_content_comes(running: RunningControlPlane) -> None:
    running.apply(REVIEWS + "---" + SPLIT % 1)

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("refuser"))
            await stream.ask(ROUTE, ROUTE_NAME)
            first = await stream.read()
            await stream.ask(ROUTE, ROUTE_NAME, after=first)
            applied = await asyncio.to_thread(running.apply, SPLIT % 2)
            second = await stream.read()
            assert second.version_info != first.version_info
            await stream.ask(ROUTE, ROUTE_NAME, after=second, accepted=first.version_info, error="no 2 s here")
            await eventually("NACKED", lambda: running.types("refuser")["routes"]["state"] == "NACKED")
            status = running.types("refuser")["routes"]
            assert (status["error"], status["acceptedVersion"]) == ("no 2 s here", first.version_info)
            config = (await asyncio.to_thread(running.api, "GET", "proxy-config/refuser"))["types"][0]
            timeouts = {
                use: config[use][ROUTE_NAME]["virtualHosts"][0]["routes"][0]["route"]["timeout"]
                for use in ("sent", "accepted")
            }
            assert timeouts == {"sent": "2s", "accepted": "1s"}
            path = f"rollout?generation={applied['generation']}&timeout=10"
            rollout = await asyncio.to_thread(running.api, "GET", path)
            (refused,) = rollout["refused"]
            assert (refused["node"], refused["error"]) == ("refuser", "routes: no 2 s here")
            (resource,) = refused["resources"]
            assert (resource["type"], resource["name"], resource["reason"]) == ("routes", ROUTE_NAME, "no 2 s here")
            assert [(each["kind"], each["name"]) for each in resource["madeFrom"]] == [("VirtualService", "reviews")]
            await asyncio.to_thread(running.apply, SPLIT % 3)
            third = await stream.read()
            await stream.ask(ROUTE, ROUTE_NAME, after=third)
            await eventually("SYNCED", lambda: running.types("refuser")["routes"]["state"] == "SYNCED")

    asyncio.run(scenario())


def test_a_rollout_names_who_lags(running: RunningControlPlane) -> None:
    running.apply(REVIEWS + "---" + SPLIT % 4)

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("laggard"))
            await stream.ask(ROUTE, ROUTE_NAME)
            await stream.read()
            generation = (await asyncio.to_thread(running.apply, SPLIT % 5))["generation"]
            path = f"rollout?generation={generation}&timeout=0.2"
            assert (await asyncio.to_thread(running.api, "GET", path))["lagging"] == ["laggard"]

    asyncio.run(scenario())


def test_endpoints_follow_the_registry(running: RunningControlPlane) -> None:
    running.apply(REVIEWS)

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("follower"))
            await stream.ask(ENDPOINT, CLUSTER_NAME)
            response = await stream.read()
            await stream.ask(ENDPOINT, CLUSTER_NAME, after=response)
            async with registered(running, "reviews-1") as call:
                response = await stream.read()
                assert b"\x90?" in response.resources[0].value  # port 8080 as a varint
                await stream.ask(ENDPOINT, CLUSTER_NAME, after=response)
                await call.write(struct(workload("reviews-1", state="draining")))
                drained = await stream.read()
                await stream.ask(ENDPOINT, CLUSTER_NAME, after=drained)
                assert drained.version_info != response.version_info
            gone = await stream.read()
            assert b"\x90?" not in gone.resources[0].value

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({}, None),
        ({"account": "ratings"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"namespace": "other"}, grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_over_tls_a_client_is_who_its_certificate_says(
    running: RunningControlPlane, claims: dict[str, str], code: grpc.StatusCode | None
) -> None:
    async def scenario() -> None:
        svid, bundle = await running.enrolled()
        async with running.secure(svid, bundle) as channel:
            stream = XdsStream(channel, node("over-tls", **claims))
            await stream.ask(LISTENER, "nowhere:80")
            if code is None:
                await stream.read()
                status = await asyncio.to_thread(running.client, "over-tls")
                assert status is not None
                assert status["identity"] == "spiffe://cluster.local/ns/default/sa/reviews"
                assert (status["kind"], status["service"]) == ("proxyless", "reviews")
            else:
                with pytest.raises(StreamEnded) as refused:
                    await stream.read()
                assert refused.value.code is code

    asyncio.run(scenario())


def test_over_tls_without_a_certificate_nothing_is_served(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        _, bundle = await running.enrolled()
        async with running.secure(None, bundle) as channel:
            # It asks for nothing: grpcio says INTERNAL if the stream ends while it sends.
            stream = XdsStream(channel, node("nobody"))
            with pytest.raises(StreamEnded) as refused:
                await stream.read()
            assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(scenario())


@pytest.mark.parametrize("variant", [XdsStream, DeltaStream])
def test_a_stream_ends_with_the_certificate_it_was_opened_with(
    running: RunningControlPlane, variant: type[XdsStream] | type[DeltaStream]
) -> None:
    async def scenario() -> None:
        first, bundle = await running.enrolled()
        short, _ = await request_certificate(running.at["xds_tls"], first.spiffe_id, bundle, svid=first, ttl=3.0)
        async with running.secure(short, bundle) as channel:
            stream = variant(channel, node("short-lived"))
            await stream.ask(LISTENER, "nowhere:80")
            await stream.read()
            with pytest.raises(StreamEnded, match="has expired") as ended:
                await stream.read()
            assert ended.value.code is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "method",
    [
        f"{SERVICE}/{METHOD}",
        f"{SERVICE}/{DELTA_METHOD}",
        f"{client_status.SERVICE}/{client_status.STREAM}",
        f"{load_reports.SERVICE}/{load_reports.METHOD}",
        f"{grpc_reflection.SERVICE}/{grpc_reflection.METHOD}",
    ],
)
def test_a_message_that_is_none_is_refused_without_a_trace(running: RunningControlPlane, method: str) -> None:
    async def scenario() -> None:
        async with running.plaintext() as channel:
            call = channel.stream_stream(f"/{method}")()
            await say(call, b"\x0a\xff")
            assert await asyncio.wait_for(call.code(), DEADLINE) is grpc.StatusCode.INVALID_ARGUMENT
            # What a client says of itself stays on its line of the log.
            stream = XdsStream(channel, node("evil\n2026-01-01 ERROR forged\x1b[2J"))
            await stream.ask(LISTENER, "nowhere:80")
            await stream.read()

    asyncio.run(scenario())
    assert "Traceback" not in running.log
    assert "\x1b" not in running.log
    assert "\n2026-01-01 ERROR" not in running.log


def test_a_stream_beyond_the_limits_is_ended(running: RunningControlPlane) -> None:
    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("greedy"))
            await stream.ask(CLUSTER, "x" * 2000)
            with pytest.raises(StreamEnded) as refused:
                await stream.read()
            assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(scenario())
