"""Incremental ADS of a real control plane process, spoken by a raw gRPC client."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from in_process_control_plane import InProcessControlPlane
from running_control_plane import DeltaStream, RunningControlPlane, StreamEnded, node, registered, until

from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  selector: {app: %s}
  ports: [{name: http, port: 80, targetPort: http}]
---
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %s}
spec: {host: %s, trafficPolicy: {connectionPool: {tcp: {connectTimeout: %ds}}}}
---
"""
REVIEWS, RATINGS = (f"outbound|80||{name}.default.svc.cluster.local" for name in ("reviews", "ratings"))


def names(response: Any) -> set[str]:
    return {resource.name for resource in response.resources}


def envoy(name: str) -> Any:
    return node(name, agent="envoy")


def test_a_target_is_resolved_step_by_step(running: RunningControlPlane) -> None:
    running.apply(SERVICE % ("reviews", "reviews"))

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = DeltaStream(channel, node("delta-resolver"))
            for type_url, name in (
                (LISTENER, "reviews:80"),
                (ROUTE, "reviews.default.svc.cluster.local:80"),
                (CLUSTER, REVIEWS),
                (ENDPOINT, REVIEWS),
            ):
                await stream.ask(type_url, name, "nowhere:80")
                response = await stream.read()
                assert (response.type_url, names(response)) == (type_url, {name})
                assert list(response.removed_resources) == ["nowhere:80"]
                await stream.answer(response)
            states = {"SYNCED"}
            await asyncio.to_thread(
                until,
                "all types SYNCED",
                lambda: {each["state"] for each in running.types("delta-resolver").values()} == states,
            )
            status = await asyncio.to_thread(running.client, "delta-resolver")
            assert status is not None
            assert status["delta"] is True
            for each in status["types"]:
                assert each["sentVersion"] == each["acceptedVersion"] != ""

    asyncio.run(scenario())


def test_everything_comes_once_and_then_what_changes(running: RunningControlPlane) -> None:
    running.apply(SERVICE % ("reviews", "reviews") + SERVICE % ("ratings", "ratings"))

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = DeltaStream(channel, envoy("delta-all"))
            await stream.ask(CLUSTER)
            first = await stream.read()
            assert {REVIEWS, RATINGS} < names(first)
            await stream.answer(first)
            await asyncio.to_thread(running.apply, RULE % ("reviews", "reviews", 3))
            changed = await stream.read()
            assert (names(changed), list(changed.removed_resources)) == ({REVIEWS}, [])
            await stream.answer(changed)
            await asyncio.to_thread(running.api, "DELETE", "resources/svc/default/ratings")
            gone = await stream.read()
            assert (names(gone), list(gone.removed_resources)) == (set(), [RATINGS])
            await stream.answer(gone)
            # And on demand, beside the wildcard.
            await stream.ask(CLUSTER, "nowhere", REVIEWS)
            asked = await stream.read()
            assert (names(asked), list(asked.removed_resources)) == ({REVIEWS}, ["nowhere"])

    asyncio.run(scenario())


def test_endpoints_follow_the_registry_until_they_are_given_up(running: RunningControlPlane) -> None:
    running.apply(SERVICE % ("reviews", "reviews"))

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = DeltaStream(channel, node("delta-follower"))
            await stream.ask(ENDPOINT, REVIEWS)
            await stream.answer(await stream.read())
            async with registered(running, "reviews-delta"):
                response = await stream.read()
                assert b"\x90?" in response.resources[0].resource.value  # port 8080 as a varint
                await stream.answer(response)
            gone = await stream.read()
            assert b"\x90?" not in gone.resources[0].resource.value
            await stream.answer(gone)
            await stream.give_up(ENDPOINT, REVIEWS)
            until_forgotten = lambda: running.types("delta-follower")["endpoints"]["names"] == []  # noqa: E731
            await asyncio.to_thread(until, "the end of the subscription", until_forgotten)

    asyncio.run(scenario())


def test_a_refusal_is_visible_with_its_resource(running: RunningControlPlane) -> None:
    running.apply(SERVICE % ("reviews", "reviews") + RULE % ("reviews", "reviews", 1))

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = DeltaStream(channel, envoy("delta-refuser"))
            await stream.ask(CLUSTER, REVIEWS)
            first = await stream.read()
            await stream.answer(first)
            await asyncio.to_thread(running.apply, RULE % ("reviews", "reviews", 2))
            second = await stream.read()
            assert second.resources[0].version != first.resources[0].version
            await stream.answer(second, error="no 2 s here")
            refused = {REVIEWS: "no 2 s here"}
            await asyncio.to_thread(
                until, "NACKED", lambda: running.types("delta-refuser")["clusters"]["refused"] == refused
            )
            await asyncio.to_thread(running.apply, RULE % ("reviews", "reviews", 3))
            await stream.answer(await stream.read())
            await asyncio.to_thread(
                until, "SYNCED", lambda: running.types("delta-refuser")["clusters"]["state"] == "SYNCED"
            )

    asyncio.run(scenario())


def test_after_a_restart_only_the_difference_is_sent(tmp_path: Path) -> None:
    with InProcessControlPlane(tmp_path / "state") as running:
        running.apply(SERVICE % ("reviews", "reviews") + SERVICE % ("ratings", "ratings"))

        async def versions() -> dict[str, str]:
            async with running.plaintext() as channel:
                stream = DeltaStream(channel, envoy("delta-survivor"))
                await stream.ask(CLUSTER)
                return {resource.name: resource.version for resource in (await stream.read()).resources}

        known = asyncio.run(versions())
        running.stop()
        running.start()

        async def again() -> None:
            async with running.plaintext() as channel:
                stream = DeltaStream(channel, envoy("delta-survivor"))
                await stream.ask(CLUSTER, known=known | {RATINGS: "another", "gone": "any"})
                response = await stream.read()
                assert (names(response), list(response.removed_resources)) == ({RATINGS}, ["gone"])
                assert response.resources[0].version == known[RATINGS]

        asyncio.run(again())


@pytest.mark.parametrize("claims", [{}, {"account": "ratings"}])
def test_over_tls_a_client_is_who_its_certificate_says(running: RunningControlPlane, claims: dict[str, str]) -> None:
    async def scenario() -> None:
        svid, bundle = await running.enrolled()
        async with running.secure(svid, bundle) as channel:
            stream = DeltaStream(channel, node("delta-over-tls", **claims))
            await stream.ask(LISTENER, "nowhere:80")
            if not claims:
                assert list((await stream.read()).removed_resources) == ["nowhere:80"]
                return
            with pytest.raises(StreamEnded) as refused:
                await stream.read()
            assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(scenario())
