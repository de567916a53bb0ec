"""What a row of the table is: rules, a request, what the backends do, and what must come of it for every client."""

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

ID, SCRIPT = "x-test-id", "x-test-script"


class Lacks(enum.Enum):
    """Why a row is not for gRPC's xDS client (grpc_xds_features.md, gRFC A28 and A44), nor, unless the reason is in
    ``OF_XDS_CLIENT``, for our channels.
    """

    QUERY = "gRPC has no query parameters"
    PSEUDO = "gRPC matches neither method, nor scheme, nor authority"
    HEADERS = "gRPC ignores header changes"
    REWRITE = "gRPC ignores rewrites"
    REDIRECT = "gRPC ignores redirects"
    DIRECT = "gRPC ignores direct responses"
    MIRROR = "gRPC does not mirror"
    LIMIT = "gRPC has no local rate limits"
    CORS = "gRPC is no browser"
    REPEATED = "gRPC joins repeated headers with a comma before it matches them"
    PER_TRY = "gRPC has no per-try timeout"
    CONDITION = "gRPC retries on five gRPC statuses only, without other hosts"
    STATUS = "gRPC's backends answer gRPC statuses, not HTTP's"
    STEERING = "gRPC's callers steer by API, not by header"
    URL = "gRPC takes a path as it is, with what looks like a query"
    AUTHORITY = "gRPC's target chooses the route, and its authority is no header"
    UNKNOWN = "gRPC cannot dial what the control plane does not know"
    HTTP = "about HTTP/1.1 itself"
    TLS = "the gRPC client of these tests has no certificate"
    SOON = "grpcio 1.85 ends a call up to two seconds before its max_stream_duration"
    PORT = "a gRPC port is dialled whatever it is called"
    TARGET = "a gRPC target names its port, and the authority is the target"


