"""What is remembered of servers' header lists."""

from collections.abc import Callable
from typing import Any

import pytest

from proxyless.transport.grpc_client.wire import answer
from proxyless.transport.grpc_wire.header_blocks import Lines

HEAD: Lines = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: Lines = ((b"grpc-status", b"5"), (b"grpc-message", b"no%20such"))


@pytest.mark.parametrize(("meaning", "lines"), [(answer.head, HEAD), (answer.status_of, TRAILERS)])
def test_small_lists_are_remembered_and_few(meaning: Callable[[Lines], Any], lines: Lines) -> None:
    def with_a(value: bytes) -> Lines:
        return (*lines, (b"a", value))

    first = meaning(with_a(b"first"))
    assert meaning(with_a(b"first")) is first
    large = meaning(with_a(bytes(2000)))
    assert meaning(with_a(bytes(2000))) == large and meaning(with_a(bytes(2000))) is not large
    for number in range(256):
        meaning(with_a(b"%d" % number))
    assert meaning(with_a(b"first")) == first and meaning(with_a(b"first")) is not first


def test_lists_of_trailers_and_of_heads_are_not_mixed_up() -> None:
    assert answer.status_of(TRAILERS).details == "no such"
    assert answer.head(TRAILERS).problem is None
