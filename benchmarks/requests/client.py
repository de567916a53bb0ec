"""The load process of one system: reads ``Work`` from stdin, answers ``Done`` on stdout.

python -m benchmarks.requests.client SPEC        (SPEC is JSON: see ``Spec``)
"""

import asyncio
import contextlib
import dataclasses
import json
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import proxyless
from benchmarks.requests import senders
from benchmarks.requests.work import Done, Work, commands


@dataclass(frozen=True, slots=True)
class Spec:
    """library: httpx, httpx2, aiohttp or raw. base: URL without a path. state_dir: of the mesh to call through.

    services: further hosts of the mesh that are looked up before the first request. certificates: a folder with
    ``ca.pem`` and ``client.pem`` for mutual TLS without a mesh.
    """

    library: str
    base: str
    blocking: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    state_dir: str = ""
    services: list[str] = field(default_factory=list)
    certificates: str = ""

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    with contextlib.ExitStack() as stack:
        mesh = (
            stack.enter_context(proxyless.Mesh(state_dir=spec.state_dir, service="bench")) if spec.state_dir else None
        )
        if mesh is not None:
            mesh.wait_ready(timeout=30)
            for host in spec.services:
                mesh.explain("GET", f"http://{host}/")
        if spec.blocking:
            _serve_blocking(stack.enter_context(_blocking(spec, mesh)))
        else:
            asyncio.run(_serve(spec, mesh))


async def _serve(spec: Spec, mesh: proxyless.Mesh | None) -> None:
    async with _sender(spec, mesh) as send:
        for work in commands():
            print((await _run(send, work)).encode(), flush=True)


async def _run(send: senders.Send, work: Work) -> Done:
    durations: list[int] = []
    started = time.perf_counter_ns()
    until = started + int(work.seconds * 1e9)

    async def worker() -> None:
        now = time.perf_counter_ns()
        while now < until:
            await send(work)
            before, now = now, time.perf_counter_ns()
            durations.append(now - before)

    await asyncio.gather(*(worker() for _ in range(work.concurrency)))
    return Done.of(durations, (time.perf_counter_ns() - started) / 1e9)


def _serve_blocking(send: senders.SendBlocking) -> None:
    for work in commands():
        durations: list[int] = []
        started = time.perf_counter_ns()
        threads = [threading.Thread(target=_repeat, args=(send, work, durations)) for _ in range(work.concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(Done.of(durations, (time.perf_counter_ns() - started) / 1e9).encode(), flush=True)


def _repeat(send: senders.SendBlocking, work: Work, durations: list[int]) -> None:
    now = time.perf_counter_ns()
    until = now + int(work.seconds * 1e9)
    while now < until:
        send(work)
        before, now = now, time.perf_counter_ns()
        durations.append(now - before)


@contextlib.asynccontextmanager
async def _sender(spec: Spec, mesh: proxyless.Mesh | None) -> AsyncIterator[senders.Send]:
    match spec.library:
        case "raw":
            address = urlsplit(spec.base)
            assert address.hostname and address.port
            yield senders.raw_sender(address.hostname, address.port, _tls(spec, mesh))
        case "aiohttp":
            import aiohttp

            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                yield senders.aiohttp_sender(session, spec.base)
        case "httpx":
            import httpx

            transport = mesh.async_transport() if mesh else None
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            # trust_env reads the machine's certificates and proxies: not what is compared.
            async with httpx.AsyncClient(transport=transport, trust_env=False, limits=limits, timeout=30) as client:
                yield senders.httpx_sender(client, spec.base, spec.headers)
        case "httpx2":
            import httpx2

            transport2 = mesh.async_transport() if mesh else None
            limits2 = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            async with httpx2.AsyncClient(transport=transport2, trust_env=False, limits=limits2, timeout=30) as client2:
                yield senders.httpx_sender(client2, spec.base, spec.headers)
        case other:
            raise ValueError(f"no library {other}")


@contextlib.contextmanager
def _blocking(spec: Spec, mesh: proxyless.Mesh | None) -> Iterator[senders.SendBlocking]:
    match spec.library:
        case "httpx":
            import httpx

            transport = mesh.transport() if mesh else None
            with httpx.Client(transport=transport, trust_env=False, timeout=30) as client:
                yield senders.httpx_blocking_sender(client, spec.base, spec.headers)
        case "httpx2":
            import httpx2

            transport2 = mesh.transport() if mesh else None
            with httpx2.Client(transport=transport2, trust_env=False, timeout=30) as client2:
                yield senders.httpx_blocking_sender(client2, spec.base, spec.headers)
        case other:
            raise ValueError(f"no blocking library {other}")


def _tls(spec: Spec, mesh: proxyless.Mesh | None) -> ssl.SSLContext | None:
    if mesh is not None:
        from proxyless.model.cluster import UpstreamTls

        # The floor's connection to ``proxyless serve``: the mesh's own certificate, nobody's policy.
        return mesh.runtime.identity.client_context(UpstreamTls())
    if not spec.certificates:
        return None
    context = ssl.create_default_context(cafile=f"{spec.certificates}/ca.pem")
    context.load_cert_chain(f"{spec.certificates}/client.pem")
    return context


if __name__ == "__main__":
    main()
