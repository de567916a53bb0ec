"""The context that a servicer is given: grpcio's, with the caller and the metadata as the mesh has judged them.

Names and values of ``auth_context`` are gRPC's (grpc_security_constants.h), as if its own server had ended the TLS.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from proxyless.transport.grpc_server.metadata import Metadatum, encoded
from proxyless.transport.grpc_server.options import encoding_of
from proxyless.transport.grpc_server.rpc import number
from proxyless.transport.inbound.connection import Connection

if TYPE_CHECKING:
    from proxyless.transport.grpc_server.call import Call

SAN = "x509_subject_alternative_name"
_SPIFFE = "peer_spiffe_id"


class Known:
    """What is known of the caller: the same for every kind of context."""

    __slots__ = ()

    _facts: Connection

    def peer_identities(self) -> list[bytes] | None:
        """The caller's verified SPIFFE ID, None for an anonymous caller."""
        return [self._facts.observed.principal.encode()] if self._facts.observed.principal else None

    def peer_identity_key(self) -> str | None:
        return SAN if self._facts.observed.principal else None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        found: dict[str, Iterable[bytes]] = {
            "transport_security_type": [b"ssl" if self._facts.caller.tls else b"insecure"],
            "security_level": [b"TSI_PRIVACY_AND_INTEGRITY" if self._facts.caller.tls else b"TSI_SECURITY_NONE"],
        }
        if identities := self.peer_identities():
            found[SAN] = found[_SPIFFE] = identities
        return found


class ServedContext(Known):
    """Of a call to our own server. What only sets or tells is the same in the loop and in threads."""

    __slots__ = ("_call", "_facts")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._facts = call.connection.facts

    def peer(self) -> str:
        """Where the caller connects from, as gRPC writes it: ``ipv4:10.0.0.7:40312``."""
        return peer_of(self._facts.remote)

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        assert self._call.rpc is not None
        return self._call.rpc.metadata

    def time_remaining(self) -> float | None:
        call = self._call
        return None if call.deadline is None else max(0.0, call.deadline - call.connection.loop.time())

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._call.trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._call.trailing

    def set_code(self, code: Any) -> None:
        self._call.code = code

    def code(self) -> Any:
        return self._call.code

    def set_details(self, details: str) -> None:
        self._call.details = details

    def details(self) -> str:
        return self._call.details

    def set_compression(self, compression: Any) -> None:
        if self._call.head_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")
        self._call.encoding = encoding_of(compression)

    def disable_next_message_compression(self) -> None:
        self._call.flat = True

    def cancelled(self) -> bool:
        """Whether the caller has gone, or its deadline has come."""
        return self._call.left or (self._call.code is not None and number(self._call.code) == 1)

    def done(self) -> bool:
        return self._call.finished or self._call.left


class AsyncContext(ServedContext, grpc.aio.ServicerContext):  # type: ignore[type-arg, misc]
    """For servicers that are coroutines."""

    __slots__ = ()

    async def read(self) -> Any:
        self._call.check()
        data = await self._call.read()
        if data is None:
            return grpc.aio.EOF
        method = self._call.method
        return data if method is None or method.parse is None else method.parse(data)

    async def write(self, message: Any) -> None:
        self._call.check()
        method = self._call.method
        await self._call.write(message if method is None or method.serialize is None else method.serialize(message))

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._call.send_head(initial_metadata)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        call = self._call
        if call.aborted is not None:
            raise grpc.aio.UsageError("Abort already called!")
        call.finish(number(code), details or call.details, trailing_metadata or call.trailing)
        call.connection.flush_soon()
        call.aborted = grpc.aio.AbortError("Locally aborted.")
        raise call.aborted

    async def abort_with_status(self, status: Any) -> NoReturn:
        """With a ``grpc.Status``, as of ``grpc_status.rpc_status.to_status``."""
        await self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._call.callbacks.append(functools.partial(callback, self))


class SyncContext(ServedContext, grpc.ServicerContext):  # type: ignore[misc]
    """For servicers that run in a thread. None of it waits for the event loop, which may have ended by then."""

    __slots__ = ()

    def is_active(self) -> bool:
        return not self.done()

    def cancel(self) -> bool:
        self._in_loop(self._call.cancel)
        return True

    def add_callback(self, callback: Callable[[], object]) -> bool:
        if self.done():
            return False
        self._call.callbacks.append(callback)
        return True

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        metadata = tuple(initial_metadata)
        if self._call.head_sent:
            raise ValueError("Initial metadata no longer allowed!")
        encoded(metadata)  # what is wrong with it is told here, to the servicer
        self._in_loop(functools.partial(self._call.send_head, metadata))

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """The status leaves when the servicer has ended, which this exception sees to."""
        call = self._call
        if call.aborted is None:
            call.code, call.details = code, details or call.details
            call.trailing = tuple(trailing_metadata) or call.trailing
            call.aborted = grpc.aio.AbortError("Locally aborted.")
        raise call.aborted

    def abort_with_status(self, status: Any) -> NoReturn:
        """With a ``grpc.Status``."""
        self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    def _in_loop(self, function: Callable[[], object]) -> None:
        try:
            self._call.connection.loop.call_soon_threadsafe(function)
        except RuntimeError:  # it has ended, and with it the RPC
            raise grpc.RpcError("the server has ended") from None


@functools.lru_cache(maxsize=4096)
def peer_of(remote: str) -> str:
    """``host:port`` as gRPC writes it."""
    return f"ipv6:{remote.replace('[', '%5B').replace(']', '%5D')}" if remote.startswith("[") else f"ipv4:{remote}"


def error_name(error: BaseException) -> str:
    """ "" for the exception by which ``abort`` ends a servicer."""
    aborted = isinstance(error, grpc.aio.AbortError) or (type(error) is Exception and not error.args)
    return "" if aborted or isinstance(error, asyncio.CancelledError) else type(error).__name__
