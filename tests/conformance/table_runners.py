"""Who sends a row's request: our engine without sockets, our httpx transport, an application behind Envoy, gRPC's own
xDS client, our gRPC channels.
"""

import asyncio
import itertools
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx2
from envoy_mesh import until
from table_backends import Backends
from table_case import ID, SCRIPT, Case, Observed, Seen, answer_to, script
from table_world import REGISTRY_ONLY, configuration

from proxyless.control_plane.closure import closure
from proxyless.control_plane.configuration.settings import mesh_settings
from proxyless.control_plane.resources.parse import parse
from proxyless.control_plane.resources.problem import has_error
from proxyless.control_plane.translate.client import Client, ClientKind
from proxyless.control_plane.translate.translator import Translator
from proxyless.control_plane.world import MeshSettings, World
from proxyless.engine.call import Call
from proxyless.engine.engine import Engine
from proxyless.engine.steps import Answered, Attempt, Delay, Failed, FailureKind, Outcome, Respond, Wait
from proxyless.model.snapshot import Snapshot
from proxyless.transport.httpx_adapter import convert
from proxyless.xds_client.offline import compile_snapshot

Send = Callable[[Case], Observed]
LABELS = {"app": "caller"}
_numbers = itertools.count()


def lines(case: Case, identifier: str) -> list[tuple[str, str]]:
    """The request's headers with what the backends look at."""
    return [*case.headers, (ID, identifier), *([(SCRIPT, script(case.answers))] if case.answers else [])]


# ---- without sockets


class Offline:
    """YAML, validation, translation, the client's compiler and the engine; the backends are simulated."""

    namespace = "http"

    def __init__(self, cases: Iterable[Case]) -> None:
        self.ports = {"reviews-v1": 1001, "reviews-v2": 1002, "ratings": 1003, "vault": 1004, "refused": 1005}
        self._names = {port: name for name, port in self.ports.items()}
        text = configuration(cases, self.namespace, self.ports)
        self._translators = {only: translator(text + ("\n---\n" + REGISTRY_ONLY) * only) for only in (False, True)}
        self._client = Client(namespace=self.namespace, labels=LABELS)
        self._snapshots: dict[tuple[str, bool], Snapshot] = {}
        self._now = 1000.0
        self._engine = Engine(clock=lambda: self._now, rng=random.Random(7))

    def send(self, case: Case) -> Observed:
        sent = http_request(case, self.namespace, "0")
        request = convert.engine_request(sent, replayable=not case.chunked)
        call = self._engine.call(self._snapshot(request.target, case.registry_only), request)
        observed, began = Observed(0, flags=""), self._now
        under_way: dict[int, Attempt] = {}
        # When attempts arrived, and which was an attempt of that number.
        self._arrived: list[float] = []
        self._places: dict[int, int] = {}
        while (step := call.next_step()) is not None:
            match step:
                case Delay():
                    self._now += step.seconds
                case Respond():
                    observed.status, observed.body, observed.backend = step.status, step.body.decode(), ""
                    observed.headers = list(step.headers)
                case Attempt():
                    self._arrive(step, observed, case)
                    if step.hedged:
                        under_way[step.number] = step
                    else:
                        self._report(call, step, self._attempt(step, observed, case), observed)
                case Wait():
                    moments = {self._moment(one, case): one for one in under_way.values()}
                    first = min(moments, default=math.inf)
                    if step.seconds is not None and first > self._now + step.seconds:
                        self._now += step.seconds
                    else:
                        one = under_way.pop(moments[first].number)
                        self._now = max(self._now, first) if first < math.inf else self._now
                        self._report(call, one, self._attempt(one, observed, case), observed)
        call.finish()
        observed.flags = ",".join(flag.value for flag in call.record.flags)
        observed.seconds = self._now - began
        return observed

    def _snapshot(self, wanted: str, registry_only: bool) -> Snapshot:
        key = wanted, registry_only
        if key not in self._snapshots:
            resources = closure(self._translators[registry_only], self._client, [wanted])
            wire = {
                url: {name: resource.any.SerializeToString() for name, resource in named.items()}
                for url, named in resources.items()
            }
            self._snapshots[key] = compile_snapshot(wire, [wanted])
        return self._snapshots[key]

    def _name(self, step: Attempt) -> str:
        return self._names.get(step.endpoint.port, "stranger")

    def _arrive(self, step: Attempt, observed: Observed, case: Case) -> None:
        name = self._name(step)
        if name != "refused":
            seen = Seen(name, step.method, step.path, step.authority, tuple(step.headers), case.body or "")
            observed.seen.append(seen)
            self._places[step.number] = len(self._arrived)
            self._arrived.append(self._now)

    def _moment(self, step: Attempt, case: Case) -> float:
        """When what it brings is there."""
        place = self._places[step.number]
        answer = answer_to(script(case.answers), place)
        needed = max(place + 1, answer.beside)
        return math.inf if answer.hang or len(self._arrived) < needed else self._arrived[needed - 1] + answer.after

    def _report(self, call: Call, step: Attempt, outcome: Outcome, observed: Observed) -> None:
        call.report(outcome, step.number)
        if isinstance(outcome, Answered):
            observed.headers = list(call.response_headers(outcome.headers))

    def _attempt(self, step: Attempt, observed: Observed, case: Case) -> Answered | Failed:
        name = self._name(step)
        if name == "refused":
            return Failed(FailureKind.CONNECT, "refused")
        answer = answer_to(script(case.answers), self._places[step.number])
        if answer.reset:
            return Failed(FailureKind.RESET, "gone", request_sent=True)
        if answer.hang:
            assert step.timeout is not None
            self._now += step.timeout
            return Failed(FailureKind.TIMEOUT, "slow", request_sent=True)
        observed.status, observed.backend, observed.body = answer.status, name, answer.body or ""
        return Answered(answer.status, [*answer.headers, ("x-by", name)])


