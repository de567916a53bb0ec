"""``proxyless envoy``: a real Envoy in the mesh, for applications that are not Python."""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxyless.cli import output
from proxyless.cli.identity import add_identity, labels
from proxyless.cli.logs import OneLine
from proxyless.cli.parsers import Subparsers, UsageError, add_command, port

if TYPE_CHECKING:
    from proxyless.envoy.sidecar import Sidecar
    from proxyless.envoy.tracing import Tracing

_LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")
_EXAMPLE = "proxyless envoy sidecar --service ratings --app-port 8080"


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "envoy", "run an Envoy beside an application that is not Python", _EXAMPLE)
    roles = parser.add_subparsers(metavar="ROLE", required=True)
    sidecar = add_command(
        roles,
        "sidecar",
        "take one application's calls, in and out, through an Envoy",
        f"{_EXAMPLE}\n  curl --proxy http://127.0.0.1:15001 http://reviews/",
    )
    add_identity(sidecar)
    sidecar.add_argument("--app-port", type=_port, required=True, metavar="P", help="the application's, on 127.0.0.1")
    sidecar.add_argument(
        "--outbound-port",
        type=port,
        default=15001,
        metavar="P",
        help="where the application calls, as its HTTP proxy, on 127.0.0.1; 0 for any free one (default: %(default)s)",
    )
    sidecar.add_argument(
        "--inbound-port",
        type=_named_port,
        default=("", 0),
        metavar="[NAME=]P",
        help="where callers come in, 0 for any free one (the default); a name such as grpc says what is spoken",
    )
    sidecar.add_argument(
        "--host", metavar="IP", help="address that callers come in by (default: the one the control plane sees)"
    )
    sidecar.add_argument(
        "--admin-port",
        type=_port,
        default=0,
        metavar="P",
        help="Envoy's admin interface and metrics, on 127.0.0.1 (default: a socket that only this user can open)",
    )
    sidecar.add_argument("--concurrency", type=_count, default=2, metavar="N", help="threads (default: %(default)s)")
    sidecar.add_argument("--log-level", choices=_LOG_LEVELS, default="warning", help="Envoy's (default: %(default)s)")
    sidecar.add_argument("--sotw", action="store_true", help="state-of-the-world xDS instead of incremental")


def run(arguments: argparse.Namespace) -> int:
    from proxyless.envoy.sidecar import Options, Sidecar
    from proxyless.settings import load_settings

    settings = load_settings(
        control_plane=arguments.control_plane,
        service=arguments.service,
        namespace=arguments.namespace,
        service_account=arguments.service_account,
        labels=labels(arguments.label) or None,
        token_file=arguments.token_file,
        state_dir=arguments.state_dir,
    )
    if not settings.service:
        raise UsageError("whose sidecar is it? Name the service with --service or PROXYLESS_SERVICE")
    options = Options(
        settings,
        app_port=arguments.app_port,
        outbound_port=arguments.outbound_port,
        inbound_name=arguments.inbound_port[0],
        inbound_port=arguments.inbound_port[1],
        host=arguments.host,
        admin_port=arguments.admin_port,
        concurrency=arguments.concurrency,
        log_level=arguments.log_level,
        delta=not arguments.sotw,
        tracing=tracing(os.environ, f"{settings.service}.{settings.namespace}"),
    )
    sidecar = Sidecar(options, output.message)
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("proxyless").addHandler(handler)
    asyncio.run(_run(sidecar))
    return 0


async def _run(sidecar: "Sidecar") -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sidecar.stop)
    await sidecar.run()


def tracing(environ: Mapping[str, str], service: str) -> "Tracing | None":
    """As a library process exports: OpenTelemetry's variables, and Istio's 1% unless a sampler is named."""
    from proxyless.envoy.tracing import Tracing
    from proxyless.telemetry.exporters import traces_exporters
    from proxyless.telemetry.sampling import from_environment

    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or "otlp" not in traces_exporters(environ):
        return None
    url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not url:
        url = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "") or "http://localhost:4318"
        url = url.rstrip("/") + "/v1/traces"
    return Tracing(url, environ.get("OTEL_SERVICE_NAME") or service, from_environment(environ).ratio * 100)


def _port(text: str) -> int:
    if number := port(text):
        return number
    raise argparse.ArgumentTypeError("0 is no port; give the number of one")


def _named_port(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    return name, port(number)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 999")
