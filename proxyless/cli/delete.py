"""``proxyless delete KIND NAME``."""

import argparse

from proxyless.cli import output
from proxyless.cli.connection import Connection, segment
from proxyless.cli.parsers import Subparsers, add_command, add_state_dir, namespace


def register(subparsers: Subparsers) -> None:
    parser = add_command(subparsers, "delete", "remove configuration", "proxyless delete vs reviews")
    parser.add_argument("kind", metavar="KIND", help="as with kubectl: virtualservice, vs, dr, se, svc, ...")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("-n", "--namespace", type=namespace, default="default", help="default: %(default)s")
    add_state_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    path = "/".join(map(segment, (arguments.kind, arguments.namespace, arguments.name)))
    deleted = Connection(arguments.state_dir).call("DELETE", f"resources/{path}")
    output.data(f"{deleted['kind'].lower()}/{deleted['name']} deleted")
    return 0
