"""``proxyless analyze PATH...``: what is wrong with YAML files, without a control plane."""

import argparse
from pathlib import Path

from proxyless.cli import output
from proxyless.cli.parsers import Subparsers, add_command, add_output


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers, "analyze", "find what is wrong with YAML files, offline", "proxyless analyze mesh/ -o json"
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="YAML or JSON file or directory")
    add_output(parser, "text", "json")
    parser.set_defaults(usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """0 without errors (warnings allowed), 1 with, 2 for paths that are not there."""
    from proxyless.control_plane.configuration import Configuration
    from proxyless.control_plane.resources.problem import has_error
    from proxyless.control_plane.store.memory import MemoryStore
    from proxyless.model.errors import ConfigurationError

    configuration = Configuration(arguments.paths, MemoryStore())
    try:
        configuration.load()
    except ConfigurationError as error:
        arguments.usage_error(str(error))
    problems = configuration.problems
    if arguments.output == "json":
        output.as_json([problem.to_dict() for problem in problems])
    else:
        for problem in problems:
            output.data(output.problem_line(problem.to_dict()))
        if not problems:
            output.message(f"no problems in {len(configuration.resources)} resources")
    return 1 if has_error(problems) else 0
