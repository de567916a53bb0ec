"""``proxyless serve``: an application in the mesh, registered, behind mutual TLS and inbound policy."""

import argparse
import asyncio
import importlib
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import proxyless
from proxyless.agent.address import own_address
from proxyless.cli import output
from proxyless.cli.identity import add_identity, mesh_of
from proxyless.cli.logs import OneLine
from proxyless.cli.parsers import Subparsers, UsageError, add_command, port
from proxyless.mesh import Mesh, need_grpc
from proxyless.model.address import join_address
from proxyless.model.errors import NotReadyError, ProxylessError
from proxyless.transport.inbound.application import Loaded, load
from proxyless.transport.inbound.serve import Listening, serve

if TYPE_CHECKING:
    from proxyless.transport.grpc_server.servicers import Register

Found = TypeVar("Found")

# Seconds that the control plane has to confirm our draining, before we go on without its answer.
DRAIN_TIMEOUT = 1.0
# Seconds from SIGTERM after which the process is gone: 10 are promised.
END_WITHIN = 9.5
# Seconds between looks at why we are not in the mesh yet.
JOIN_TIMEOUT = 5.0
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "serve",
        "serve an ASGI or WSGI application, or gRPC services, in the mesh",
        "proxyless serve hello:app --service hello --label version=v1",
    )
    parser.add_argument(
        "application",
        nargs="+",
        metavar="MODULE:APP",
        help="importable from the working directory; several with --grpc",
    )
    parser.add_argument(
        "--grpc",
        action="store_true",
        help="what is named are gRPC servicers, or functions that take the server and add services to it",
    )
    add_identity(parser)
    parser.add_argument("--host", metavar="H", help="address to listen on (default: the one the control plane sees)")
    parser.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="[NAME=]P",
        help="a port to serve on, 0 for any free one (the default); may be repeated with names",
    )
    parser.add_argument(
        "--metrics-port", type=port, default=0, metavar="P", help="Prometheus text on loopback (default: any free port)"
    )
    parser.add_argument("--access-log", action="store_true", help="a line per request, in and out, on stderr")


def run(arguments: argparse.Namespace) -> int:
    ports = parse_ports(arguments.port)
    mesh = mesh_of(arguments)
    if not mesh.settings.service:
        raise UsageError("who is it that serves? Name it with --service or PROXYLESS_SERVICE")
    if len(arguments.application) > 1 and not arguments.grpc:
        raise UsageError("one application is served at a time; several gRPC servicers with --grpc")
    _log(arguments.access_log)
    with mesh:
        _same_mesh_for_the_application(mesh)
        if arguments.grpc:
            need_grpc()
            from proxyless.transport.grpc_server.servicers import load_servicer

            services = [_load(load_servicer, name) for name in arguments.application]
            serving = _serve_grpc(mesh, services, arguments, ports)
        else:
            serving = _serve(mesh, _load(load, arguments.application[0]), arguments, ports)
        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            runner.run(serving)
    return 0


def _load(load: Callable[[str], Found], name: str) -> Found:
    """An error of the application's own is shown with its trace, from where the application's code begins."""
    try:
        return load(name)
    except ProxylessError:
        raise
    except SystemExit as error:
        raise ProxylessError(f"{name} cannot be imported: it ends the process with status {error.code}") from None
    except Exception as error:
        ours = (str(Path(proxyless.__file__).parent), str(Path(importlib.__file__).parent), "<frozen importlib")
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
            trace = trace.tb_next
        output.message("".join(traceback.format_exception(type(error), error, trace)).rstrip())
        raise ProxylessError(f"{name} cannot be imported: {type(error).__name__}: {error}") from None


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's if it is installed, as uvicorn does it; None for asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def _serve_grpc(
    mesh: Mesh, services: "list[Register]", arguments: argparse.Namespace, ports: dict[str, int]
) -> None:
    from proxyless.transport.grpc_server.serve import serve_grpc

    await serve_grpc(
        services,
        mesh.runtime,
        ports=ports,
        host=arguments.host or await asyncio.to_thread(own_address, mesh.settings.control_plane),
        metrics_port=arguments.metrics_port,
        on_serving=lambda listening: _say_where(mesh, listening),
        on_signal=_end_in_time(),
    )


