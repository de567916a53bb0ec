"""The head of a request as the engine sees it: the same for httpx, gRPC and the command line."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter

# Of a header line. Looking through the names of a request in C costs a fraction of a loop.
NAME_OF = itemgetter(0)
# RFC 9110 section 9.2.2.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(slots=True)
class Request:
    """One request before any decision. Header names are lower case; order and repeated lines are kept.

    target: the ``host:port`` that was dialled; it chooses the listener. authority: the ``Host`` header, passed on
    unchanged unless a route rewrites it. path: path and query as on the wire. replayable: the body can be sent a
    second time. hedgeable: also while it is being sent, by a transport that can do so. deadline: monotonic seconds
    after which an answer is worth nothing, None for no limit; it comes from the request being served.
    """

    method: str
    target: str
    path: str
    authority: str = ""
    scheme: str = "http"
    headers: list[tuple[str, str]] = field(default_factory=list)
    replayable: bool = True
    hedgeable: bool = False
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not self.authority:
            self.authority = self.target

    def values(self, name: str) -> Iterator[str]:
        """Every line of a header; ``name`` is lower case."""
        return (value for key, value in self.headers if key == name)

    @property
    def content_type(self) -> str:
        """The first line of that header, "" without one."""
        if "content-type" not in map(NAME_OF, self.headers):
            return ""
        for name, value in self.headers:
            if name == "content-type":
                return value
        return ""

    def header(self, name: str) -> str | None:
        """All lines of a header joined by a comma, or None. Knows the pseudo-headers. Matchers look at each line."""
        match name:
            case ":method":
                return self.method
            case ":path":
                return self.path
            case ":authority" | "host":
                return self.authority
            case ":scheme":
                return self.scheme
        found = [value for key, value in self.headers if key == name]
        return ",".join(found) if found else None

    @property
    def path_only(self) -> str:
        """The path without query (and without a fragment, which a client must not send: CVE-2021-39156)."""
        path = self.path
        return path if "?" not in path and "#" not in path else path.partition("?")[0].partition("#")[0]
