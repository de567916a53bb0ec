"""Header blocks (HPACK, RFC 7541): what we send is stateless, what a peer sends is decoded with its dynamic table.

Measured, the hpack library takes some 40 us for the heads of a call. Our own blocks never use the dynamic table nor
Huffman codes: a line is the same bytes each time, so it is made once. A peer's block of nothing but indexes changes no
table, so its lines are remembered until the table changes.
"""

from collections import deque
from collections.abc import Iterable
from functools import lru_cache

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from proxyless.transport.grpc_wire.errors import Code, ConnectionFault, HeadMalformed, HeadTooLarge
from proxyless.transport.grpc_wire.fields import Line, Lines, sound, sound_names, sound_values

__all__ = ["Decoder", "Line", "Lines", "encode", "literal"]

# SETTINGS_HEADER_TABLE_SIZE that we announce by saying nothing.
TABLE_SIZE = 4096
# What RFC 7541 section 4.1 adds to each entry's bytes, also for SETTINGS_MAX_HEADER_LIST_SIZE.
_OVERHEAD = 32
# Tells the peer that we use no dynamic table, whatever it allows; in front of a connection's first block.
NO_TABLE = b"\x20"
_STATIC: Lines = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_FULL = {line: index for index, line in reversed(list(enumerate(_STATIC, 1)))}
_NAMES = {line[0]: index for index, line in reversed(list(enumerate(_STATIC, 1)))}
# The only line of the static table that HTTP/2 does not allow.
_TRANSFER_ENCODING = 57
# Never to be kept in any table on the way (RFC 7541 section 7.1.3).
_SECRET = frozenset({b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"})
# What is remembered is bounded in bytes too: blocks and lines are of a peer's making.
_MOST_KEPT, _LONGEST_KEPT = 64, 128
_MOST_INTEGER = 1 << 24
# A list that is too large costs its stream, one of so many times what we take the connection: reading on is work.
_FAR_TOO_LARGE = 4
# RFC 7541 section 4.2 has two; hpack's encoder tells of each change since the last block.
_MOST_UPDATES = 32


def encode(lines: Iterable[Line]) -> bytes:
    """A block. Names are lower case and values free of CR, LF and NUL already: nothing is checked here."""
    return b"".join(
        [_line(name, value) if len(value) <= _LONGEST_KEPT else literal(name, value) for name, value in lines]
    )


@lru_cache(maxsize=4096)
def _line(name: bytes, value: bytes) -> bytes:
    if (index := _FULL.get((name, value))) is not None:
        return bytes([0x80 | index])
    return literal(name, value)


def literal(name: bytes, value: bytes) -> bytes:
    """A line of a block whose value is another each time, so that it is not worth remembering."""
    size = len(value)
    return _opening(name) + (bytes((size,)) if size < 0x7F else _integer(0, 7, size)) + value


@lru_cache(maxsize=1024)
def _opening(name: bytes) -> bytes:
    first = 0x10 if name in _SECRET else 0
    known = _NAMES.get(name, 0)
    return _integer(first, 4, known) if known else bytes([first]) + _integer(0, 7, len(name)) + name


def _integer(first: int, bits: int, number: int) -> bytes:
    most = (1 << bits) - 1
    if number < most:
        return bytes([first | number])
    found, number = bytearray([first | most]), number - most
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


class Decoder:
    """The peer's blocks of one connection, in their order.

    most: bytes of a list, each line counted with 32 more, as SETTINGS_MAX_HEADER_LIST_SIZE counts.
    """

    __slots__ = ("_doubted", "_kept", "_limit", "_most", "_size", "_table")

    def __init__(self, most: int) -> None:
        self._most = most
        self._table: deque[Line] = deque()
        self._size = 0
        self._limit = TABLE_SIZE
        self._kept: dict[bytes, Lines] = {}
        self._doubted = False  # a line that nobody may send has come, and may be in the table

    def decode(self, block: bytes) -> Lines:
        """Raises ConnectionFault for what is no block, HeadTooLarge for a list of more than ``most`` bytes and
        HeadMalformed for one with a line that nobody may send: the table is as the peer expects it all the same.
        """
        if (kept := self._kept.get(block)) is not None:
            return kept
        try:
            return self._decode(block)
        except (IndexError, HPACKDecodingError):
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block that cannot be decoded") from None

    def _decode(self, block: bytes) -> Lines:  # noqa: PLR0915
        found: list[Line] = []
        names: list[bytes] = []  # those that are of no table,
        values: list[bytes] = []  # and values
        position, end, left, steady, begun, updates = 0, len(block), self._most, True, False, 0
        # One long loop: calls would be half of its price.
        least = -_FAR_TOO_LARGE * left
        while position < end:
            first = block[position]
            if first & 0x80:
                index = first & 0x7F
                position += 1
                if index == 0x7F:
                    index, position = _more(block, position, index)
                line = self._entry(index)
                if index == _TRANSFER_ENCODING:
                    self._doubted = True
            elif first & 0xE0 == 0x20:
                size = first & 0x1F
                position += 1
                if size == 0x1F:
                    size, position = _more(block, position, size)
                if begun or size > TABLE_SIZE:
                    raise ConnectionFault(Code.COMPRESSION_ERROR, "a table size where none may be, or too large a one")
                updates += 1
                if updates > _MOST_UPDATES:
                    raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block that is all table sizes")
                self._limit, steady = size, False
                self._shrink()
                continue
            else:
                bits = 0x3F if first & 0x40 else 0x0F
                index = first & bits
                position += 1
                if index == bits:
                    index, position = _more(block, position, index)
                if index:
                    name = self._entry(index)[0]
                    if index == _TRANSFER_ENCODING:
                        self._doubted = True
                else:
                    name, position = _string(block, position)
                    names.append(name)
                # As _string, which is a call more for each line.
                size = block[position]
                if size < 0x7F:
                    start, position = position + 1, position + 1 + size
                    value = block[start:position]
                else:
                    value, position = _string(block, position)
                values.append(value)
                line = (name, value)
                if first & 0xF0:  # but for our own answers' lines: of no table, the same each time, and no secrets
                    steady = False
                    if first & 0x40:
                        self._add(line)
            begun = True
            left -= len(line[0]) + len(line[1]) + _OVERHEAD
            if left >= 0:
                found.append(line)
            elif left < least:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header list far larger than we take")
        if position > end:
            raise IndexError
        if values and not (sound_values(values) and sound_names(names)):
            self._doubted = True
        if left < 0:
            raise HeadTooLarge(f"a header list of more than {self._most} bytes")
        if self._doubted and not sound(found):
            raise HeadMalformed("a header field that HTTP/2 does not allow")
        lines = tuple(found)
        if steady and end <= _LONGEST_KEPT:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[block] = lines
        return lines

    def _entry(self, index: int) -> Line:
        if index <= 0:
            raise IndexError
        return _STATIC[index - 1] if index <= len(_STATIC) else self._table[index - len(_STATIC) - 1]

    def _add(self, line: Line) -> None:
        self._kept.clear()  # all indexes move
        self._table.appendleft(line)
        self._size += len(line[0]) + len(line[1]) + _OVERHEAD
        self._shrink()

    def _shrink(self) -> None:
        while self._size > self._limit:
            self._kept.clear()
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + _OVERHEAD


def _more(block: bytes, position: int, number: int) -> tuple[int, int]:
    """The rest of an integer that did not fit into its first byte."""
    shift = 0
    while True:
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if number > _MOST_INTEGER or shift > 28:
            raise IndexError
        if byte < 0x80:
            return number, position
        shift += 7


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    first = block[position]
    size = first & 0x7F
    position += 1
    if size == 0x7F:
        size, position = _more(block, position, size)
    end = position + size
    if end > len(block):
        raise IndexError
    found = block[position:end]
    if first & 0x80:
        found = _huffman(found) if size <= _LONGEST_KEPT else decode_huffman(found)
    return found, end


@lru_cache(maxsize=1024)
def _huffman(data: bytes) -> bytes:
    return decode_huffman(data)
