"""A request that arrived, as policy and telemetry see it; its headers are decoded when somebody reads them all."""

from __future__ import annotations

from proxyless.engine.request import Request


class ServedRequest(Request):
    """raw: the judged header lines in ASGI's form, names lower case."""

    __slots__ = ("_content_type", "_decoded", "raw")

    def __init__(  # noqa: PLR0917  the request line and the head, in their order
        self,
        method: str,
        target: str,
        path: str,
        authority: str,
        scheme: str,
        raw: list[tuple[bytes, bytes]],
        content_type: str,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.authority = authority or target
        self.scheme = scheme
        self.raw = raw
        self.replayable = False
        self.deadline = None
        self._content_type = content_type
        self._decoded: list[tuple[str, str]] | None = None

    @property
    def content_type(self) -> str:
        return self._content_type

    @property
    def headers(self) -> list[tuple[str, str]]:
        if self._decoded is None:
            # latin-1 maps every byte to one character, so nothing is lost or widened by decoding.
            self._decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw]
        return self._decoded

    @headers.setter
    def headers(self, lines: list[tuple[str, str]]) -> None:
        self._decoded = lines