# gRPC has a word for these, so our channels do them.
OF_XDS_CLIENT = frozenset(
    {
        Lacks.HEADERS,
        Lacks.REWRITE,
        Lacks.DIRECT,
        Lacks.REPEATED,
        Lacks.LIMIT,
        Lacks.PER_TRY,
        Lacks.STEERING,
        Lacks.AUTHORITY,
        Lacks.UNKNOWN,
        Lacks.SOON,
        Lacks.PORT,
    }
)
# "HTTP to gRPC Status Code Mapping" (grpc/doc/http-grpc-status-mapping.md), and Envoy's.
_GRPC_CODES = {200: "OK", 400: "INTERNAL", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED"}
_GRPC_CODES |= dict.fromkeys((429, 502, 503, 504), "UNAVAILABLE")


class Differs(enum.Enum):
    """Why a row is not for Envoy. Each is in "Where we differ" of docs/configuration.md."""

    IDEMPOTENT = "our default retries what was lost on its way, if the method allows it"
    SERVER = "a sidecar puts its own name into the server header, a library is no server"
    TARGET = "the URL chooses the route; a sidecar sees only the Host header"


class Reported(enum.Enum):
    """Why a row is not for our library: a field that it reports and does not act on."""

    CORS = "http[].corsPolicy"


@dataclass(frozen=True)
class Answer:
    """What a backend does with one attempt. body: None for an echo of the request.

    reset: closes instead. hang: says nothing until the caller is gone. interim: a 103 comes first.
    beside: is given once so many attempts have arrived, and after: seconds later.
    To a gRPC call ``grpc-status`` in ``headers`` is the answer's.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    reset: bool = False
    hang: bool = False
    interim: bool = False
    chunked: bool = False
    beside: int = 0
    after: float = 0.0


OK = Answer()
_OF_HTTP = frozenset({"content-type", "content-length"})


def script(answers: Iterable[Answer]) -> str:
    """A request header's value; an attempt past the last is answered with an echo."""
    return json.dumps([asdict(answer) for answer in answers])


def answer_to(scripted: str, attempt: int) -> Answer:
    answers = json.loads(scripted) if scripted else []
    if attempt >= len(answers):
        return OK
    found = Answer(**answers[attempt])
    return replace(found, headers=tuple((name, value) for name, value in found.headers))


@dataclass(frozen=True)
class Seen:
    """A request as a backend saw it. backend: its name, as ``reviews-v1``. headers: lower-case names, every line."""

    backend: str
    method: str
    path: str
    host: str
    headers: tuple[tuple[str, str], ...]
    body: str = ""


@dataclass
class Observed:
    """What came of a request. code: of gRPC, "" elsewhere. flags: None where the client cannot tell.

    backend: who answered, "" if the mesh did. seen: every request that reached a backend, in order.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""
    backend: str = ""
    seen: list[Seen] = field(default_factory=list)
    flags: str | None = None
    code: str = ""
    seconds: float = 0.0

    def value(self, name: str) -> str | None:
        return _joined(self.headers, name)


def _joined(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    lines = [value for key, value in headers if key.lower() == name]
    return ", ".join(lines) if lines else None


@dataclass(frozen=True)
class Expected:
    """What must come of a request; what is left out is not looked at.

    by: the backend that answered, or several any of which may. grpc: the status of a gRPC client, None for what HTTP's
    stands for. sent: request headers as the backend got them, received: response headers, None for absent, lines joined
    by a comma and a space. path, host, method, text: of the request as the last backend saw it. attempts: how many
    reached a backend. mirrored: a backend that gets it too. flags: Envoy's response flags. seconds: at least so many.
    """

    status: int = 200
    by: str | tuple[str, ...] = ""
    grpc: str | None = None
    path: str | None = None
    host: str | None = None
    method: str | None = None
    text: str | None = None
    sent: Mapping[str, str | None] = field(default_factory=dict)
    received: Mapping[str, str | None] = field(default_factory=dict)
    body: str | None = None
    attempts: int | None = None
    flags: str | None = None
    seconds: float = 0.0
    mirrored: str = ""

    def as_grpc(self, *, envoy: bool) -> "Expected":
        """What of it holds for a gRPC call. envoy: the mesh's own answers have the status that HTTP's stands for, where
        gRPC has a word of its own for a deadline (DEADLINE_EXCEEDED, gRFC A31) and no route (UNAVAILABLE).
        """
        # Of its own only a limit has one of gRPC's.
        code = None if envoy and self.status not in {200, 429} else self.grpc
        sent = {name: value and value.partition("?")[0] for name, value in self.sent.items()}
        received = {name: value for name, value in self.received.items() if name not in _OF_HTTP}
        path = self.path and self.path.partition("?")[0]
        code = code or _GRPC_CODES.get(self.status, "UNKNOWN")
        return replace(self, grpc=code, sent=sent, received=received, path=path, body=None)

    def differences(self, got: Observed, *, metadata: bool = True) -> list[str]:
        """Where an outcome is not as expected. metadata: the response's is known."""
        pairs: list[tuple[str, Any, Any]] = []
        if got.code:
            pairs.append(("gRPC status", self.grpc, got.code))
        else:
            pairs.append(("status", self.status, got.status))
        if metadata:
            pairs += [(f"response {name}", value, got.value(name)) for name, value in self.received.items()]
        if self.body is not None:
            pairs.append(("body", self.body, got.body))
        if self.flags is not None and got.flags is not None:
            pairs.append(("flags", self.flags, got.flags))
        if self.attempts is not None:
            pairs.append(("attempts", self.attempts, len(got.seen)))
        if self.mirrored:
            pairs.append(("mirrored to", {self.by, self.mirrored}, {seen.backend for seen in got.seen}))
            sent = next((seen for seen in got.seen if seen.backend == self.by), None)
            copy = next((seen for seen in got.seen if seen.backend == self.mirrored), None)
            if sent is not None and copy is not None:
                as_sent = sent.method, sent.path, sent.host, sent.body
                pairs.append(("copy", as_sent, (copy.method, copy.path, copy.host, copy.body)))
        last = got.seen[-1] if got.seen else None
        for name, value in (("path", self.path), ("host", self.host), ("method", self.method), ("body", self.text)):
            if value is not None:
                pairs.append((f"{name} at the backend", value, getattr(last, name, None)))
        for name, value in self.sent.items():
            pairs.append((f"request {name}", value, _joined(last.headers, name) if last else "(no request)"))
        found = [f"{what}: expected {wanted!r}, got {is_!r}" for what, wanted, is_ in pairs if wanted != is_]
        if self.by and got.backend not in ((self.by,) if isinstance(self.by, str) else self.by):
            found.append(f"answered by: expected {self.by!r}, got {got.backend!r}")
        # Timers have their granularity.
        if got.seconds < self.seconds * 0.95:
            found.append(f"took {got.seconds:.3f} s, expected at least {self.seconds}")
        return found


@dataclass(frozen=True)
class Case:
    """A row. In ``rules`` and ``url``, HOST is a service of the row's own, with the workloads of ``reviews``, and
    NAMESPACE the caller's namespace, where all services are (``vault`` apart, in NAMESPACE-secrets).

    url: ``raw_path`` replaces its path on the wire. STRANGER in ``url`` and ``host``
    is the port of a backend that the mesh does not know. grpc, envoy, library: None if that client must do it.
    registry_only: under that outbound policy. wire: about what is done with sockets only. times: that it is sent; what
    came of the last one counts.
    """

    name: str
    rules: str
    expected: Expected
    url: str = "http://HOST/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    chunked: bool = False
    raw_path: str = ""
    answers: tuple[Answer, ...] = ()
    grpc: Lacks | None = None
    envoy: Differs | None = None
    library: Reported | None = None
    registry_only: bool = False
    wire: bool = False
    times: int = 1

    @property
    def host(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())

    @property
    def for_channels(self) -> bool:
        """Whether our gRPC channels must do it."""
        return self.grpc is None or self.grpc in OF_XDS_CLIENT

    @property
    def slow(self) -> bool:
        return self.expected.seconds > 0 or any(answer.hang or answer.beside for answer in self.answers)

    @property
    def over_sockets(self) -> "Case":
        """Of a call that ends by its timeout nobody can say how many attempts a busy machine got through till then."""
        if self.expected.status != 504:
            return self
        return replace(self, expected=replace(self.expected, attempts=None))

    def beside(self, stranger: int) -> "Case":
        """With the port of the stranger."""
        host, port = self.expected.host, str(stranger)
        expected = replace(self.expected, host=host.replace("STRANGER", port)) if host else self.expected
        return replace(self, url=self.url.replace("STRANGER", port), expected=expected)

    def fill(self, text: str, namespace: str) -> str:
        text = text.replace("HOST.example", f"HOST.{namespace}.example")  # such hosts are in no namespace
        return text.replace("HOST", self.host).replace("NAMESPACE", namespace)
