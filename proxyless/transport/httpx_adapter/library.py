"""httpx or httpx2: whichever a request came from. Neither is imported here; the application has done that."""

import sys
from typing import Any

from proxyless.model.errors import NotInTimeError, ProxylessError
from proxyless.transport.http1.errors import (
    ConnectFailed,
    ConnectionEnded,
    DeadlineExceeded,
    LocalProtocolError,
    PoolTimedOut,
    ReadTimedOut,
    RemoteProtocolError,
    StreamAborted,
    StreamRefused,
    UnsupportedProtocol,
    WireError,
    WriteTimedOut,
)
from proxyless.transport.httpx_adapter.response import async_response

_NAMES = ("httpx", "httpx2")
_EXCEPTIONS: dict[type[WireError], str] = {
    ConnectFailed: "ConnectError",
    LocalProtocolError: "LocalProtocolError",
    RemoteProtocolError: "RemoteProtocolError",
    UnsupportedProtocol: "UnsupportedProtocol",
    StreamAborted: "RemoteProtocolError",
    StreamRefused: "RemoteProtocolError",
    PoolTimedOut: "PoolTimeout",
    DeadlineExceeded: "ReadTimeout",
    ReadTimedOut: "ReadTimeout",
    WriteTimedOut: "WriteTimeout",
}


class Library:
    """The names of one of the two libraries. ``module`` is Any: both have the same interface, and may be absent."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.name: str = module.__name__
        self.Response = module.Response
        self.AsyncResponse = async_response(module)
        self.ByteStream = module.ByteStream
        self.async_body = _body_class(module.AsyncByteStream, "async_body", "AsyncBody")
        self.sync_body = _body_class(module.SyncByteStream, "sync_body", "SyncBody")
        self.async_observed = _body_class(module.AsyncByteStream, "observed", "AsyncObserved")
        self.sync_observed = _body_class(module.SyncByteStream, "observed", "SyncObserved")

    def error(self, error: WireError, request: Any) -> Exception:
        """The library's exception for a failure that the application must see."""
        if isinstance(error, ConnectionEnded):
            # As httpcore has it: an orderly end in the wrong place is the peer's fault, a reset the network's.
            name = "RemoteProtocolError" if error.clean else "ReadError"
        else:
            name = _EXCEPTIONS.get(type(error), "TransportError")
        return self.raised(name, str(error), request)

    def unresolved(self, error: ProxylessError, request: Any) -> Exception:
        """The exception for a host about which the mesh has said nothing: looking it up is part of connecting."""
        return self.raised(
            "ConnectTimeout" if isinstance(error, NotInTimeError) else "ConnectError", str(error), request
        )

    def raised(self, name: str, text: str, request: Any) -> Exception:
        """The library's exception ``name``."""
        made: Exception = getattr(self.module, name)(text, request=request)
        return made

    def content(self, request: Any) -> bytes | None:
        """The whole body if it is in memory, None for a stream."""
        # Not its ``content``: a hook or an Auth may have put another stream in place of the one it was made with.
        return b"".join(request.stream) if isinstance(request.stream, self.ByteStream) else None


_known: dict[type, Library] = {}
_libraries: dict[str, Library] = {}


def library_of(request: Any) -> Library:
    """The library whose Request (or a subclass of it) this is. Raises TypeError for anything else."""
    kind = type(request)
    found = _known.get(kind)
    if found is None:
        for base in kind.__mro__:
            name = base.__module__.partition(".")[0]
            if name in _NAMES:
                if name not in _libraries:
                    _libraries[name] = Library(sys.modules[name])
                found = _known[kind] = _libraries[name]
                break
        else:
            raise TypeError(
                f"a mesh transport takes requests of httpx or httpx2, not {kind.__module__}.{kind.__name__}"
            )
    return found


def _body_class(base: type, module: str, name: str) -> Any:
    """Our body as a subclass of the library's stream type, which its client insists on."""
    from importlib import import_module

    ours = getattr(import_module(f"proxyless.transport.httpx_adapter.{module}"), name)
    return type(name, (ours, base), {})