def translator(text: str) -> Translator:
    resources, problems = parse(text, "table.yaml")
    assert not has_error(problems), [str(problem) for problem in problems]
    found = {resource.key: resource for resource in resources}
    return Translator(World(found, {}, mesh_settings(found, MeshSettings())))


def grpc_notes(cases: Iterable[Case]) -> dict[str, str]:
    """What the control plane says that gRPC does not do, by a row's name."""
    cases = list(cases)
    ports = dict.fromkeys(("reviews-v1", "reviews-v2", "ratings", "vault", "refused"), 1)
    made = translator(configuration(cases, "grpc", ports))
    client = Client(ClientKind.GRPC, namespace="grpc", labels=LABELS)
    found = {}
    for case in cases:
        resources = closure(made, client, [target(case, "grpc")])
        notes = [note for named in resources.values() for one in named.values() for note in one.notes]
        found[case.name] = "\n".join(notes)
    return found


def target(case: Case, namespace: str) -> str:
    parts = urlsplit(case.fill(case.url, namespace))
    return f"{parts.hostname}:{parts.port or 80}"


# ---- over HTTP


def http_request(case: Case, namespace: str, identifier: str) -> httpx2.Request:
    content: Any = case.body
    if case.body is not None and case.chunked:
        content = iter([case.body.encode()])
    extensions: dict[str, Any] = {"target": case.raw_path.encode()} if case.raw_path else {}
    url = case.fill(case.url, namespace)
    return httpx2.Request(case.method, url, headers=lines(case, identifier), content=content, extensions=extensions)


class Http:
    """Through an httpx client: with our transport, or, ``through`` an Envoy's address, with the library's own."""

    namespace = "http"

    def __init__(self, backends: Backends, client: httpx2.Client, through: str = "") -> None:
        self._backends = backends
        self._client = client
        self._through = through

    def send(self, case: Case) -> Observed:
        identifier = f"{next(_numbers)}"
        request = http_request(case, self.namespace, identifier)
        if self._through:
            # The Host header is there already; the path stays what it is on the wire.
            request.extensions.setdefault("target", request.url.raw_path)
            request.url = httpx2.URL(self._through)
        request.extensions["timeout"] = httpx2.Timeout(30.0).as_dict()
        began = time.monotonic()
        response = self._client.send(request)
        if case.expected.mirrored:
            # It goes out beside the request, and nobody waits for it.
            until("the mirrored one", lambda: len(self._backends.taken(identifier)) > 1)
        record = response.extensions.get("proxyless")
        return Observed(
            response.status_code,
            list(response.headers.multi_items()),
            response.text,
            response.headers.get("x-by", ""),
            self._backends.taken(identifier),
            ",".join(flag.value for flag in record.flags) if record is not None else None,
            seconds=time.monotonic() - began,
        )


