"""The body of a response that the plain library fetched: unchanged, but its size and end are told to telemetry."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyless.transport.completion import Completion


class AsyncObserved:
    def __init__(self, stream: Any, completion: "Completion") -> None:
        self._stream = stream
        self._completion = completion

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._completion.response_bytes += len(chunk)
                yield chunk
        except BaseException as error:
            self._completion.end(error)
            raise

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._completion.end()


class SyncObserved:
    def __init__(self, stream: Any, completion: "Completion") -> None:
        self._stream = stream
        self._completion = completion

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
                self._completion.response_bytes += len(chunk)
                yield chunk
        except BaseException as error:
            self._completion.end(error)
            raise

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._completion.end()
