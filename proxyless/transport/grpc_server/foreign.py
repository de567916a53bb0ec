"""The mesh in a ``grpc.server`` that the user started: an interceptor, and a handler around each handler.

A unary request is parsed after the RPC was judged, so nothing of a refused caller's is.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc

from proxyless.engine.caller import Caller
from proxyless.engine.inbound import strictest
from proxyless.engine.request import Request
from proxyless.telemetry.application import serving
from proxyless.telemetry.grpc_metrics import OTHER
from proxyless.telemetry.telemetry import READ_HEADERS
from proxyless.transport.grpc_server.context import Known, error_name
from proxyless.transport.grpc_server.metadata import Metadatum
from proxyless.transport.grpc_server.request_head import CONTEXT, LONGEST_TIMEOUT
from proxyless.transport.grpc_server.rpc import INTERNAL, UNKNOWN, UNREADABLE, Rpc, number
from proxyless.transport.grpc_wire import binary
from proxyless.transport.inbound.connection import Connection
from proxyless.transport.inbound.forwarded import XFCC, believable
from proxyless.transport.inbound.runtime import InboundRuntime

Metadata = Iterable[tuple[str, str | bytes]]
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
_LAST = object()


class ForeignInterceptor(grpc.ServerInterceptor):
    """For a ``grpc.server`` that is not ours: what its port says of a caller's TLS it tells nobody.

    port: whose policy counts; None for the strictest of this process's ports.
    """

    def __init__(self, runtime: InboundRuntime, port: int | None) -> None:
        self._runtime = runtime
        self._port = port

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler = continuation(_unauthenticated(handler_call_details))
        served = _Served(self, handler_call_details.method, handler is not None, handler or _NOBODY)
        incoming, outgoing = served.incoming, served.outgoing
        return _MAKE[incoming, outgoing](
            served.stream if outgoing else served.unary,
            served.read if incoming else None,
            served.write if outgoing else None,
        )

    def begin(self, method: str, known: bool, context: Any) -> tuple[Rpc, SyncContext]:
        inbound, facts = self._runtime.snapshot().inbound, _anonymous(context.peer())
        kept, judged = _read(context.invocation_metadata() or ())
        waits = context.time_remaining()
        if waits is not None and 0 <= waits < LONGEST_TIMEOUT:
            judged.append(("grpc-timeout", f"{int(waits * 1000)}m"))
        rpc = Rpc(
            self._runtime,
            facts,
            strictest(inbound.values()) if self._port is None else inbound.get(self._port),
            Request("POST", facts.local, method, "", "http", judged),
            read=[line for line in judged if line[0] in READ_HEADERS],
            shown=kept,
            label=method[1:] if known else OTHER,
            known=known,
            authority_known=False,  # grpcio tells its interceptors the method, and not the authority
        )
        return rpc, SyncContext(context, facts, rpc)


class SyncContext(Known):
    """Everything that is not here is grpcio's. status: what the servicer has set, as a number; 0 is OK."""

    def __init__(self, context: Any, facts: Connection, rpc: Rpc) -> None:
        self._context = context
        self._facts = facts
        self._rpc = rpc
        self._trailing: tuple[Any, ...] = ()
        self._told = False
        self.status = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        return self._rpc.metadata

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailing = tuple(trailing_metadata or ())
        self._context.set_trailing_metadata(self._trailing)

    def tell_load(self) -> None:
        """As the RPC ends, once: adds it to the trailing metadata, which may be the servicer's own."""
        load = () if self._told else self._rpc.load()
        self._told = True
        if load:
            self.set_trailing_metadata((*self._trailing, *load))

    def set_code(self, code: Any) -> None:
        self.status = number(code)
        self._context.set_code(code)

    def abort(self, code: Any, details: str) -> NoReturn:
        self.status = number(code)
        self.tell_load()
        self._context.abort(code, details)
        raise AssertionError("abort raises")

    def abort_with_status(self, status: Any) -> NoReturn:
        """With a ``grpc.Status``."""
        self.set_trailing_metadata(status.trailing_metadata)
        self.abort(status.code, status.details)


