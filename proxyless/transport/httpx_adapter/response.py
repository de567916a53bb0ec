"""The library's Response, with a short way to read a body that has arrived already."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyless.transport.httpx_adapter.async_body import AsyncBody


class AsyncResponse:
    """Joined with the library's own Response, of whose interface only the public part is used.

    ``aread`` of the library goes through four asynchronous generators, each known to the event loop by a weak
    reference: for a small body that costs more than all that the mesh decides. Its blocking ``read`` of bytes does the
    same work, decoding included. A body that has not arrived yet, or is iterated over, goes the long way.
    """

    if TYPE_CHECKING:
        stream: Any
        is_closed: bool
        is_stream_consumed: bool

        def read(self) -> bytes: ...
        def __getstate__(self) -> dict[str, Any]: ...

    # The library's; and ours, which its client has wrapped by the time ``aread`` is called.
    plain: Any
    byte_stream: Any
    mesh_body: "AsyncBody | None" = None

    async def aread(self) -> bytes:
        body = self.mesh_body
        if body is None or self.is_stream_consumed or self.is_closed or (whole := body.whole()) is None:
            return await super().aread()  # type: ignore[misc, no-any-return]
        stream, self.stream = self.stream, self.byte_stream(whole)
        try:
            content = self.read()
            # Not after a failure: the generator that it leaves may close the bytes yet, as only a blocking stream is.
            self.stream = stream
        finally:
            await stream.aclose()
        return content

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickled as what it is to others."""
        state = self.__getstate__()
        state.pop("mesh_body", None)
        return object.__new__, (self.plain,), state


def async_response(library: Any) -> Any:
    """The class for a library's module; it says that it is of that library, as by all that can be asked it is."""
    ours = {"plain": library.Response, "byte_stream": library.ByteStream, "__module__": library.Response.__module__}
    return type("Response", (AsyncResponse, library.Response), ours)
