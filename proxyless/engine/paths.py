"""One spelling for a path, before any rule looks at it. Source: Envoy's ``normalize_path``, on in Istio's sidecars.

Istio's pathNormalization BASE: RFC 3986 section 6.2.2 and backslashes as slashes. Slashes are not merged, escaped ones
stay escaped. Rules, the service behind them and its policies must see the same path.
"""

import re

# What makes a path worth a second look.
_SUSPECT = re.compile(r"/\.|[%\\\"<>^`{|}]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_UNSAFE = re.compile(r"[\"<>^`{|}]")


def normalised(path: str) -> str:
    """``path`` may have a query, which stays as it is."""
    if _SUSPECT.search(path) is None or not path.startswith(("/", "\\")):
        return path
    end = min((found for mark in "?#" if (found := path.find(mark)) >= 0), default=len(path))
    whole = _ESCAPE.sub(_unescaped, path[:end].replace("\\", "/"))
    whole = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", whole)
    return without_dots(whole) + path[end:]


def is_acceptable(path: str) -> bool:
    """Envoy answers a path with an escaped NUL with 400."""
    return "%00" not in path or "%00" not in path.partition("?")[0]


def _unescaped(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0]


def without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    # A dot segment at the end names a directory.
    return "/" + "/".join(kept) + ("/" if segments[-1] in (".", "..") and kept else "")
