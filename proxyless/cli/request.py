"""``proxyless request``: a request, or many, through the mesh, with what the mesh did about each."""

import argparse
import base64
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2

from proxyless.cli import output
from proxyless.cli.identity import add_identity, mesh_of
from proxyless.cli.interrupt import Interrupt
from proxyless.cli.logs import OneLine
from proxyless.cli.parsers import Subparsers, UsageError, add_command, add_headers, add_output, parse_headers, parse_url
from proxyless.engine.record import PHASES, AttemptRecord, CallRecord
from proxyless.engine.request import Request
from proxyless.mesh import Mesh, need_grpc

READY_TIMEOUT = 10.0


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "request",
        "send a request, or many, through the mesh",
        "proxyless request GET http://reviews/reviews/0 -H 'end-user: jason' -o json",
    )
    parser.add_argument("method", metavar="METHOD", help="of HTTP; left out with grpc://HOST[:PORT]/SERVICE/METHOD")
    parser.add_argument("url", metavar="URL", nargs="?")
    add_headers(parser)
    parser.add_argument("-d", "--data", default="", help="the request's body")
    parser.add_argument("--repeat", type=positive, default=1, metavar="N", help="send it N times, one after the other")
    parser.add_argument("--explain", action="store_true", help="say first why it goes where it goes, on stderr")
    add_output(parser, "text", "json")
    add_identity(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 if every request was answered, whatever the status; 1 if one was not; 130 for Ctrl-C, after what was done."""
    if arguments.method.startswith("grpc://"):
        return _run_grpc(arguments)
    if arguments.url is None:
        raise UsageError("write METHOD and URL, e.g. proxyless request GET http://reviews/")
    headers = parse_headers(arguments.header)
    request = parse_url(arguments.method, arguments.url, headers)
    done: list[dict[str, Any]] = []
    with _warnings_once(), Interrupt() as interrupt, mesh_of(arguments) as mesh:
        interrupt.run(lambda: _send_all(mesh, arguments, headers, done, interrupt))
        if any(one["error"] for one in done):
            _say_if_outside(mesh, request)
    if not done:
        return 130  # nothing to show: Ctrl-C came before the first answer
    _show(arguments, done)
    if arguments.explain:
        print_phases(summary(done)["phases"], arguments.repeat > 1)
    if interrupt.asked:
        return 130
    return 1 if any(one["error"] for one in done) else 0


def _send_all(
    mesh: Mesh,
    arguments: argparse.Namespace,
    headers: list[tuple[str, str]],
    done: list[dict[str, Any]],
    interrupt: Interrupt,
) -> None:
    mesh.wait_ready(READY_TIMEOUT)
    if arguments.explain:
        for line in mesh.explain(arguments.method, arguments.url, dict(headers)).to_text():
            output.message(line)
    with httpx2.Client(transport=mesh.transport(), follow_redirects=False) as client:
        while len(done) < arguments.repeat and not interrupt.asked:
            done.append(_send(client, arguments, headers))


def _run_grpc(arguments: argparse.Namespace) -> int:
    """0 if every call ended with OK, 1 if one did not, 130 for Ctrl-C, after what was done."""
    if arguments.url is not None:
        raise UsageError("write only the URL: proxyless request grpc://HOST[:PORT]/SERVICE/METHOD -d '{...}'")
    need_grpc()
    from proxyless.cli.request_grpc import Calls

    with _warnings_once(), Interrupt() as interrupt, mesh_of(arguments) as mesh:
        calls = Calls(arguments, mesh, interrupt)
        interrupt.run(calls.run)
        if interrupt.asked:
            calls.cancel()
    done = calls.done
    if done and (arguments.repeat > 1 or arguments.output == "json"):
        _show(arguments, done)
    if arguments.explain and done:
        print_phases(summary(done)["phases"], arguments.repeat > 1)
    if interrupt.asked:
        return 130
    return 0 if all(one["status"] == "OK" for one in done) else 1


def _show(arguments: argparse.Namespace, done: list[dict[str, Any]]) -> None:
    if arguments.repeat > 1:
        told = summary(done)
        if arguments.output == "json":
            output.as_json({"summary": told, "requests": done})
        else:
            print_summary(told)
    elif arguments.output == "json":
        output.as_json(done[0])
    else:
        _print(done[0])


@contextlib.contextmanager
def _warnings_once() -> Iterator[None]:
    """What the mesh warns of goes to stderr, each text once: another try that fails the same way is no news."""
    said: set[str] = set()

    def news(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = text in said
        said.add(text)
        return not known

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("proxyless: %(message)s"))
    handler.setLevel(logging.WARNING)
    handler.addFilter(news)
    logger = logging.getLogger("proxyless")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _say_if_outside(mesh: Mesh, request: Request) -> None:
    """A misspelled service looks like a host of the internet: say that the mesh had no part in the failure."""
    listeners = mesh.runtime.snapshot().listeners
    if request.target not in listeners or listeners[request.target] is not None:
        return
    output.message(f"proxyless: the mesh knows no {request.target}, so the request went there as it is")
    if request.scheme == "https":
        output.message("proxyless: services of the mesh are called with http://; the mesh itself encrypts")


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _send(client: httpx2.Client, arguments: argparse.Namespace, headers: list[tuple[str, str]]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        # As UTF-8, as curl does: httpx would refuse text that is not ASCII.
        lines = [(name.encode(), value.encode()) for name, value in headers]
        answer = client.request(arguments.method, arguments.url, headers=lines, content=arguments.data.encode())
    except httpx2.InvalidURL as error:
        raise UsageError(f"{arguments.url!r} is not a URL: {error}") from None
    except httpx2.HTTPError as error:
        return {"status": None, "error": f"{type(error).__name__}: {error}", "seconds": time.perf_counter() - started}
    record: CallRecord | None = answer.extensions.get("proxyless")
    return {
        "status": answer.status_code,
        "error": "",
        "headers": answer.headers.multi_items(),
        **_body(answer.content),
        "seconds": time.perf_counter() - started,
        **(decision(record) if record is not None else {}),
    }


def _body(content: bytes) -> dict[str, str]:
    """As text where it is text, else in base64: JSON holds no bytes."""
    try:
        return {"body": content.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(content).decode()}


def decision(record: CallRecord) -> dict[str, Any]:
    last = record.attempts[-1] if record.attempts else None
    return {
        "endpoint": str(last.endpoint) if last else None,
        "peer": last.peer if last else None,
        "cluster": record.cluster.name if record.cluster else None,
        "route": record.route,
        "origin": record.origin,
        "flags": [flag.value for flag in record.flags],
        "reason": record.reason,
        "phases": record.phases(),
        "attempts": [_attempt(attempt) for attempt in record.attempts],
    }


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "endpoint": str(attempt.endpoint),
        "status": attempt.status,
        "failure": f"{attempt.failure.kind.value}: {attempt.failure.detail}" if attempt.failure else None,
        "hedge": attempt.hedge,
        "lost": attempt.lost,
        "reused_connection": attempt.reused,
        "seconds": {phase: getattr(attempt, phase) for phase in PHASES},
    }


def summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    answered = [one for one in done if not one["error"]]
    seconds = sorted(one["seconds"] for one in answered)

    def counted(key: str) -> dict[str, int]:
        return dict(Counter(str(one[key]) for one in answered if one.get(key)).most_common())

    def middle(phase: str) -> float | None:
        passed = sorted(one["phases"][phase] for one in answered if phase in one.get("phases", ()))
        return passed[len(passed) // 2] if passed else None

    def percentile(share: float) -> float | None:
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else None

    return {
        "requests": len(done),
        "statuses": counted("status"),
        "clusters": counted("cluster"),
        "endpoints": counted("endpoint"),
        "retries": sum(max(0, len(one.get("attempts", ())) - 1) for one in answered),
        "errors": dict(Counter(one["error"] for one in done if one["error"])),
        "seconds": {"p50": percentile(0.5), "p90": percentile(0.9), "p99": percentile(0.99)},
        "phases": {phase: middle(phase) for phase in ("policy", *PHASES)},
    }


def _print(one: dict[str, Any]) -> None:
    """As curl -i shows it: the head, an empty line, the body."""
    if one["error"]:
        output.message(f"proxyless: {one['error']}")
        return
    output.data(f"HTTP {one['status']}")
    for name, value in one["headers"]:
        output.data(f"{name}: {value}")
    output.data("")
    if body := one.get("body", "(binary; -o json shows it in base64)"):
        output.data(body)


def print_phases(phases: dict[str, float | None], several: bool) -> None:
    """On stderr, as what ``--explain`` says before."""
    times = ", ".join(f"{name} {value * 1e3:.3f} ms" for name, value in phases.items() if value is not None)
    if times:
        output.message(f"time{' (medians)' if several else ''}: {times}")


def print_summary(told: dict[str, Any]) -> None:
    rows: list[tuple[str, str, str, str]] = []
    for what in ("statuses", "clusters", "endpoints", "errors"):
        for value, count in told[what].items():
            rows.append((what, value, str(count), f"{count / told['requests']:.1%}"))
    output.table(("", "VALUE", "REQUESTS", "SHARE"), rows)
    times = ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in told["seconds"].items() if value is not None)
    output.message(f"{told['requests']} requests, {told['retries']} retries, {times}")