# ---- gRPC


class Grpc:
    """grpcio's own xDS client, in a process of its own: it reads its bootstrap once."""

    namespace = "grpc"

    def __init__(self, backends: Backends, xds: str) -> None:
        self._backends = backends
        bootstrap = {
            "xds_servers": [
                {"server_uri": xds, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
            ],
            "node": {"id": "grpc-caller", "metadata": {"NAMESPACE": self.namespace, "LABELS": LABELS}},
        }
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("grpc_caller_process.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, case: Case) -> Observed:
        identifier = f"{next(_numbers)}"
        asked = {
            "target": f"xds:///{target(case, self.namespace)}",
            "path": urlsplit(case.fill(case.url, self.namespace)).path or "/",
            "metadata": lines(case, identifier),
            "body": case.body or "",
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answered = json.loads(self._process.stdout.readline())
        return Observed(
            0,
            body=answered["details"],
            backend=answered["by"],
            seen=self._backends.taken(identifier),
            code=answered["code"],
            seconds=answered["seconds"],
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class SyncChannels:
    """Blocking stubs, with a channel of ``make`` for each target. Threads may share it."""

    namespace = "grpc"

    def __init__(self, backends: Backends, make: Callable[[str], Any]) -> None:
        self._backends = backends
        self._make = make
        self._channels: dict[str, Any] = {}
        self._lock = threading.Lock()

    def send(self, case: Case) -> Observed:
        identifier = f"{next(_numbers)}"
        path = urlsplit(case.fill(case.url, self.namespace)).path or "/"
        metadata = [(name.lower(), value) for name, value in lines(case, identifier)]
        began = time.monotonic()
        found = self._call(target(case, self.namespace), path, metadata, (case.body or "").encode())
        found.seconds = time.monotonic() - began
        found.seen = self._backends.taken(identifier)
        return found

    def _call(self, dialled: str, path: str, metadata: Any, body: bytes) -> Observed:
        with self._lock:
            if dialled not in self._channels:
                self._channels[dialled] = self._make(dialled)
            method = self._channels[dialled].unary_unary(path)
        answer = b"{}"
        try:
            answer, call = method.with_call(body, metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            call = error
        return observed(answer, call.code(), call.details(), (*call.initial_metadata(), *call.trailing_metadata()))

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()


class AioChannels(SyncChannels):
    """Stubs of ``grpc.aio``, in an event loop of their own."""

    def __init__(self, backends: Backends, make: Callable[[str], Any]) -> None:
        super().__init__(backends, make)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def _call(self, dialled: str, path: str, metadata: Any, body: bytes) -> Observed:
        return self._run(self._awaited(dialled, path, metadata, body))

    async def _awaited(self, dialled: str, path: str, metadata: Any, body: bytes) -> Observed:
        if dialled not in self._channels:
            self._channels[dialled] = self._make(dialled)
        call = self._channels[dialled].unary_unary(path)(body, metadata=metadata, timeout=60)
        code, details = await call.code(), await call.details()
        received = (*await call.initial_metadata(), *await call.trailing_metadata())
        return observed(await call if code is grpc.StatusCode.OK else b"{}", code, details, received)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def close(self) -> None:
        async def end() -> None:
            for channel in self._channels.values():
                await channel.close()

        try:
            self._run(end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def observed(answer: bytes, code: grpc.StatusCode, details: str, received: Iterable[tuple[str, Any]]) -> Observed:
    headers = [(name, str(value)) for name, value in received]
    flags = dict(headers).get("x-envoy-response-flags")
    return Observed(0, headers, details, json.loads(answer).get("by", ""), [], flags, code.name)


def proxied(through: str) -> Callable[[str], grpc.Channel]:
    """Channels of an application that has an Envoy at ``through``, a URL."""
    return lambda dialled: grpc.insecure_channel(urlsplit(through).netloc, [("grpc.default_authority", dialled)])
