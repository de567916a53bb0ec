"""``proxyless explain``: the decision about a request and its reasons, from files or from a running control plane."""

import argparse
import base64
from collections.abc import Mapping
from pathlib import Path

from proxyless.cli import output
from proxyless.cli.connection import Connection
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
from proxyless.engine.request import Request

# Serialized google.protobuf.Any by type URL and name: all that a client which dials the target would be sent.
Resources = Mapping[str, Mapping[str, bytes]]


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
        "--from", dest="source", default="default/", metavar="NS/SERVICE", help="who calls (default: namespace default)"
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
    namespace, service = _source(arguments.source)
    caller = {**({"app": service} if service else {}), **labels(arguments.label)}
    if arguments.config:
        resources, origin = _from_files(arguments.config, request, namespace, caller), Origin.FILES
    else:
        resources = _from_control_plane(Connection(arguments.state_dir), request, namespace, caller)
        origin = Origin.CONTROL_PLANE
    told = explain(compile_snapshot(resources, [request.target], origin), request)
    if arguments.config and any(not leg.endpoints for leg in told.clusters):
        output.message("from files: workloads that register themselves are not known here, so they are not shown")
    if arguments.output == "json":
        output.as_json(told.to_dict())
    else:
        for line in told.to_text():
            output.data(line)
    return 0


def _source(text: str) -> tuple[str, str]:
    """``NS/SERVICE``, or a service of the namespace default."""
    namespace, slash, service = text.rpartition("/")
    if (slash and not namespace) or "/" in namespace:
        raise UsageError(f"--from {text!r} is not NAMESPACE/SERVICE, e.g. --from default/productpage")
    return namespace or "default", service


def _from_control_plane(
    connection: Connection, request: Request, namespace: str, caller: Mapping[str, str]
) -> Resources:
    answer = connection.get(
        "translate",
        namespace=namespace,
        labels=",".join(f"{key}={value}" for key, value in caller.items()),
        targets=request.target,
    )
    return {
        type_url: {name: base64.b64decode(text) for name, text in named.items()}
        for type_url, named in answer["resources"].items()
    }


def _from_files(paths: list[Path], request: Request, namespace: str, caller: Mapping[str, str]) -> Resources:
    """The same path a request's configuration takes, without the sockets: YAML, translation, the client's compiler."""
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
    world = World(configuration.resources, settings=mesh_settings(configuration.resources, MeshSettings()))
    client = Client(namespace=namespace, labels=caller)
    return {
        type_url: {name: resource.any.SerializeToString() for name, resource in named.items()}
        for type_url, named in closure(Translator(world), client, [request.target]).items()
    }
