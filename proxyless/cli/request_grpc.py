"""``proxyless request grpc://...``: a unary call, from JSON to JSON, by what the server's reflection says."""

import argparse
import contextlib
import json
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
from proxyless.cli.parsers import UsageError, parse_headers
from proxyless.mesh import Mesh
from proxyless.model.address import join_address
from proxyless.model.errors import ProxylessError

SCHEME = "grpc://"
TIMEOUT = 30.0


def run(arguments: argparse.Namespace, mesh: Mesh, url: str) -> int:
    """0 if the call ended with OK, else 1."""
    target, service, name = _parse(url)
    metadata: tuple[tuple[str, str | bytes], ...] = tuple(
        (key.lower(), value) for key, value in parse_headers(arguments.header)
    )
    if arguments.explain:
        found = mesh.explain("POST", f"http://{target}/{service}/{name}", dict(parse_headers(arguments.header)))
        for line in found.to_text():
            output.message(line)
    with mesh.grpc_channel_sync(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        with _reflection(target):
            method = _find(database, pool, service, name)
            make, made = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        try:
            request = json_format.Parse(arguments.data or "{}", make(), descriptor_pool=pool)
        except json_format.ParseError as error:
            raise UsageError(f"-d is no {method.input_type.full_name}: {error}") from None
        call = channel.unary_unary(f"/{service}/{name}", make.SerializeToString, made.FromString)
        started = time.perf_counter()
        try:
            answer = call(request, timeout=TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            return _show(arguments, error.code().name, error.details() or "", None, time.perf_counter() - started)
        seconds = time.perf_counter() - started
        text = json_format.MessageToJson(answer, descriptor_pool=pool, always_print_fields_with_no_presence=True)
        return _show(arguments, "OK", "", text, seconds)


def _show(arguments: argparse.Namespace, status: str, details: str, text: str | None, seconds: float) -> int:
    if arguments.output == "json":
        response = None if text is None else json.loads(text)
        output.as_json({"status": status, "details": details, "response": response, "seconds": seconds})
    elif text is not None:
        output.data(text)
    else:
        output.message(f"proxyless: {status}: {details}")
    return 0 if status == "OK" else 1


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
    if method.client_streaming or method.server_streaming:
        raise ProxylessError(f"{service}/{name} streams; only unary methods can be called from the command line")
    return method
