"""``proxyless explain``: the decision about a request and its reasons, from files or from a running control plane."""

import argparse
import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from proxyless.cli import output
from proxyless.cli.connection import Connection
from proxyless.cli.explain_access import Access, Ask, Resources, Server, accesses
from proxyless.cli.identity import labels
from proxyless.cli.parsers import (
    Subparsers,
    UsageError,
    add_command,
    add_headers,
    add_output,
    add_state_dir,
    parse_headers,
    parse_url,
)
from proxyless.engine.explain import explain
from proxyless.model.cluster import Cluster, Endpoint, UpstreamTls


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "explain",
        "say what would happen to a request, and why",
        "proxyless explain GET http://reviews/reviews/0 -H 'end-user: jason' --from default/productpage",
    )
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("url", metavar="URL")
    add_headers(parser)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="NS/SERVICE",
        help="who calls, and whether its servers let it in (default: namespace default, no service)",
    )
    parser.add_argument(
        "--from-account",
        metavar="SA",
        help="the caller's service account, for its servers' policies (default: default)",
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="K=V", help="a label of the caller; may be repeated"
    )
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="PATH",
        help="files or directories to explain from, instead of a running control plane",
    )
    add_output(parser, "text", "json")
    add_state_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    from proxyless.model.snapshot import Origin
    from proxyless.xds_client.offline import compile_snapshot

    request = parse_url(arguments.method, arguments.url, parse_headers(arguments.header))
    namespace, service = _source(arguments.source or "default/")
    caller = {**({"app": service} if service else {}), **labels(arguments.label)}
    unknown: Callable[[Cluster], list[Server]] = _nobody
    if arguments.config:
        ask, unknown = _from_files(arguments.config)
        origin = Origin.FILES
    else:
        ask, origin = _from_control_plane(Connection(arguments.state_dir)), Origin.CONTROL_PLANE
    snapshot = compile_snapshot(ask(namespace, caller, request.target), [request.target], origin)
    told = explain(snapshot, request)
    if arguments.config and any(not leg.endpoints for leg in told.clusters):
        output.message("from files: workloads that register themselves are not known here, so they are not shown")
    asked = arguments.source is not None or arguments.from_account is not None
    found: list[Access] = []
    if asked and told.route is not None and told.outcome == "forward":
        identity = (namespace, arguments.from_account or "default")
        found = list(accesses(snapshot, request, told.route, caller=identity, ask=ask, unknown=unknown))
    if arguments.output == "json":
        output.as_json({**told.to_dict(), "servers": [asdict(one) for one in found]} if asked else told.to_dict())
        return 0
    for line in told.to_text():
        output.data(line)
    if found:
        output.data("servers that would get it:")
    for one in found:
        output.data(one.to_text())
    return 0


def _source(text: str) -> tuple[str, str]:
    """``NS/SERVICE``, or a service of the namespace default."""
    namespace, slash, service = text.rpartition("/")
    if (slash and not namespace) or "/" in namespace:
        raise UsageError(f"--from {text!r} is not NAMESPACE/SERVICE, e.g. --from default/productpage")
    return namespace or "default", service


def _nobody(_: Cluster) -> list[Server]:
    return []


def _from_control_plane(connection: Connection) -> Ask:
    def ask(namespace: str, caller: Mapping[str, str], target: str) -> Resources:
        answer = connection.get(
            "translate",
            namespace=namespace,
            labels=",".join(f"{key}={value}" for key, value in caller.items()),
            targets=target,
        )
        return {
            type_url: {name: base64.b64decode(text) for name, text in named.items()}
            for type_url, named in answer["resources"].items()
        }

    return ask


def _from_files(paths: list[Path]) -> tuple[Ask, Callable[[Cluster], list[Server]]]:
    """The same path a request's configuration takes, without the sockets: YAML, translation, the client's compiler.

    Also who would serve a cluster of which no endpoint is known: workloads with the labels that its Service selects.
    """
    from proxyless.control_plane.closure import closure
    from proxyless.control_plane.configuration import Configuration
    from proxyless.control_plane.configuration.settings import mesh_settings
    from proxyless.control_plane.store.memory import MemoryStore
    from proxyless.control_plane.translate.client import Client
    from proxyless.control_plane.translate.translator import Translator
    from proxyless.control_plane.world import MeshSettings, World

    configuration = Configuration(paths, MemoryStore())
    configuration.load()
    output.problems(problem.to_dict() for problem in configuration.problems)
    settings = mesh_settings(configuration.resources, MeshSettings())
    translator = Translator(World(configuration.resources, settings=settings))

    def ask(namespace: str, caller: Mapping[str, str], target: str) -> Resources:
        client = Client(namespace=namespace, labels=caller)
        return {
            type_url: {name: resource.any.SerializeToString() for name, resource in named.items()}
            for type_url, named in closure(translator, client, [target]).items()
        }

    def selected(cluster: Cluster) -> list[Server]:
        found = configuration.get("Service", cluster.service, cluster.service_namespace) if cluster.service else []
        number = cluster.name.split("|")[1]
        return [
            Server(one.namespace, tuple(sorted(one.spec.selector.items())), Endpoint("0.0.0.0", at, tls=UpstreamTls()))  # noqa: S104
            for one in found
            for port in one.spec.ports
            if str(port.port) == number
            and isinstance(at := port.target_port if isinstance(port.target_port, int) else port.port, int)
        ]

    return ask, selected
