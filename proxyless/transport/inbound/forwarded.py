"""Headers that speak for the mesh: who may send them, and what we say ourselves.

Source: Envoy's ``x-forwarded-client-cert`` (APPEND_FORWARD, as Istio's sidecars use it) and its rules for ``x-envoy-*``
from untrusted peers (CVE-2023-27487, CVE-2024-45806): only a caller that mutual TLS authenticated is believed.
"""

from proxyless.transport.inbound.connection import Connection

XFCC = "x-forwarded-client-cert"
# For the hop only: the receiving proxy consumes them, whoever sent them.
_CONSUMED = frozenset({"x-envoy-peer-metadata", "x-envoy-peer-metadata-id", "x-envoy-decorator-operation"})
_OF_THE_MESH = ("x-envoy-", "x-proxyless-")


def believable(name: str, authenticated: bool) -> bool:
    """Whether a request header with this lower-case name is let through. ``XFCC`` is handled by ``client_cert``.

    With ``_`` it is the same name to whatever CGI lies behind the application (CVE-2015-0219), so it never is.
    """
    if "_" in name:
        name = name.replace("_", "-")
        return name != XFCC and not name.startswith(_OF_THE_MESH)
    if name.startswith(_OF_THE_MESH):
        return authenticated and name not in _CONSUMED
    return True


def client_cert(received: list[str], connection: Connection) -> str | None:
    """The ``x-forwarded-client-cert`` that the application sees, None for none.

    received: the header's lines as they came. Only an authenticated caller's are kept, with our element after them.
    """
    if not connection.element:
        return None
    if not received:
        return connection.element
    # In an open quote our element would be a part of theirs.
    return ",".join([*(line.strip() for line in received if line.strip() and _closed(line)), connection.element])


def _closed(line: str) -> bool:
    """Whether every quote in the line is closed; a backslash escapes within quotes."""
    quoted = escaped = False
    for letter in line:
        if escaped:
            escaped = False
        elif letter == "\\" and quoted:
            escaped = True
        elif letter == '"':
            quoted = not quoted
    return not quoted
