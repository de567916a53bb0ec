"""``proxyless proxy-status``: who is connected, and whether they accepted what they were sent."""

import argparse
from typing import Any

from proxyless.cli import output
from proxyless.cli.connection import Connection
from proxyless.cli.parsers import Subparsers, add_command, add_output, add_state_dir

_TYPES = ("clusters", "listeners", "endpoints", "routes")


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "proxy-status",
        "show who is connected, and whether they are up to date",
        "proxyless proxy-status",
    )
    add_output(parser, "table", "json")
    add_state_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    clients = Connection(arguments.state_dir).get("proxy-status")["clients"]
    if arguments.output == "json":
        output.as_json(clients)
        return 0
    if not clients:
        output.message("no client is connected")
        return 0
    output.table(("NODE", "NAMESPACE", "SERVICE", "KIND", *(name.upper() for name in _TYPES)), map(_row, clients))
    for client in clients:
        for status in client["types"]:
            # While a response of several is searched for the one at fault, nobody knows its name yet.
            refused = status["refused"] or ({"": status["error"]} if status["error"] else {})
            for name, reason in refused.items():
                output.line(f"{client['node']} refused {status['type']} {name}".rstrip() + f": {reason}")
        for note in client["leftOut"]:
            output.line(f"{client['node']} was not sent: {note}")
    return 0


def _row(client: dict[str, Any]) -> tuple[str, ...]:
    states = {status["type"]: status["state"] for status in client["types"]}
    return (
        client["node"],
        client["namespace"],
        client["service"],
        client["kind"],
        *(states.get(name, "-") for name in _TYPES),
    )
