"""Waiting until it is live: it ends with the last answer, and names who lags or refused, and nobody else."""

import asyncio
import json
import time
from typing import Any

import pytest
from running_control_plane import DeltaStream, RunningControlPlane, XdsStream, node, until

from proxyless.control_plane.type_urls import CLUSTER, ENDPOINT, ROUTE

CLUSTER_NAME = "outbound|80||reviews.default.svc.cluster.local"
ROUTE_NAME = "reviews.default.svc.cluster.local:80"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {ports: [{name: http, port: 80}]}
---
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{timeout: %ds, route: [{destination: {host: reviews}}]}]}
---
"""
POLICY = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {connectTimeout: %ds}}}}
---
"""


def resource(kind: str, name: str = "reviews") -> dict[str, str]:
    return {"kind": kind, "namespace": "default", "name": name}


async def rollout(running: RunningControlPlane, *named: dict[str, str], timeout: float = 30) -> Any:
    body = json.dumps({"resources": named}).encode()
    return await asyncio.to_thread(running.api, "POST", f"rollout?timeout={timeout}", body)


async def apply(running: RunningControlPlane, text: str) -> None:
    await asyncio.to_thread(running.apply, text)


async def state(running: RunningControlPlane, kind: str) -> str:
    found = await asyncio.to_thread(running.api, "GET", f"resources/{kind}/default/reviews")
    return str(found["status"]["state"])


def outcome(found: Any) -> tuple[list[str], list[str], list[str]]:
    return found["accepted"], [each["node"] for each in found["refused"]], found["lagging"]


