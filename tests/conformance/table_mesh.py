"""One mesh for the whole table: a control plane, an Envoy, gRPC clients, and every row's rules from the start."""

import concurrent.futures
import contextlib
import itertools
from functools import partial
from pathlib import Path

import httpx2
from conformance_table import CASES
from envoy_mesh import EnvoyMesh, until
from table_backends import Backends
from table_case import Case, Expected, Observed
from table_rows_mesh import SECURE
from table_runners import LABELS, AioChannels, Grpc, Http, Send, SyncChannels, proxied, target
from table_world import REGISTRY_ONLY, configuration

import proxyless

LABEL = ("--label", "app=caller")
CHANNELS = ("aio", "sync", "envoy-grpc")


class Mesh:
    """Senders of rows: ``envoy`` and ``library`` over HTTP; ``grpc`` (gRPC's own xDS client), ``aio`` and ``sync`` (our
    channels), and ``envoy-grpc`` (a stub whose channel leads through an Envoy).
    """

    def __init__(self, folder: Path, http: Backends, grpc: Backends) -> None:
        self._http = http
        self._grpc = grpc
        self._registry_only = False
        self._slow: dict[tuple[str, str], concurrent.futures.Future[Observed]] = {}
        with contextlib.ExitStack() as stack:
            self._mesh = EnvoyMesh(folder)
            stack.callback(self._mesh.close)
            self._start(stack)
            self._stack = stack.pop_all()

    def _start(self, stack: contextlib.ExitStack) -> None:
        grpc = self._grpc
        grpc_rows = [case for case in CASES if case.for_channels]
        texts = configuration(CASES, "http", self._http.ports), configuration(grpc_rows, "grpc", grpc.ports)
        self._mesh.start_control_plane("\n---\n".join(texts))
        self._mesh.start_serving("secure", "secure", "--namespace", "http")
        self._pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(16))
        sidecars = [
            self._pool.submit(
                self._mesh.sidecar, name, "caller", backends.ports["ratings"], "--namespace", name, *LABEL
            )
            for name, backends in (("http", self._http), ("grpc", grpc))
        ]
        library = self._mesh.mesh("caller", namespace="http", labels=LABELS)
        ours = stack.enter_context(httpx2.Client(transport=library.transport()))
        plain = stack.enter_context(httpx2.Client(trust_env=False))
        caller = Grpc(grpc, self._mesh.addresses["xds"])
        stack.callback(caller.close)
        channels = self._mesh.mesh("channels", namespace="grpc", labels=LABELS)
        for mesh, namespace, cases in ((library, "http", CASES), (channels, "grpc", grpc_rows)):
            _ask_ahead(mesh, {target(case, namespace) for case in cases if "STRANGER" not in case.url})
        side, grpc_side = [one.result() for one in sidecars]
        self._senders: dict[str, Http | Grpc | AioChannels | SyncChannels] = {
            "library": Http(self._http, ours),
            "envoy": Http(self._http, plain, side.outbound),
            "grpc": caller,
            "envoy-grpc": stack.enter_context(contextlib.closing(SyncChannels(grpc, proxied(grpc_side.outbound)))),
            "aio": stack.enter_context(contextlib.closing(AioChannels(grpc, channels.grpc_channel))),
            "sync": stack.enter_context(contextlib.closing(SyncChannels(grpc, channels.grpc_channel_sync))),
        }
        self._mesh.wait_serving("secure")
        for runner in ("library", "envoy"):
            send = self.send(runner)
            until("the service with a certificate", lambda send=send: send(SECURE).status == 200)

    def send(self, runner: str) -> Send:
        return self._senders[runner].send

    def stranger(self, runner: str) -> int:
        """The port of a backend, which as such is unknown to the mesh."""
        return (self._grpc if runner in CHANNELS else self._http).ports["ratings"]

    def observe(self, runner: str, case: Case) -> Observed:
        """What came of a row. All that take their time were sent together, when the first was asked for."""
        if runner == "grpc" or not case.slow:
            for _ in range(case.times - 1):
                self.send(runner)(case)
            return self.send(runner)(case)
        if not self._slow:
            for one, sends in itertools.product((case for case in CASES if case.slow), ("library", "envoy", *CHANNELS)):
                if sends not in CHANNELS or one.for_channels:
                    self._slow[sends, one.name] = self._pool.submit(self.send(sends), one)
        return self._slow[runner, case.name].result()

    def refusals(self) -> list[object]:
        """What clients were sent and did not take."""
        clients = self._mesh.json("proxy-status")
        assert {client["kind"] for client in clients} >= {"envoy", "grpc", "proxyless"}
        return [one for client in clients for one in client["types"] if one["state"] not in {"SYNCED", "STALE"}]

    def registry_only(self, wanted: bool) -> None:
        if wanted == self._registry_only:
            return
        if wanted:
            self._mesh.apply(REGISTRY_ONLY)
        else:
            self._mesh.run("delete", "ConfigMap", "istio", "-n", "istio-system")
        self._registry_only = wanted
        for runner in ("library", "envoy", *CHANNELS):
            stranger = Case("stranger", "", Expected(), f"http://127.0.0.1:{self.stranger(runner)}/")
            send = partial(self.send(runner), stranger)
            outcome = {"UNAVAILABLE", 502} if wanted else {"OK", 200}
            until(runner, lambda send=send, outcome=outcome: (send().code or send().status) in outcome)

    def close(self) -> None:
        self._stack.close()


def _ask_ahead(mesh: proxyless.Mesh, targets: set[str]) -> None:
    """For all at once: each further name costs a client what it has already."""
    concurrent.futures.wait([mesh.runtime.resolve(one) for one in targets])
