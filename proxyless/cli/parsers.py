"""Argument types and options that several commands share."""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from proxyless.engine.request import Request
from proxyless.engine.url import request_for
from proxyless.model.address import split_address
from proxyless.model.errors import ConfigurationError, ProxylessError
from proxyless.model.state_dir import default_state_dir


class UsageError(ProxylessError):
    """The command line itself is wrong: exit status 2, as argparse has it, but in one line."""


# argparse has no public name for what ``add_subparsers`` returns.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?\Z")
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_command(subparsers: Subparsers, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """A command's parser, with an example at the end of its help."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        type=folder,
        default=default_state_dir(),
        metavar="DIR",
        help="the control plane's state directory (default: $PROXYLESS_STATE_DIR or %(default)s)",
    )


def add_output(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument("-o", "--output", choices=formats, default=formats[0], help="default: %(default)s")


def add_headers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="'K: V'", help="a request header; may be repeated"
    )


def parse_headers(lines: Iterable[str]) -> list[tuple[str, str]]:
    """``K: V`` lines as curl takes them. Raises UsageError for one without a colon."""
    found = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError(f"header {line!r} is not 'NAME: VALUE', e.g. -H 'end-user: jason'")
        found.append((name.strip(), value.strip()))
    return found


def parse_url(method: str, url: str, headers: Sequence[tuple[str, str]]) -> Request:
    """The request that this becomes. Raises UsageError for what is no URL of a request."""
    try:
        return request_for(method, url, dict(headers))
    except ConfigurationError as error:
        raise UsageError(str(error)) from None


def folder(text: str) -> Path:
    """A directory. Not the working directory for an empty variable: keys would be written to it."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a directory, or leave the option out")
    return Path(text)


def duration(text: str) -> float:
    """``90``, ``30s``, ``1h``, ``7d`` in seconds."""
    match = _DURATION.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 30s, 15m, 1h or 7d")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds <= 0:
        raise argparse.ArgumentTypeError("a duration must be longer than 0")
    return seconds


def port(text: str) -> int:
    """A port to listen on; 0 means any free one."""
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[V6]:PORT``; port 0 means any free one."""
    try:
        return split_address(text, any_port=True)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def namespace(text: str) -> str:
    """A namespace's name, as the control plane takes it."""
    if _NAMESPACE.match(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a namespace: lower case letters, digits and '-', at most 63, no '-' at its ends"
        )
    return text


def service_account(text: str) -> tuple[str, str]:
    """``NAMESPACE/SERVICE-ACCOUNT``."""
    namespace, slash, account = text.partition("/")
    if not (namespace and slash and account) or "/" in account:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE/SERVICE-ACCOUNT, e.g. default/reviews")
    return namespace, account
