"""A request that arrived, as policy and telemetry see it; its headers are decoded when somebody reads them all."""

from __future__ import annotations

from proxyless.engine.request import Request
from proxyless.telemetry.trace_context import TRACE_HEADERS

Line = tuple[bytes, bytes]
# What telemetry reads, and writes anew for the application.
CONTEXT_HEADERS = TRACE_HEADERS | {"x-request-id"}


class ServedRequest(Request):
    """kept: what the application gets of its headers, in ASGI's form; forged ones are gone, ours are in, and trace
    context and request id are still to come.

    told: the lines that telemetry reads. framing: ``transfer-encoding`` and ``expect``, values lower case. problem: why
    it must be answered 400, "" if sound.
    """

    __slots__ = ("_content_type", "_decoded", "framing", "kept", "problem", "told")
    replayable = False
    deadline = None

    def __init__(  # noqa: PLR0917  the request line and the head, in their order
        self,
        method: str,
        target: str,
        path: str,
        authority: str,
        scheme: str,
        kept: list[Line],
        told: list[tuple[str, str]],
        framing: list[Line],
        content_type: str,
        problem: str,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.authority = authority or target
        self.scheme = scheme
        self.kept = kept
        self.told = told
        self.framing = framing
        self.problem = problem
        self._content_type = content_type
        self._decoded: list[tuple[str, str]] | None = None

    @property
    def content_type(self) -> str:
        return self._content_type

    @property
    def headers(self) -> list[tuple[str, str]]:
        if self._decoded is None:
            # latin-1 maps every byte to one character, so nothing is lost or widened by decoding.
            self._decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.kept]
            self._decoded += [line for line in self.told if line[0] in CONTEXT_HEADERS]
        return self._decoded

    @headers.setter
    def headers(self, lines: list[tuple[str, str]]) -> None:
        self._decoded = lines