class _Served:
    """One RPC of one method."""

    def __init__(self, interceptor: ForeignInterceptor, name: str, known: bool, handler: Any) -> None:
        self._interceptor = interceptor
        self._name = name
        self._known = known
        self.incoming, self.outgoing = bool(handler.request_streaming), bool(handler.response_streaming)
        kind = f"{'stream' if self.incoming else 'unary'}_{'stream' if self.outgoing else 'unary'}"
        self._behaviour: Callable[[Any, Any], Any] = getattr(handler, kind)
        self._parse = handler.request_deserializer
        self._serialize = handler.response_serializer
        self._received = self._sent = 0

    def read(self, data: bytes) -> Any:
        self._received += len(data)
        return self._parse(data) if self._parse else data

    def write(self, message: Any) -> bytes:
        data: bytes = self._serialize(message) if self._serialize else message
        self._sent += len(data)
        return data

    def unary(self, request: Any, context: Any) -> bytes:
        rpc, ours = self._begin(context)
        error: BaseException | None = None
        try:
            with serving(rpc.context):
                response = self._behaviour(self._request(request, ours), ours)
                # gRPC discards the response where the status is not OK; a servicer then often gives None.
                return b"" if ours.status else self.write(response)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end(rpc, ours, error, gone=_gone(context))

    def stream(self, request: Any, context: Any) -> Iterator[Any]:
        """Each step runs in the RPC's own context, whatever thread takes it."""
        rpc, ours = self._begin(context)
        inside, here = contextvars.copy_context(), serving(rpc.context)
        inside.run(here.__enter__)
        responses: Any = None
        error: BaseException | None = None
        try:
            responses = inside.run(self._behaviour, self._request(request, ours), ours)
            steps = inside.run(iter, responses)
            while (response := inside.run(next, steps, _LAST)) is not _LAST:
                yield response
        except BaseException as raised:
            error = raised
            raise
        finally:
            if (close := getattr(responses, "close", None)) is not None:
                inside.run(close)
            inside.run(here.__exit__)
            self._end(rpc, ours, error, gone=isinstance(error, GeneratorExit) or _gone(context))

    def _begin(self, context: Any) -> tuple[Rpc, SyncContext]:
        rpc, ours = self._interceptor.begin(self._name, self._known, context)
        if (refusal := rpc.refusal) is not None:
            try:
                ours.set_trailing_metadata(refusal.metadata)
                ours.abort(_CODES[refusal.code], refusal.details)
            finally:
                rpc.end(refusal.code)
        return rpc, ours

    def _request(self, request: Any, context: SyncContext) -> Any:
        if self.incoming:
            return request
        try:
            return self.read(request)
        except Exception:
            context.abort(_CODES[INTERNAL], UNREADABLE)

    def _end(self, rpc: Rpc, context: SyncContext, error: BaseException | None, *, gone: bool) -> None:
        context.tell_load()
        rpc.received, rpc.sent = self._received, self._sent
        if error is None:
            rpc.end(context.status, gone=gone)
        else:
            # Whoever aborts has set a status, which also makes an RPC inactive.
            rpc.end(context.status or UNKNOWN, gone=gone and not context.status, error=error_name(error))


def _nobody(requests: Any, context: Any) -> Iterator[None]:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    yield  # only makes it a generator


# For a method that nobody serves: it is judged and observed as any other.
_NOBODY: Any = grpc.stream_stream_rpc_method_handler(_nobody)


def _gone(context: Any) -> bool:
    """Whether the caller went meanwhile, as far as grpcio tells functions."""
    active = getattr(context, "is_active", None)
    return active is not None and not active()


def _unauthenticated(details: Any) -> Any:
    """What the user's interceptors are told: nothing that only an authenticated caller may say."""
    received: Metadata = details.invocation_metadata or ()
    return type(details)(details.method, tuple(line for line in received if _plain(line[0].lower())))


def _plain(name: str) -> bool:
    return name != XFCC and believable(name, False)


def _read(received: Metadata) -> tuple[list[Metadatum], list[tuple[str, str]]]:
    """Metadata by the rules for HTTP headers: what the servicer gets (without trace and request id), what is judged."""
    kept: list[Metadatum] = []
    judged: list[tuple[str, str]] = [("content-type", "application/grpc")]
    for key, value in received:
        name = key.lower()
        if not _plain(name):
            continue
        # grpc-timeout is gRPC's own: what it says is in the context.
        if name not in ("content-type", "grpc-timeout"):
            judged.append((name, value if isinstance(value, str) else binary.encoded(value).decode()))
        if name not in CONTEXT:
            kept.append(Metadatum(key, value))
    return kept, judged


def _anonymous(peer: str) -> Connection:
    """peer: as gRPC writes it."""
    scheme, _, address = peer.partition(":")
    remote = unquote(address) if scheme in ("ipv4", "ipv6") else ""
    return Connection(Caller(remote=remote), remote=remote)
