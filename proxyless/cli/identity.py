"""Options of commands that are a workload for a moment: who they are, and where their control plane is."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from proxyless.cli.parsers import UsageError, folder

if TYPE_CHECKING:
    from proxyless.mesh import Mesh


def add_identity(parser: argparse.ArgumentParser) -> None:
    """What is not given comes from the environment (``PROXYLESS_*``) or a gRPC bootstrap file."""
    parser.add_argument("--service", help="this workload's service")
    parser.add_argument("--namespace", metavar="NS", help="its namespace (default: default)")
    parser.add_argument("--service-account", metavar="SA", help="its service account (default: default)")
    parser.add_argument(
        "--label", action="append", default=[], metavar="K=V", help="a label of the workload; may be repeated"
    )
    parser.add_argument("--control-plane", metavar="H:P", help="the control plane's TLS address")
    parser.add_argument("--token-file", type=Path, metavar="F", help="an enrolment token (not needed with --dev)")
    parser.add_argument("--state-dir", type=folder, metavar="DIR", help="default: $PROXYLESS_STATE_DIR")


def mesh_of(arguments: argparse.Namespace) -> "Mesh":
    """The mesh that the options describe."""
    from proxyless.mesh import Mesh

    return Mesh(
        control_plane=arguments.control_plane,
        service=arguments.service,
        namespace=arguments.namespace,
        service_account=arguments.service_account,
        labels=labels(arguments.label) or None,
        token_file=arguments.token_file,
        state_dir=arguments.state_dir,
    )


def labels(pairs: list[str]) -> dict[str, str]:
    """``K=V`` texts as a mapping. Raises UsageError for one without an equals sign."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"label {pair!r} is not KEY=VALUE, e.g. --label version=v1")
        found[key] = value
    return found
