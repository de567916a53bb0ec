"""The library's Response, with a short way to read a body that has arrived already."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyless.transport.httpx_adapter.async_body import AsyncBody


class AsyncResponse:
    """Joined with the library's own Response, of whose interface only the public part is used (and its count of bytes).

    ``aread`` of the library goes through four asynchronous generators, each known to the event loop by a weak
    reference: for a small body that costs more than all that the mesh decides. Its blocking ``read`` of bytes does the
    same work, decoding included. A body that has not arrived yet, or is iterated over, goes the long way.
    """

    if TYPE_CHECKING:
        stream: Any
        is_closed: bool
        is_stream_consumed: bool
        headers: Any
        iter_bytes: Any
        _num_bytes_downloaded: int

        def read(self) -> bytes: ...
        def __getstate__(self) -> dict[str, Any]: ...

    # The library's; and ours, which its client has wrapped by the time ``aread`` is called.
    plain: Any
    byte_stream: Any
    mesh_body: "AsyncBody | None" = None

    async def aread(self) -> bytes:
        body = self.mesh_body
        whole = None
        if body is not None and not (self.is_stream_consumed or self.is_closed) and self._is_of(body):
            whole = body.whole()
        if whole is None:
            return await super().aread()  # type: ignore[misc, no-any-return]
        if "content-encoding" in self.headers:
            return await self._decoded(whole)
        # ``read`` keeps what this gives; the rest is what going through the generators leaves behind.
        self.iter_bytes = (whole,).__iter__
        try:
            content = self.read()
        finally:
            del self.iter_bytes
        self._num_bytes_downloaded = len(whole)
        self.is_stream_consumed = self.is_closed = True
        await self.stream.aclose()
        return content

    async def _decoded(self, whole: bytes) -> bytes:
        stream, self.stream = self.stream, self.byte_stream(whole)
        try:
            content = self.read()
            # Not after a failure: the generator that it leaves may close the bytes yet, as only a blocking stream is.
            self.stream = stream
        finally:
            await stream.aclose()
        return content

    def _is_of(self, body: "AsyncBody") -> bool:
        """Whether it is all there is to read: a transport around ours, or a hook, may have put a stream in front."""
        stream = self.stream
        package = self.plain.__module__.partition(".")[0]
        if type(stream).__module__.partition(".")[0] == package:
            stream = getattr(stream, "_stream", None)  # what the client has wrapped to measure the time
        return stream is body

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickled as what it is to others."""
        state = self.__getstate__()
        state.pop("mesh_body", None)
        return object.__new__, (self.plain,), state


def async_response(library: Any) -> Any:
    """The class for a library's module; it says that it is of that library, as by all that can be asked it is."""
    ours = {"plain": library.Response, "byte_stream": library.ByteStream, "__module__": library.Response.__module__}
    return type("Response", (AsyncResponse, library.Response), ours)
