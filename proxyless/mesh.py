"""The public face of the data plane: one object that gives transports, wraps applications, and can say why."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from proxyless.model.errors import ConfigurationError
from proxyless.runtime import RESOLVE_TIMEOUT, RUNTIMES
from proxyless.settings import load_settings

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import grpc
    import grpc.aio

    from proxyless.engine.explanation import Explanation
    from proxyless.telemetry.load_recorders import ServerMetricRecorder
    from proxyless.transport.grpc_server.foreign import ForeignInterceptor
    from proxyless.transport.grpc_server.server import MeshGrpcServer
    from proxyless.transport.httpx_adapter import AsyncMeshTransport, MeshTransport
    from proxyless.transport.inbound.asgi import MeshASGI
    from proxyless.transport.inbound.wsgi import MeshWSGI

logger = logging.getLogger("proxyless")

REGISTER_TIMEOUT = 5.0


class Mesh:
    """A process's place in the mesh.

    Every argument has a variable in the environment and a field in gRPC's bootstrap file; arguments win over the
    environment, the environment over the file.

    control_plane: ``host:port`` of its TLS address (``PROXYLESS_CONTROL_PLANE``; default: what a control plane on this
        machine wrote into the state dir, else ``127.0.0.1:15012``).
    service, namespace, service_account: who this is (``PROXYLESS_SERVICE``, ``_NAMESPACE``, ``_SERVICE_ACCOUNT``;
        default ``default`` for the last two). A mesh that only calls registers nothing.
    labels: of this workload (``PROXYLESS_LABELS``, ``k=v,k=v``).
    token_file: an enrolment token (``PROXYLESS_TOKEN_FILE``); without one, the dev token in the state dir.
    state_dir: where the last known good configuration is kept (``PROXYLESS_STATE_DIR``;
        default ``~/.local/state/proxyless``).
    bootstrap: path of a gRPC bootstrap file, or its parsed JSON (``GRPC_XDS_BOOTSTRAP``,
        ``GRPC_XDS_BOOTSTRAP_CONFIG``).

    Creating it only reads these settings; it starts on first use, in a thread of its own, and again in a forked worker.
    Raises ConfigurationError for settings that cannot be right.
    """

    def __init__(
        self,
        *,
        control_plane: str | None = None,
        service: str | None = None,
        namespace: str | None = None,
        service_account: str | None = None,
        labels: Mapping[str, str] | None = None,
        token_file: str | Path | None = None,
        state_dir: str | Path | None = None,
        bootstrap: str | Path | Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = load_settings(
            control_plane=control_plane,
            service=service,
            namespace=namespace,
            service_account=service_account,
            labels=labels,
            token_file=token_file,
            state_dir=state_dir,
            bootstrap=bootstrap,
        )
        # For our own transports and commands; not part of the public interface.
        self.runtime = RUNTIMES.acquire(self.settings)
        self._closed = False

    # ---- calling

    def async_transport(self) -> "AsyncMeshTransport":
        """A transport for ``httpx.AsyncClient`` and ``httpx2.AsyncClient``. Any event loop, or several, may use it."""
        from proxyless.transport.httpx_adapter import AsyncMeshTransport, with_bases

        return with_bases(AsyncMeshTransport, "AsyncBaseTransport")(self.runtime)

    def transport(self) -> "MeshTransport":
        """A transport for ``httpx.Client`` and ``httpx2.Client``. Threads may share it."""
        from proxyless.transport.httpx_adapter import MeshTransport, with_bases

        return with_bases(MeshTransport, "BaseTransport")(self.runtime)

    def grpc_channel(
        self,
        target: str,
        *,
        options: "Sequence[tuple[str, Any]]" = (),
        compression: "grpc.Compression | None" = None,
        interceptors: "Sequence[grpc.aio.ClientInterceptor]" = (),
    ) -> "grpc.aio.Channel":
        """A channel to ``host:port`` for stubs of ``grpc.aio``, for one event loop.

        options, compression: grpcio's, for all its connections. interceptors: grpcio's, around its calls. Raises
        ConfigurationError for what is no target, and where grpcio is not installed
        (``pip install 'proxyless[grpc]'``). Calls raise ``grpc.aio.AioRpcError``.
        """
        made: grpc.aio.Channel = _grpc_client().AioMeshChannel(
            self.runtime, target, tuple(options), compression, interceptors
        )
        return made

    def grpc_channel_sync(
        self,
        target: str,
        *,
        options: "Sequence[tuple[str, Any]]" = (),
        compression: "grpc.Compression | None" = None,
    ) -> "grpc.Channel":
        """``grpc_channel`` for stubs that block. Threads may share it. Calls raise ``grpc.RpcError``.

        grpcio does not survive a fork: make channels in the process that uses them.
        """
        made: grpc.Channel = _grpc_client().MeshChannel(self.runtime, target, tuple(options), compression)
        return made

    def explain(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> "Explanation":
        """What a request would meet now, and why, without sending it: route, split, endpoints, retries, timeouts, TLS.

        Asks the control plane if the URL's host is new to this process. Raises ConfigurationError for what is no
        ``http://HOST[:PORT]/PATH``, NotReadyError when the control plane does not answer within 10 s.
        """
        from proxyless.engine.explain import explain
        from proxyless.engine.request import Request
        from proxyless.engine.url import request_for

        request: Request = request_for(method, url, headers or {})
        snapshot = self.runtime.snapshot()
        if request.target not in snapshot.listeners:
            snapshot = self.runtime.resolve(request.target).result(RESOLVE_TIMEOUT + 1)
        return explain(snapshot, request, self.runtime.engine.ejected)

    # ---- serving

    def asgi(self, app: Any) -> "MeshASGI":
        """The ASGI application ``app`` behind the mesh's inbound policy, identity, telemetry and context.

        Under ``proxyless serve`` this is done already. Under another server nobody has verified the peer for the mesh:
        callers are anonymous, and a ``STRICT`` port refuses them.
        """
        from proxyless.transport.inbound.asgi import MeshASGI

        return MeshASGI(app, self.runtime)

    def wsgi(self, app: Any) -> "MeshWSGI":
        """The WSGI application ``app``, as ``asgi`` does it. WSGI shows no peer certificate: callers are anonymous."""
        from proxyless.transport.inbound.wsgi import MeshWSGI

        return MeshWSGI(app, self.runtime)

    def grpc_server(  # noqa: PLR0917  grpc.aio.server's arguments, in its order
        self,
        migration_thread_pool: "Executor | None" = None,
        handlers: "Sequence[Any] | None" = None,
        interceptors: "Sequence[Any] | None" = None,
        options: "Sequence[tuple[str, Any]] | None" = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: Any = None,
    ) -> "MeshGrpcServer":
        """A ``grpc.aio.Server``, with the arguments of ``grpc.aio.server``; needs the extra ``proxyless[grpc]``.

        Every port it binds is a port of the mesh, with ``add_insecure_port`` too: mutual TLS, ``STRICT`` or
        ``PERMISSIVE`` as the mesh says. ``start()`` registers it, ``stop(grace)`` drains. Servicers see the caller in
        ``context.peer_identities()`` and ``x-forwarded-client-cert``, and ``mesh.peer(context)`` says it as text.
        Raises ConfigurationError without a ``service`` to register, or without grpcio.
        """
        if not self.settings.service:
            raise ConfigurationError("who is it that serves? Give Mesh a service, or set PROXYLESS_SERVICE")
        need_grpc()
        from proxyless.transport.grpc_server.server import MeshGrpcServer

        return MeshGrpcServer(
            self.runtime, migration_thread_pool, handlers, interceptors, options, maximum_concurrent_rpcs, compression
        )

    def add_load_reports(self, server: "MeshGrpcServer", *, min_interval: float = 30.0) -> None:
        """Have ``server``, one of ``grpc_server``, tell its load out of band (gRPC's OpenRcaService).

        As health and reflection it is up to you on a server of your own; ``proxyless serve --grpc`` adds it. What it
        tells is ``server_metrics``. min_interval: seconds between the reports of a stream at least (gRFC A51).
        """
        from proxyless.transport.grpc_server.load_reports import add_open_rca

        add_open_rca(server, self.server_metrics, min_interval)

    @property
    def server_metrics(self) -> "ServerMetricRecorder":
        """The load of this process's servers as it tells it: measured, or as you set it (ORCA, gRFC A51).

        What one request costs goes to ``proxyless.call_metrics()``.
        """
        return self.runtime.telemetry.server_metrics

    def grpc_interceptor(self, port: int | None = None) -> "ForeignInterceptor":
        """A server interceptor for a ``grpc.server`` that you start yourself: policy, telemetry and context.

        As with ``asgi`` under another server, nobody has verified the peer for the mesh: callers are anonymous, and a
        ``STRICT`` port refuses them. port: whose policy counts; default: the strictest of this process's ports.
        """
        need_grpc()
        from proxyless.transport.grpc_server.foreign import ForeignInterceptor

        return ForeignInterceptor(self.runtime, port)

    def grpc_bootstrap(self, certificates: str | Path, *, timeout: float = 30.0) -> dict[str, Any]:
        """gRPC's bootstrap (as parsed JSON) that makes an unmodified ``xds:///`` program this workload of the mesh.

        certificates: a directory. gRPC takes certificates only from files, so this writes our certificate, its key and
        the mesh's roots there, for this user alone, and renews them for as long as this mesh is open.
        Raises NotReadyError without a certificate after ``timeout`` seconds, ConfigurationError for a directory that
        cannot be written to.
        """
        from proxyless.agent.grpc_bootstrap import grpc_bootstrap
        from proxyless.identity.files import IdentityFiles

        files = IdentityFiles(Path(certificates))
        self.wait_ready(timeout)
        self.runtime.agent.keep_files(files)
        return grpc_bootstrap(self.settings, files)

    @staticmethod
    def peer(context: Any) -> str | None:
        """The verified SPIFFE ID of the caller of an RPC, by its servicer context; None for an anonymous one."""
        names = (name.decode() for name in context.peer_identities() or ())
        return next((name for name in names if name.startswith("spiffe://")), None)

    @contextlib.contextmanager
    def register(
        self, port: int | Mapping[str, int], *, address: str | None = None, mutual_tls: bool = False
    ) -> Iterator[None]:
        """Announce that this process serves on ``port`` (a number, or numbers by name) while the block runs.

        address: where clients reach it; default: this machine's address toward the control plane. mutual_tls: whether
        the port speaks the mesh's TLS, which ``proxyless serve`` does and most other servers do not.
        Waits up to 5 s for the control plane; while that is away it goes on, and announces when it is back. Raises
        ConfigurationError for what is no port.
        """
        ports = dict(port) if isinstance(port, Mapping) else {"": port}
        for name, number in ports.items():
            if not isinstance(number, int) or not 0 < number < 65536:
                raise ConfigurationError(f"port {name or 'to register'} is {number!r}: give a number from 1 to 65535")
        agent = self.runtime.agent
        for number in ports.values():
            agent.watch_inbound(number)
        agent.register(ports, address=address, mutual_tls=mutual_tls)
        if not agent.wait_registered(REGISTER_TIMEOUT):
            logger.warning("not registered yet, going on: %s", agent.problem())
        try:
            yield
        finally:
            agent.unregister(set(ports.values()))

    # ---- life

    def wait_ready(self, timeout: float = 5.0) -> None:
        """Return when identity and configuration can serve requests, live or last known good.

        Raises NotReadyError after ``timeout`` seconds, saying what is missing and why.
        """
        self.runtime.agent.wait_ready(timeout)

    async def ready(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109  # the public contract names it so
        """``wait_ready`` for asyncio: waits without blocking the loop."""
        await asyncio.to_thread(self.wait_ready, timeout)

    def close(self) -> None:
        """Deregister and stop the mesh's thread. Transports made here can no longer resolve new hosts. Idempotent."""
        if not self._closed:
            self._closed = True
            RUNTIMES.release(self.runtime)

    async def aclose(self) -> None:
        """``close`` without blocking the loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        self.runtime.agent  # noqa: B018  # starts it: the block wants a running mesh
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _grpc_client() -> Any:
    need_grpc()
    from proxyless.transport import grpc_client

    return grpc_client


def need_grpc() -> None:
    """Raises ConfigurationError that names the remedy where grpcio is missing."""
    try:
        import grpc  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigurationError("gRPC needs grpcio: pip install 'proxyless[grpc]'") from None