async def _serve(mesh: Mesh, loaded: Loaded, arguments: argparse.Namespace, ports: dict[str, int]) -> None:
    host = arguments.host or await asyncio.to_thread(own_address, mesh.settings.control_plane)
    await serve(
        loaded,
        mesh.runtime,
        ports=ports,
        host=host,
        metrics_port=arguments.metrics_port,
        on_listening=lambda listening: _join(mesh, listening),
        on_draining=lambda: asyncio.to_thread(mesh.runtime.drain, DRAIN_TIMEOUT),
        on_signal=_end_in_time(),
    )


def _end_in_time() -> Callable[[], None]:
    """What to call at the signal that ends the process: it then ends in time, whatever the application's threads do.

    Python waits for threads at exit: one request of a WSGI application that never ends would keep the process for ever.
    """
    asked = threading.Event()

    def watch() -> None:
        asked.wait()
        time.sleep(END_WITHIN)
        output.message("a request, or the application's own shutdown, does not end: exiting without it")
        os._exit(0)

    threading.Thread(target=watch, name="proxyless-end", daemon=True).start()
    return asked.set


async def _join(mesh: Mesh, listening: Listening) -> None:
    """Get ready before anybody is sent here: a certificate, what the ports require, then the registration."""
    runtime, told = mesh.runtime, ""
    # Nobody can connect to a wildcard address: the registry gets the one that peers reach.
    address = None if listening.host in WILDCARDS else listening.host
    while True:
        try:
            await asyncio.to_thread(runtime.join, listening.ports, address, JOIN_TIMEOUT)
            break
        except NotReadyError as error:
            # As a pod waits for its sidecar: no certificate, no service. It says so, once for each reason.
            if str(error) != told:
                told = str(error)
                output.message(f"waiting: {told}")
    _say_where(mesh, listening)


def _say_where(mesh: Mesh, listening: Listening) -> None:
    runtime = mesh.runtime
    shown = ", ".join(
        f"{name or 'port'} {join_address(listening.host, port)}" for name, port in listening.ports.items()
    )
    identity = runtime.identity.svid.spiffe_id if runtime.identity.svid else "no identity"
    output.message(f"serving {mesh.settings.service} on {shown} as {identity}")
    if listening.metrics is not None:
        output.message(f"metrics on http://{join_address(*listening.metrics)}/stats/prometheus")


def parse_ports(texts: list[str]) -> dict[str, int]:
    """``[NAME=]P`` texts as numbers by name; none means any free port. Raises UsageError for what is no port."""
    ports: dict[str, int] = {}
    for text in texts or ["0"]:
        name, _, number = text.rpartition("=")
        try:
            found = port(number)
        except argparse.ArgumentTypeError:
            raise UsageError(f"port {text!r} is not [NAME=]NUMBER, e.g. --port http=8080") from None
        if name in ports:
            what = f"the name {name!r} twice" if name else "two ports without a name"
            raise UsageError(f"--port has {what}: give each its own, e.g. --port http=8080 --port admin=8081")
        ports[name] = found
    return ports


def _same_mesh_for_the_application(mesh: Mesh) -> None:
    """``proxyless.Mesh()`` in the application is then this very mesh: one identity, one stream, one thread."""
    settings = mesh.settings
    os.environ.update(
        PROXYLESS_CONTROL_PLANE=settings.control_plane,
        PROXYLESS_SERVICE=settings.service,
        PROXYLESS_NAMESPACE=settings.namespace,
        PROXYLESS_SERVICE_ACCOUNT=settings.service_account,
        PROXYLESS_LABELS=",".join(f"{key}={value}" for key, value in settings.labels.items()),
        PROXYLESS_STATE_DIR=str(settings.state_dir),
    )
    if settings.token_file is not None:
        os.environ["PROXYLESS_TOKEN_FILE"] = str(settings.token_file)


def _log(access_log: bool) -> None:
    """Our own messages go to stderr; the application's logging stays its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("proxyless").addHandler(handler)
    access = logging.getLogger("proxyless.access")
    access.propagate = False
    if access_log:
        lines = logging.StreamHandler()
        lines.setFormatter(logging.Formatter("%(message)s"))
        access.addHandler(lines)
        access.setLevel(logging.INFO)
