"""Header names, made lower case and decoded once: peers and applications use the same few again and again."""

# Peers choose the names: what is remembered of them is bounded.
_MOST, _LONGEST = 1024, 64
_known: dict[bytes, tuple[str, bytes]] = {}


def lower(raw: bytes) -> tuple[str, bytes]:
    """A header name in lower case, as text and as bytes."""
    return _known.get(raw) or _learn(raw)


def _learn(raw: bytes) -> tuple[str, bytes]:
    # latin-1's letters have lower case too: text first, as bytes know only ASCII's.
    text = raw.decode("latin-1").lower()
    found = text, text.encode("latin-1")
    if len(_known) < _MOST and len(raw) <= _LONGEST:
        _known[raw] = found
    return found
