"""``proxyless get KIND [NAME]``: the configuration that a running control plane serves."""

import argparse
import time
from typing import Any

from proxyless.cli import output
from proxyless.cli.connection import Connection, segment
from proxyless.cli.parsers import Subparsers, add_command, add_output, add_state_dir, namespace


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "get", "show configuration", "proxyless get vs reviews -n default -o yaml")
    parser.add_argument(
        "kind",
        metavar="KIND",
        help="as with kubectl: virtualservice, virtualservices, vs, dr, se, svc, ...; or workloads",
    )
    parser.add_argument("name", nargs="?", default="", metavar="NAME")
    parser.add_argument("-n", "--namespace", type=namespace, default=None, help="default: all; with a NAME: default")
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
        documents = [_with_status(item) for item in items]
        output.as_json(documents[0] if arguments.name else {"items": documents})
    elif arguments.output == "yaml":
        import yaml

        if documents:
            output.data(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))
    elif items:
        output.table(("NAMESPACE", "NAME", "STATUS", "AGE", "SOURCE"), map(_row, items))
        for item in items:
            _say(item)
    else:
        output.message(f"no {arguments.kind} found")
    return 0


def _with_status(item: dict[str, Any]) -> dict[str, Any]:
    if item["status"] is None:
        return dict(item["document"])
    return {**item["document"], "status": {**item["status"], "source": item["source"]}}


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    metadata = item["document"]["metadata"]
    age = _age(item["created"])
    return metadata.get("namespace", ""), metadata["name"], _state(item["status"]), age, item["source"]


def _state(status: dict[str, Any] | None) -> str:
    """``accepted``, or by how many of the clients that have to do with it it is not."""
    if status is None:
        return "-"
    state = str(status["state"])
    if state not in ("pending", "refused"):
        return state
    return f"{state} {status[state]}/{status['accepted'] + status['pending'] + status['refused']}"


def _say(item: dict[str, Any]) -> None:
    document, status = item["document"], item["status"]
    if status is None:
        return
    name = "/".join(part for part in (document["metadata"].get("namespace"), document["metadata"]["name"]) if part)
    what = f"{item['source']}: {document['kind']} {name}"
    for refusal in status["refusals"]:
        output.line(f"{what}: {refusal['node']} refused {refusal['type']} {refusal['name']}: {refusal['reason']}")
    for each in status["leftOut"]:
        output.line(f"{what}: not sent to {each['kind']} clients: {each['note']}")


def _age(created: float) -> str:
    """Time since, in its largest unit, as kubectl writes it."""
    if not created:
        return "-"
    seconds = max(0, int(time.time() - created))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
