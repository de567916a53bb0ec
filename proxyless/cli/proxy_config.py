"""``proxyless proxy-config NODE [TYPE]``: the xDS resources behind ``proxy-status``."""

import argparse
from typing import Any

from proxyless.cli import output
from proxyless.cli.connection import Connection, segment
from proxyless.cli.parsers import Subparsers, add_command, add_output, add_state_dir
from proxyless.model.errors import ProxylessError

_TYPES = ("listeners", "routes", "clusters", "endpoints")


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "proxy-config",
        "show what one client was sent and accepted",
        "proxyless proxy-config reviews-vm-4711 clusters,endpoints",
    )
    parser.add_argument("node", metavar="NODE", help="as proxy-status prints it, or a part that only one node has")
    parser.add_argument("types", nargs="?", default="", metavar="TYPES", help=f"of {','.join(_TYPES)}; default: all")
    add_output(parser, "table", "json")
    add_state_dir(parser)
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    wanted = [name for name in arguments.types.split(",") if name]
    for name in wanted:
        if name not in _TYPES:
            arguments.usage_error(f"{name!r} is none of {', '.join(_TYPES)}")
    connection = Connection(arguments.state_dir)
    configuration = connection.get(f"proxy-config/{segment(_node(connection, arguments.node))}")
    types = [entry for entry in configuration["types"] if not wanted or entry["type"] in wanted]
    if arguments.output == "json":
        output.as_json({"node": configuration["node"], "types": types})
        return 0
    output.table(
        ("TYPE", "STATE", "NAME", "SENT", "ACCEPTED"),
        (row for entry in types for row in _rows(entry)),
    )
    return 0


def _node(connection: Connection, text: str) -> str:
    """The node that is called ``text``, or the only one with that in its name."""
    nodes = dict.fromkeys(client["node"] for client in connection.get("proxy-status")["clients"])
    found = [text] if text in nodes else [node for node in nodes if text in node]
    if len(found) > 1:
        raise ProxylessError(f"{text!r} is in the names of {len(found)} nodes: {', '.join(found[:5])}; say more of it")
    return found[0] if found else text


def _rows(entry: dict[str, Any]) -> list[tuple[str, ...]]:
    sent, accepted = entry["sent"], entry["accepted"]
    rows: list[tuple[str, ...]] = []
    for name in sorted(sent.keys() | accepted.keys()):
        # What the client uses is what it accepted: say when that is not what it was sent last.
        taken = "no" if name not in accepted else "yes" if accepted[name] == sent.get(name) else "an earlier one"
        rows.append((entry["type"], entry["state"], name, "yes" if name in sent else "removed", taken))
    return rows
