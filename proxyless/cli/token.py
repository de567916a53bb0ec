"""``proxyless token``: an enrolment token for a workload."""

import argparse
import json

from proxyless.cli import output
from proxyless.cli.connection import Connection
from proxyless.cli.parsers import Subparsers, add_command, add_output, add_state_dir, duration, service_account


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "token",
        "issue an enrolment token",
        "proxyless token --service-account default/reviews --ttl 1h > reviews.token",
    )
    parser.add_argument("--service-account", required=True, type=service_account, metavar="NS/SA")
    parser.add_argument("--ttl", type=duration, default=3600.0, metavar="TIME", help="default: 1h")
    add_output(parser, "text", "json")
    add_state_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    namespace, account = arguments.service_account
    body = {"namespace": namespace, "serviceAccount": account, "ttl": arguments.ttl}
    issued = Connection(arguments.state_dir).call("POST", "tokens", body=json.dumps(body).encode())
    if arguments.output == "json":
        output.as_json(issued)
    else:
        output.data(issued["token"])
    return 0
