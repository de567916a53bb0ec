"""``proxyless wait [KIND/NAME ...]``: until configuration is live in every client that it concerns."""

import argparse

from proxyless.cli import output
from proxyless.cli.connection import Connection
from proxyless.cli.parsers import Subparsers, UsageError, add_command, add_output, add_state_dir, namespace
from proxyless.cli.rollout import TIMEOUT, is_live, timeout, wait_for


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "wait",
        "wait until configuration is live in every client, or say who refused what and why",
        "proxyless wait vs/reviews dr/reviews --timeout 10s",
    )
    parser.add_argument(
        "resources",
        nargs="*",
        metavar="KIND/NAME",
        help="such as vs/reviews; default: the whole configuration",
    )
    parser.add_argument("-n", "--namespace", type=namespace, default="default", help="default: %(default)s")
    parser.add_argument("--timeout", type=timeout, default=TIMEOUT, metavar="TIME", help="default: 30s, at most 10m")
    add_output(parser, "text", "json")
    add_state_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    named = [_resource(text, arguments.namespace) for text in arguments.resources]
    rollout = wait_for(Connection(arguments.state_dir), None, named, arguments.timeout)
    if arguments.output == "json":
        output.as_json(rollout)
    return 0 if is_live(rollout) else 1


def _resource(text: str, namespace: str) -> dict[str, str]:
    kind, slash, name = text.partition("/")
    if not kind or not slash or not name:
        raise UsageError(f"{text!r} is not KIND/NAME, e.g. vs/reviews")
    return {"kind": kind, "namespace": namespace, "name": name}
