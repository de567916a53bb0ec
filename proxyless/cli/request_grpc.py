"""``proxyless request grpc://...``: calls from JSON to JSON, by what the server's reflection says."""

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from proxyless.cli import output
from proxyless.cli.interrupt import Interrupt
from proxyless.cli.parsers import UsageError, parse_headers
from proxyless.cli.request import READY_TIMEOUT, decision
from proxyless.mesh import Mesh
from proxyless.model.address import join_address
from proxyless.model.errors import ProxylessError

SCHEME = "grpc://"
TIMEOUT = 30.0


class Calls:
    """The calls of one command, one after the other. done: what became of each, as ``-o json`` shows it."""

    def __init__(self, arguments: argparse.Namespace, mesh: Mesh, interrupt: Interrupt) -> None:
        self._arguments = arguments
        self._mesh = mesh
        self._interrupt = interrupt
        self._call: Any = None
        self._over = threading.Event()
        self.done: list[dict[str, Any]] = []

    def run(self) -> None:
        try:
            self._run()
        finally:
            self._over.set()

    def cancel(self) -> None:
        """Ends the call under way; what it brought until now is in ``done``."""
        if self._call is not None:
            self._call.cancel()
            self._over.wait(TIMEOUT)

    def _run(self) -> None:
        arguments = self._arguments
        target, service, name = _parse(arguments.method)
        headers = parse_headers(arguments.header)
        self._mesh.wait_ready(READY_TIMEOUT)
        if arguments.explain:
            found = self._mesh.explain("POST", f"http://{target}/{service}/{name}", dict(headers))
            for line in found.to_text():
                output.message(line)
        with self._mesh.grpc_channel_sync(target) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            with _reflection(target):
                method = _find(database, pool, service, name)
            requests = _requests(arguments.data, method, pool)
            while len(self.done) < arguments.repeat and not self._interrupt.asked:
                self._make(channel, method, requests, pool)

    def _make(self, channel: Any, method: Any, requests: list[Any], pool: DescriptorPool) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = tuple((key.lower(), value) for key, value in parse_headers(self._arguments.header))
        kind = f"{_kind(method.client_streaming)}_{_kind(method.server_streaming)}"
        serialize = GetMessageClass(method.input_type).SerializeToString
        made = getattr(channel, kind)(path, serialize, GetMessageClass(method.output_type).FromString)
        given = iter(requests) if method.client_streaming else requests[0]
        alone = self._arguments.repeat == 1 and self._arguments.output == "text"
        answers: list[Any] = []
        started = time.perf_counter()
        # A stream may last as long as somebody watches it.
        if method.server_streaming:
            self._call = call = made(given, metadata=metadata)
        else:
            self._call = call = made.future(given, timeout=TIMEOUT, metadata=metadata)
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
            for answer in call if method.server_streaming else [call.result()]:
                text = json_format.MessageToJson(
                    answer, descriptor_pool=pool, always_print_fields_with_no_presence=True
                )
                answers.append(json.loads(text))
                if alone:
                    output.data_now(text)
        status, details = call.code().name, call.details() or ""
        if alone and status != "OK":
            output.message(f"proxyless: {status}: {details}")
        record = call.proxyless
        several = {"responses": answers} if method.server_streaming else {"response": answers[0] if answers else None}
        self.done.append(
            {
                "status": status,
                "error": "",
                "details": details,
                **several,
                "seconds": time.perf_counter() - started,
                **(decision(record) if record is not None else {}),
            }
        )


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _requests(data: str, method: Any, pool: Any) -> list[Any]:
    """The messages in ``data``, JSON one after the other; of a method that takes one, an empty one if there is none.

    Raises UsageError.
    """
    make, found, rest = GetMessageClass(method.input_type), [], data.strip()
    try:
        while rest:
            _, end = json.JSONDecoder().raw_decode(rest)
            found.append(json_format.Parse(rest[:end], make(), descriptor_pool=pool))
            rest = rest[end:].lstrip()
    except (json.JSONDecodeError, json_format.ParseError) as error:
        raise UsageError(f"-d is no {method.input_type.full_name}: {error}") from None
    if not method.client_streaming:
        if len(found) > 1:
            raise UsageError(f"-d has {len(found)} messages, but {method.full_name} takes one")
        return found or [make()]
    return found


def _parse(url: str) -> tuple[str, str, str]:
    """(target, service, method). Raises UsageError."""
    parts = urlsplit(url)
    service, slash, method = parts.path.removeprefix("/").rpartition("/")
    with contextlib.suppress(ValueError):
        if parts.hostname and slash and service and "/" not in service and method and not parts.query:
            return join_address(parts.hostname, parts.port or 80), service, method
    raise UsageError(f"{url!r} is not grpc://HOST[:PORT]/PACKAGE.SERVICE/METHOD")


@contextlib.contextmanager
def _reflection(target: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        why = f"{error.code().name}: {error.details()}"
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            why = "it has no reflection service (grpc.reflection.v1alpha), which proxyless serve --grpc adds"
        raise ProxylessError(f"cannot ask {target} about its methods: {why}") from None


def _find(database: Any, pool: DescriptorPool, service: str, name: str) -> Any:
    try:
        found = pool.FindServiceByName(service)
    except KeyError:
        there = ", ".join(sorted(database.get_services())) or "none"
        raise ProxylessError(f"there is no service {service!r}; the server has: {there}") from None
    method = found.methods_by_name.get(name)
    if method is None:
        raise ProxylessError(f"{service} has no method {name!r}; it has: {', '.join(sorted(found.methods_by_name))}")
    return method
