import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.transport.grpc_wire.binary import decoded, encoded

TABLE: dict[bytes, list[bytes | None]] = {
    b"": [b""],
    b"AP8": [b"\x00\xff"],
    b"AP8=": [b"\x00\xff"],
    b" AP8= ,AQ, ": [b"\x00\xff", b"\x01", b""],
    b"AP8,!!!,AQ": [b"\x00\xff", None, b"\x01"],
    b"A": [None],
    b"A\xffA": [None],
    b"A=P8": [None],
    b"-_8": [None],  # of another alphabet
}


@pytest.mark.parametrize("line", TABLE)
def test_what_a_line_holds(line: bytes) -> None:
    assert decoded(line) == TABLE[line]


@given(st.lists(st.binary(), min_size=1))
def test_values_come_as_they_were(values: list[bytes]) -> None:
    line = b",".join(map(encoded, values))
    assert decoded(line) == values and b"=" not in line
