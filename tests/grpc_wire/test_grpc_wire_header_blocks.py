"""HPACK against the hpack library, both ways, and what a hostile peer's blocks may cost."""

import re
import tracemalloc

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.transport.grpc_wire.errors import Code, ConnectionFault, HeadMalformed, HeadTooLarge
from proxyless.transport.grpc_wire.fields import sound
from proxyless.transport.grpc_wire.header_blocks import NO_TABLE, Decoder, Line, encode

MOST = 64 * 1024
NAMES = st.sampled_from(
    [b":path", b":status", b"content-type", b"authorization", b"x", b"grpc-timeout", b"a" * 200]
) | (st.text("abcxyz019-_.", min_size=1, max_size=20).map(str.encode))
VALUES = st.sampled_from([b"", b"/", b"200", b"trailers", b"v" * 127, b"v" * 300]) | st.binary(max_size=60).map(
    lambda value: re.sub(rb"[\x00\r\n]", b".", value)
)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@given(st.lists(LISTS, max_size=5))
def test_hpack_reads_what_we_write(lists: list[list[Line]]) -> None:
    decoder = hpack.Decoder()
    for at, lines in enumerate(lists):
        block = encode(lines) if at else NO_TABLE + encode(lines)
        assert [tuple(line) for line in decoder.decode(block, raw=True)] == lines


# Not the same twice: hpack's encoder would then keep both to itself.
SIZES = st.lists(st.integers(0, 4096), max_size=2, unique=True)


@given(st.lists(st.tuples(LISTS, st.booleans(), SIZES), max_size=12))
def test_we_read_what_hpack_writes(lists: list[tuple[list[Line], bool, list[int]]]) -> None:
    encoder, decoder = hpack.Encoder(), Decoder(MOST)
    for lines, huffman, sizes in lists:
        for size in sizes:
            encoder.header_table_size = size
        marked = [hpack.NeverIndexedHeaderTuple(*one) if one[0] == b"authorization" else one for one in lines]
        assert decoder.decode(encoder.encode(marked, huffman=huffman)) == tuple(lines)


PIECES = st.one_of(
    st.integers(0x80, 0xC4).map(lambda byte: bytes([byte])),
    st.tuples(st.sampled_from([b"\x40", b"\x00", b"\x10"]), LISTS.filter(bool)).map(
        lambda drawn: drawn[0] + _text(drawn[1][0][0]) + _text(drawn[1][0][1])
    ),
    st.integers(0x41, 0x7E).map(lambda byte: bytes([byte]) + b"\x01v"),
    st.binary(max_size=4),
    st.sampled_from([b"\x20", b"\x3f\x11", b"\x3f\xe1\x1f", b"\x3f\xe2\x1f", b"\x84\x9f", b"\xff\x80\x00"]),
)


def _text(text: bytes) -> bytes:
    return hpack.hpack.encode_integer(len(text), 7) + text


@given(st.lists(st.lists(PIECES, max_size=6).map(b"".join), max_size=6))
def test_we_and_hpack_agree_on_anything(blocks: list[bytes]) -> None:
    ours, theirs = Decoder(MOST), hpack.Decoder()
    for block in blocks:
        try:
            expected = tuple((bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True))
        except hpack.HPACKError:
            with pytest.raises(ConnectionFault):
                ours.decode(block)
            return
        try:
            found = ours.decode(block)
        except ConnectionFault:
            # A number of more bytes than any needs, which we do not go along with.
            assert re.search(rb"[\x80-\xff]{5}", block)
            return
        except HeadMalformed:
            assert not sound(expected)
            continue
        assert found == expected and sound(found)


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_a_list_or_a_fault(blocks: list[bytes]) -> None:
    decoder = Decoder(1000)
    for block in blocks:
        try:
            found = decoder.decode(block)
        except (HeadMalformed, HeadTooLarge):
            continue
        except ConnectionFault as fault:
            assert fault.code in {Code.COMPRESSION_ERROR, Code.ENHANCE_YOUR_CALM}
            return
        assert sum(len(name) + len(value) + 32 for name, value in found) <= 1000


def test_a_remembered_block_means_what_its_table_says() -> None:
    decoder = Decoder(MOST)
    for value in (b"one", b"two"):
        decoder.decode(b"\x40\x01a\x03" + value)
        for _ in range(3):
            assert decoder.decode(b"\xbe") == ((b"a", value),)
    decoder.decode(b"\x20")
    with pytest.raises(ConnectionFault):
        decoder.decode(b"\xbe")


def test_an_entry_that_fits_no_table_empties_it_and_may_name_one_that_goes() -> None:
    decoder = Decoder(MOST)
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\x7e" + _text(b"v" * 5000)) == ((b"a", b"v" * 5000),)
    with pytest.raises(ConnectionFault):
        decoder.decode(b"\xbe")


def test_a_list_too_large_leaves_the_table_as_the_peer_expects_it() -> None:
    decoder = Decoder(100)
    with pytest.raises(HeadTooLarge):
        decoder.decode(b"\x40\x01a\x7f\x00" + b"v" * 127 + b"\x40\x01b\x01c")
    assert decoder.decode(b"\xbe") == ((b"b", b"c"),)


def test_a_malformed_line_costs_its_list_whenever_it_is_named() -> None:
    decoder = Decoder(MOST)
    for block in (b"\xb9", b"\x40\x01A\x01b", b"\xbe", b"\x88\xbe"):
        with pytest.raises(HeadMalformed):
            decoder.decode(block)
    assert decoder.decode(b"\x88") == ((b":status", b"200"),)


@pytest.mark.parametrize("block", [b"\x20" * 33, b"\x82" * 60_000, b"\x00\x01a\x00" * 15_000])
def test_reading_on_is_bounded(block: bytes) -> None:
    with pytest.raises(ConnectionFault):
        Decoder(MOST).decode(block)


def test_what_is_remembered_is_bounded() -> None:
    encoder, decoder = hpack.Encoder(), Decoder(MOST)
    encoder.header_table_size = 0
    blocks = [encoder.encode([(b"a", b"%d" % at * 2500)], huffman=True) for at in range(10, 40)]
    indexes = [b"\x82" * 200 + b"\x83" * at for at in range(100)]
    tracemalloc.start()
    try:
        for block in blocks + indexes:
            decoder.decode(block)
        for at in range(10, 40):
            encode([(b"a", b"%d" % at * 2500)])
        assert tracemalloc.get_traced_memory()[0] < 150_000
    finally:
        tracemalloc.stop()