def test_it_ends_with_the_last_answer(running: RunningControlPlane) -> None:
    running.apply(SERVICE % "reviews" + RULE % 1)

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("last"))
            await stream.ask(ROUTE, ROUTE_NAME)
            first = await stream.read()
            assert outcome(await rollout(running, resource("vs"), timeout=0.2)) == ([], [], ["last"])
            assert await state(running, "vs") == "pending"
            began = time.monotonic()
            waiting = asyncio.create_task(rollout(running, resource("vs"), timeout=600))
            await stream.ask(ROUTE, ROUTE_NAME, after=first)
            assert outcome(await waiting) == (["last"], [], [])
            assert time.monotonic() - began < 600
            assert await state(running, "vs") == "accepted"
            # Nobody has a cluster: nobody's answer is waited for.
            assert outcome(await rollout(running, resource("svc"))) == ([], [], [])
            assert await state(running, "svc") == "unused"

    asyncio.run(scenario())


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "state-of-the-world"])
def test_refusals_of_several_types_and_their_end(running: RunningControlPlane, delta: bool) -> None:
    running.apply(SERVICE % "reviews" + RULE % 1 + POLICY % 1)
    name = f"refuser-{delta}"
    names = {ROUTE: ROUTE_NAME, CLUSTER: CLUSTER_NAME, ENDPOINT: CLUSTER_NAME}

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream: Any = (DeltaStream if delta else XdsStream)(channel, node(name))

            async def answer(response: Any, error: str = "") -> None:
                if delta:
                    await stream.answer(response, error)
                else:
                    await stream.ask(response.type_url, names[response.type_url], after=response, error=error)

            async def answer_all(errors: dict[str, str]) -> None:
                """Until a change is answered: clusters, what makes them warm, routes."""
                asked = set(errors)
                while asked:
                    response = await stream.read()
                    asked.discard(response.type_url)
                    await answer(response, errors.get(response.type_url, ""))

            async def types() -> dict[str, Any]:
                return await asyncio.to_thread(running.types, name)

            for type_url, resource_name in names.items():
                await stream.ask(type_url, resource_name)
                await answer(await stream.read())
            assert outcome(await rollout(running, resource("vs"), resource("dr"), resource("svc")))[0] == [name]

            await apply(running, RULE % 2 + POLICY % 2)
            await answer_all({CLUSTER: "no such cluster", ROUTE: "no such route"})
            found = await rollout(running, resource("dr"))
            assert found["refused"][0]["error"] == "clusters: no such cluster"
            made_from = found["refused"][0]["resources"][0]["madeFrom"]
            assert [(each["kind"], each["source"]) for each in made_from] == [
                ("DestinationRule", "api"),
                ("Service", "api"),
            ]
            found = await rollout(running, resource("vs"))
            assert found["refused"][0]["error"] == "routes: no such route"
            everything = await asyncio.to_thread(running.api, "GET", "rollout")
            assert {each["type"] for each in everything["refused"][0]["resources"]} == {"clusters", "routes"}
            shown = await types()
            assert [shown[each]["state"] for each in ("clusters", "routes")] == ["NACKED"] * 2
            assert shown["endpoints"]["error"] == ""
            assert shown["routes"]["refused"] == {ROUTE_NAME: "no such route"}
            assert [await state(running, each) for each in ("vs", "dr")] == ["refused"] * 2

            # One is mended, the other stays as it is.
            await apply(running, RULE % 3)
            await answer_all({ROUTE: ""})
            assert outcome(await rollout(running, resource("vs"))) == ([name], [], [])
            assert outcome(await rollout(running, resource("dr"))) == ([], [name], [])
            shown = await types()
            assert (shown["routes"]["state"], shown["routes"]["refused"]) == ("SYNCED", {})
            assert shown["clusters"]["state"] == "NACKED"
            assert [await state(running, each) for each in ("vs", "dr")] == ["accepted", "refused"]

            await apply(running, POLICY % 4)
            await answer_all({CLUSTER: ""})
            waiting = asyncio.create_task(asyncio.to_thread(running.api, "GET", "rollout"))
            reading = asyncio.create_task(stream.read())
            # Clusters make their endpoints be sent again.
            done, _ = await asyncio.wait({waiting, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading in done:
                await answer(reading.result())
            assert name in (await waiting)["accepted"]
            assert {each["error"] for each in (await types()).values()} == {""}
            assert await state(running, "dr") == "accepted"
            reading.cancel()

    asyncio.run(scenario())


def test_a_client_that_goes_is_not_waited_for(running: RunningControlPlane) -> None:
    running.apply(SERVICE % "reviews" + RULE % 5)

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("goes"))
            await stream.ask(ROUTE, ROUTE_NAME)
            await stream.read()
            waiting = asyncio.create_task(rollout(running, resource("vs"), timeout=600))
            await asyncio.to_thread(until, "the client", lambda: running.client("goes"))
        found = await waiting
        assert "goes" not in [*found["accepted"], *found["lagging"]]

    asyncio.run(scenario())


def test_what_a_kind_of_client_cannot_take_is_shown_on_the_rule(running: RunningControlPlane) -> None:
    running.apply(SERVICE % "reviews" + (RULE % 6).replace("timeout: 6s", "corsPolicy: {allowOrigins: [{exact: a}]}"))

    async def scenario() -> None:
        async with running.plaintext() as channel:
            stream = XdsStream(channel, node("no-browser"))
            await stream.ask(ROUTE, ROUTE_NAME)
            await stream.ask(ROUTE, ROUTE_NAME, after=await stream.read())
            found = await asyncio.to_thread(running.api, "GET", "resources/vs/default/reviews")
            (left_out,) = found["status"]["leftOut"]
            assert left_out["kind"] == "proxyless"
            assert left_out["note"].startswith("VirtualService default/reviews http[0]: corsPolicy left out")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"no", 400, "JSON"),
        (b"{}", 400, "resources"),
        (b'{"resources": []}', 400, "resources"),
        (b'{"resources": [{"kind": "vs"}]}', 400, "namespace"),
        (b'{"resources": [{"kind": "carrot", "namespace": "a", "name": "b"}]}', 404, "carrot"),
        (b'{"resources": [{"kind": "vs", "namespace": "a", "name": "b"}]}', 404, "VirtualService a/b"),
    ],
)
def test_mistakes(running: RunningControlPlane, body: bytes, status: int, says: str) -> None:
    found, text = running.http("POST", "/api/v1/rollout", body, running.admin_token)
    assert (found, says in json.loads(text)["error"]) == (status, True), text
