"""``proxyless get KIND [NAME]``: the configuration that a running control plane serves."""

import argparse
import time
from typing import Any

from proxyless.cli import output
from proxyless.cli.connection import Connection, segment
from proxyless.cli.parsers import Subparsers, add_command, add_output, add_state_dir


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "get", "show configuration", "proxyless get vs reviews -n default -o yaml")
    parser.add_argument(
        "kind",
        metavar="KIND",
        help="as with kubectl: virtualservice, virtualservices, vs, dr, se, svc, ...; or workloads",
    )
    parser.add_argument("name", nargs="?", default="", metavar="NAME")
    parser.add_argument("-n", "--namespace", default="", help="default: all; with a NAME: default")
    add_output(parser, "table", "json", "yaml")
    add_state_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    connection = Connection(arguments.state_dir)
    path = f"resources/{segment(arguments.kind)}"
    if arguments.name:
        path += f"/{segment(arguments.namespace or 'default')}/{segment(arguments.name)}"
        items = [connection.get(path)]
    else:
        query = {"namespace": arguments.namespace} if arguments.namespace else {}
        items = connection.get(path, **query)["items"]
    documents = [item["document"] for item in items]
    if arguments.output == "json":
        output.as_json(documents[0] if arguments.name else {"items": documents})
    elif arguments.output == "yaml":
        import yaml

        if documents:
            output.data(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))
    elif items:
        output.table(("NAMESPACE", "NAME", "AGE", "SOURCE"), map(_row, items))
    else:
        output.message(f"no {arguments.kind} found")
    return 0


def _row(item: dict[str, Any]) -> tuple[str, str, str, str]:
    metadata = item["document"]["metadata"]
    return metadata.get("namespace", ""), metadata["name"], _age(item["created"]), item["source"]


def _age(created: float) -> str:
    """Time since, in its largest unit, as kubectl writes it."""
    if not created:
        return "-"
    seconds = max(0, int(time.time() - created))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
