"""``proxyless demo``: a bookstore of real processes in a mesh, a rollout walked step by step, each step measured."""

import argparse

from proxyless.cli.parsers import Subparsers, add_command


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "demo",
        "run a whole mesh on this machine and walk a canary rollout, measuring each step",
        "proxyless demo --keep",
    )
    parser.add_argument("--keep", action="store_true", help="leave the mesh running and say how to explore it")


def run(arguments: argparse.Namespace) -> int:
    from proxyless.cli.demo.command import run as run_demo

    return run_demo(keep=arguments.keep)
