"""From a URL, as a person writes it, to the request the engine decides on."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from proxyless.engine.paths import normalised
from proxyless.engine.request import Request
from proxyless.model.errors import ConfigurationError

DEFAULT_PORTS = {"http": 80, "https": 443}


def request_for(method: str, url: str, headers: Mapping[str, str]) -> Request:
    """The request that ``method url`` with ``headers`` becomes. Raises ConfigurationError for a URL that is none."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url!r}: {error}") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not a URL of the form http://HOST[:PORT]/PATH")
    try:
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError as error:
        raise ConfigurationError(f"{url!r}: {error}") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = quote(parts.path, safe="/%:@!$&'()*+,;=-._~") or "/"
    lines = [(name.lower(), value) for name, value in headers.items()]
    named = next((value for name, value in lines if name == "host"), None)
    return Request(
        method=method.upper(),
        target=f"{host}:{port}",
        path=normalised(f"{path}?{parts.query}" if parts.query else path),
        authority=named or (host if parts.port is None else f"{host}:{port}"),
        scheme=parts.scheme,
        headers=[(name, value) for name, value in lines if name != "host"],
    )
