"""The context that a servicer is given: grpcio's own, with the caller and the metadata as the mesh has judged them.

Names and values of ``auth_context`` are gRPC's (grpc_security_constants.h), as if its own server had ended the TLS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from proxyless.transport.inbound.connection import Connection

SAN = "x509_subject_alternative_name"
_SPIFFE = "peer_spiffe_id"


class Metadatum(NamedTuple):
    """A line of metadata, as grpcio gives it."""

    key: str
    value: str | bytes


class MeshContext:
    """Everything that is not here is grpcio's. status: what the servicer has set, as a number; 0 is OK.

    load: what the RPC's end tells of the server's load.
    """

    def __init__(
        self,
        context: Any,
        facts: Connection,
        peer: str,
        metadata: tuple[Metadatum, ...],
        load: Callable[[], tuple[Metadatum, ...]],
    ) -> None:
        self._context = context
        self._facts = facts
        self._peer = peer
        self._metadata = metadata
        self._load = load
        self._trailing: tuple[Any, ...] = ()
        self.status = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        return self._metadata

    def peer(self) -> str:
        """Where the caller connects from, as gRPC writes it: ``ipv4:10.0.0.7:40312``."""
        return self._peer

    def peer_identities(self) -> Iterable[bytes] | None:
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

    def tell_load(self) -> None:
        """As the RPC ends, once: adds it to the trailing metadata, which may be the servicer's own."""
        load, self._load = self._load(), tuple
        if load:
            self.set_trailing_metadata((*self._trailing, *load))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        # Remembered: functions in an async server cannot ask grpcio what they have set.
        self._trailing = tuple(trailing_metadata or ())
        self._context.set_trailing_metadata(self._trailing)

    def set_code(self, code: Any) -> None:
        self.status = number(code)
        self._context.set_code(code)


class AsyncContext(MeshContext):
    """For servicers that are coroutines."""

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        self.status = number(code)
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self.tell_load()
        await self._context.abort(code, details)
        raise AssertionError("abort raises")

    async def abort_with_status(self, status: Any) -> NoReturn:
        """With a ``grpc.Status``, as of ``grpc_status.rpc_status.to_status``; grpcio declares it only."""
        await self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))


class SyncContext(MeshContext):
    """For servicers that run in a thread, of a sync server or an async one."""

    def abort(self, code: Any, details: str) -> NoReturn:
        self.status = number(code)
        self.tell_load()
        self._context.abort(code, details)
        raise AssertionError("abort raises")

    def abort_with_status(self, status: Any) -> NoReturn:
        """With a ``grpc.Status``. In an async server grpcio does not have it."""
        self.set_trailing_metadata(status.trailing_metadata)
        self.abort(status.code, status.details)


def number(code: Any) -> int:
    """Of a ``grpc.StatusCode`` or a number."""
    value = getattr(code, "value", code)
    return int(value[0] if isinstance(value, tuple) else value)
