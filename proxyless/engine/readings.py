"""What else a path or header line may be read as, by whoever comes after the rules.

ASGI and WSGI give applications the percent-decoded path, and frameworks differ in what they make of ``%2F``, of
backslashes and of repeated slashes (CVE-2021-31920). A policy must come to the same result for each reading.
"""

import re
from urllib.parse import unquote_to_bytes

from proxyless.engine.paths import without_dots

_SLASHES = re.compile(r"/{2,}")
_ESCAPED_SLASH = re.compile(r"%2[Ff]|%5[Cc]|\\")


def is_ambiguous(path: str) -> bool:
    """Whether ``decoded`` may differ from a normalised path."""
    return "%" in path or "//" in path or "\\" in path or not path.isascii()


def decoded(path: str) -> str:
    """A path without its query: percent-decoded once, with single forward slashes and no dot segments."""
    text = unquote_to_bytes(path.encode("latin-1", "replace")).decode("utf-8", "surrogateescape")
    return without_dots(_SLASHES.sub("/", text.replace("\\", "/")))


def resolved(path: str) -> str:
    """Like ``decoded``, but only what is a slash to some is decoded; for expressions, which are about escaped paths."""
    return without_dots(_SLASHES.sub("/", _ESCAPED_SLASH.sub("/", path)))


def unescaped(text: str) -> str:
    """What a matcher says of a path, percent-decoded as that is."""
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def as_text(line: str) -> str:
    """A header line that was decoded as latin-1, as the UTF-8 that it may be; other bytes become surrogates."""
    return line.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
