"""``proxyless apply -f PATH``: configuration into a running control plane, validated before any of it takes effect."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxyless.cli import output
from proxyless.cli.connection import ApiError, Connection
from proxyless.cli.parsers import Subparsers, add_command, add_output, add_state_dir, namespace
from proxyless.cli.rollout import TIMEOUT, is_live, timeout, wait_for
from proxyless.model.errors import ProxylessError

_SUFFIXES = (".yaml", ".yml", ".json")


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "apply",
        "put configuration into a running control plane",
        "proxyless apply -f reviews-90-10.yaml --wait",
    )
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="PATH",
        help="YAML or JSON file, directory, or - for standard input; may be repeated",
    )
    parser.add_argument(
        "-n",
        "--namespace",
        type=namespace,
        default="default",
        help="of documents that name none (default: %(default)s)",
    )
    parser.add_argument(
        "--wait", action="store_true", help="until every client concerned has accepted it; fail if one refuses or lags"
    )
    parser.add_argument("--timeout", type=timeout, default=TIMEOUT, metavar="TIME", help="of --wait (default: 30s)")
    add_output(parser, "text", "json")
    add_state_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    texts = list(_texts(arguments.filename))
    connection = Connection(arguments.state_dir)
    if len(texts) > 1:
        # All or nothing also over several files: the first pass only validates.
        checked = [_apply(connection, file, text, arguments.namespace, dry_run=True) for file, text in texts]
        if None in checked:
            return 1
    applied: list[dict[str, Any]] = []
    generation = 0
    for file, text in texts:
        answer = _apply(connection, file, text, arguments.namespace)
        if answer is None:
            return 1
        output.problems(answer["problems"])
        applied += answer["results"]
        generation = answer["generation"]
        if arguments.output == "text":
            for result in answer["results"]:
                output.data(f"{result['kind'].lower()}/{result['name']} {result['action']}")
    rollout = wait_for(connection, generation, applied, arguments.timeout) if arguments.wait else None
    if arguments.output == "json":
        output.as_json({"results": applied, "generation": generation, "rollout": rollout})
    return 0 if rollout is None or is_live(rollout) else 1


def _apply(connection: Connection, file: str, text: bytes, namespace: str, *, dry_run: bool = False) -> Any:
    query: dict[str, object] = {"file": file, "namespace": namespace}
    if dry_run:
        query["dryRun"] = "true"
    try:
        return connection.call("POST", "apply", query=query, body=text)
    except ApiError as error:
        if not error.problems:
            raise
        output.problems(error.problems)
        output.message(f"proxyless: {error}")
        return None


def _texts(names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        if name == "-":
            yield "standard input", sys.stdin.buffer.read()
            continue
        path = Path(name)
        if path.is_dir():
            files = sorted(found for found in path.rglob("*") if found.suffix in _SUFFIXES and found.is_file())
            if not files:
                raise ProxylessError(f"{path} has no *.yaml, *.yml or *.json file")
        else:
            files = [path]
        for file in files:
            try:
                yield str(file), file.read_bytes()
            except OSError as error:
                raise ProxylessError(f"cannot read {file}: {error.strerror}") from None
