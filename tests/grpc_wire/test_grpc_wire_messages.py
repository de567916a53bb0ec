"""gRPC's messages, however they are cut and compressed, and what must not be unpacked."""

import gzip
import zlib

import pytest
from grpc_wire_ends import cut
from hypothesis import given
from hypothesis import strategies as st

from proxyless.transport.grpc_wire.messages import ENCODINGS, BadMessage, Messages, frame

SIZES = st.lists(st.integers(0, 12), max_size=30)


@given(st.lists(st.binary(max_size=40), max_size=8), st.sampled_from(ENCODINGS), st.lists(st.booleans()), SIZES)
def test_messages_come_as_they_were(messages: list[bytes], encoding: str, plain: list[bool], sizes: list[int]) -> None:
    # A message may be left uncompressed in any stream.
    flags = [*plain, *[False] * len(messages)]
    wire = b"".join(frame(one, "identity" if flag else encoding) for one, flag in zip(messages, flags, strict=False))
    reader = Messages()
    reader.encoding = encoding
    assert [one for piece in cut(wire, sizes) for one in reader.feed(piece)] == messages
    assert not reader.partial


@given(st.binary(max_size=60), SIZES, st.sampled_from([*ENCODINGS, "br"]))
def test_anything_is_messages_or_bad(wire: bytes, sizes: list[int], encoding: str) -> None:
    results = []
    for pieces in (cut(wire, sizes), [wire]):
        reader = Messages(most=30)
        reader.encoding = encoding
        found: list[object] = []
        try:
            for piece in pieces:
                found += reader.feed(piece)
        except BadMessage as bad:
            assert bad.status in {8, 12, 13}
            found += [*bad.before, bad.status]
        results.append(found)
    assert results[0] == results[1], "the same, however it was cut"


def prefixed(data: bytes, flag: int = 1) -> bytes:
    return bytes([flag]) + len(data).to_bytes(4) + data


HELLO = gzip.compress(b"hello")


@pytest.mark.parametrize(
    ("wire", "encoding", "status"),
    [
        (prefixed(b"hello", 2), "gzip", 13),
        (prefixed(b"hello", 255), "identity", 13),
        (prefixed(b"hello"), "identity", 13),
        (prefixed(b"hello"), "br", 12),
        (prefixed(b"hello"), "gzip", 13),
        (prefixed(b""), "gzip", 13),
        (prefixed(HELLO[:-1]), "gzip", 13),
        (prefixed(HELLO[:-3] + b"xyz"), "gzip", 13),
        (prefixed(HELLO + b"x"), "gzip", 13),
        (prefixed(HELLO + HELLO), "gzip", 13),
        (prefixed(HELLO), "deflate", 13),
        (prefixed(zlib.compress(b"hello")), "gzip", 13),
        (b"\x00\x00\x00\x00\x65", "identity", 8),
        (b"\x00\xff\xff\xff\xff", "identity", 8),
        (prefixed(gzip.compress(bytes(101))), "gzip", 8),
        (prefixed(zlib.compress(bytes(101))), "deflate", 8),
        (prefixed(gzip.compress(bytes(50_000))), "gzip", 8),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)) if isinstance(value, bytes) else None,
)
def test_a_bad_message_ends_the_call(wire: bytes, encoding: str, status: int) -> None:
    reader = Messages(most=100)
    reader.encoding = encoding
    with pytest.raises(BadMessage) as raised:
        reader.feed(frame(b"before") + wire)
    assert (raised.value.status, raised.value.before) == (status, (b"before",))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_message_as_large_as_allowed(encoding: str) -> None:
    reader = Messages(most=100)
    reader.encoding = encoding
    assert reader.feed(frame(bytes(100), encoding)) == [bytes(100)]
    unlimited = Messages(most=None)
    unlimited.encoding = encoding
    assert unlimited.feed(frame(bytes(100_000), encoding)) == [bytes(100_000)]
