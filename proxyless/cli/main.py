"""The ``proxyless`` command: finds the sub-command, runs it, and turns what went wrong into one line."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

import proxyless
from proxyless.cli import streams
from proxyless.model.errors import ProxylessError


class Command(Protocol):
    """What a command's module offers.

    register: add the command's parser, with ``help`` and an example. run: do it; 0 for success.
    """

    def register(self, subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None: ...
    def run(self, arguments: argparse.Namespace) -> int: ...


# Name: module, what it does. A module is imported only when its command runs: ``proxyless --help`` is instant.
COMMANDS = {
    "demo": ("proxyless.cli.demo", "a whole mesh on this machine: a canary rollout, measured"),
    "control-plane": ("proxyless.cli.control_plane", "run the control plane"),
    "serve": ("proxyless.cli.serve", "serve an ASGI or WSGI application, or gRPC services, in the mesh"),
    "envoy": ("proxyless.cli.envoy", "run an Envoy beside an application that is not Python"),
    "bootstrap": ("proxyless.cli.bootstrap", "bring an unmodified gRPC program (xds:///) into the mesh"),
    "request": ("proxyless.cli.request", "send a request, or many, through the mesh"),
    "explain": ("proxyless.cli.explain", "say what would happen to a request, and why"),
    "apply": ("proxyless.cli.apply", "put configuration into a running control plane"),
    "wait": ("proxyless.cli.wait", "wait until configuration is live in every client, or say who refused it"),
    "get": ("proxyless.cli.get", "show configuration"),
    "delete": ("proxyless.cli.delete", "remove configuration"),
    "analyze": ("proxyless.cli.analyze", "find what is wrong with YAML files, offline"),
    "proxy-status": ("proxyless.cli.proxy_status", "show who is connected, and whether they are up to date"),
    "proxy-config": ("proxyless.cli.proxy_config", "show what one client was sent and accepted"),
    "token": ("proxyless.cli.token", "issue an enrolment token"),
}
# The top-level modules that the extra ``control-plane`` brings.
_EXTRA = frozenset({"grpc", "grpc_health", "pydantic", "starlette", "watchfiles", "yaml"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``proxyless ARGUMENTS``. Returns the exit status: 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    streams.prepare()
    if wrong := streams.no_text(arguments):
        sys.stderr.write(f"proxyless: the argument {wrong!r} is not text in this locale's encoding (UTF-8 mostly)\n")
        return 2
    try:
        return _run(arguments)
    except ProxylessError as error:
        from proxyless.cli.parsers import UsageError

        sys.stderr.write(f"proxyless: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        # What an application under ``serve`` lacks is its own error, and keeps its traceback.
        if arguments[0] == "serve" or (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"proxyless: `proxyless {arguments[0]}` needs {error.name}, which is not installed: "
            "pip install 'proxyless[control-plane]'\n"
        )
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        streams.drop_output()  # the reader, such as ``head``, has seen enough
        return 141
    except OSError as error:
        if error.errno not in streams.FULL or error.filename is not None:
            raise
        streams.drop_output()
        sys.stderr.write(f"proxyless: what it says cannot be written: {error.strerror}\n")
        return 1


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="proxyless",
        description="A service mesh inside the Python process.",
        epilog="example:\n  proxyless demo\n\n`proxyless COMMAND --help` shows an example of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"proxyless {proxyless.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        command = cast(Command, importlib.import_module(COMMANDS[name][0]))
        command.register(subparsers)
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            # By the command's own parser, so that its usage is shown and not ours.
            subparsers.choices[name].error(f"unrecognized arguments: {' '.join(unknown)}")
        result = command.run(parsed)
        sys.stdout.flush()
        return result
    for known, (_, summary) in COMMANDS.items():
        subparsers.add_parser(known, help=summary, add_help=False)
    parser.parse_args(arguments)
    return 2


if __name__ == "__main__":
    sys.exit(main())
