"""Both ends of our HTTP/2 against h2, which knows the protocol, however the bytes are cut on their way."""

import h2.config
import h2.connection
import h2.events
from grpc_wire_ends import HEAD, REQUEST, TRAILERS, Client, Heard, Listening, Server, cut
from hypothesis import given
from hypothesis import strategies as st

from proxyless.transport.grpc_wire.header_blocks import encode

SIZES = st.lists(st.integers(1, 40), max_size=20)
BODY = st.integers(0, 300_000).map(bytes)


@given(BODY, BODY, SIZES)
def test_our_client_speaks_with_h2(upload: bytes, download: bytes, sizes: list[int]) -> None:
    ours = Client()
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    theirs.initiate_connection()
    stream, got, heads, unsent = Listening(ours), b"", [], download
    ours.open(stream, encode(REQUEST))
    ours.data(stream, upload, end=True)
    complete = answered = False
    for _ in range(1000):
        for piece in cut(ours.take(), sizes):
            for event in theirs.receive_data(piece):
                match event:
                    case h2.events.RequestReceived():
                        heads.append([(bytes(name), bytes(value)) for name, value in event.headers])
                        theirs.send_headers(event.stream_id, HEAD)
                        answered = True
                    case h2.events.DataReceived():
                        got += event.data
                        theirs.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    case h2.events.StreamEnded():
                        complete = True
                    case _:
                        pass
        while answered and unsent and (room := theirs.local_flow_control_window(1)) > 0:
            size = min(room, theirs.max_outbound_frame_size)
            theirs.send_data(1, unsent[:size])
            unsent = unsent[size:]
        if complete and not unsent:
            theirs.send_headers(1, TRAILERS, end_stream=True)
            complete = False
        if not (back := theirs.data_to_send()):
            break
        for piece in cut(back, sizes):
            ours.feed(piece)
    assert heads == [REQUEST]
    assert got == upload
    assert stream.heard == Heard([tuple(HEAD), tuple(TRAILERS)], download, ended=True)
    assert not ours.over and not ours.streams


@given(BODY, BODY, SIZES)
def test_our_server_speaks_with_h2(upload: bytes, download: bytes, sizes: list[int]) -> None:
    ours = Server()
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    theirs.initiate_connection()
    theirs.send_headers(1, REQUEST)
    unsent, sent, got, heads, ended = upload, False, b"", [], False
    for _ in range(1000):
        while unsent and (room := theirs.local_flow_control_window(1)) > 0:
            size = min(room, theirs.max_outbound_frame_size)
            theirs.send_data(1, unsent[:size])
            unsent = unsent[size:]
        if not unsent and not sent:
            theirs.end_stream(1)
            sent = True
        for piece in cut(theirs.data_to_send(), sizes):
            ours.feed(piece)
        if ours.taken and ours.taken[0].heard.ended and not ours.taken[0].sent and not ours.taken[0].unsent:
            ours.head(ours.taken[0], encode(HEAD))
            ours.data(ours.taken[0], download)
            ours.head(ours.taken[0], encode(TRAILERS), end=True)
        if not (back := ours.take()):
            break
        for piece in cut(back, sizes):
            for event in theirs.receive_data(piece):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        heads.append([(bytes(name), bytes(value)) for name, value in event.headers])
                    case h2.events.DataReceived():
                        got += event.data
                        theirs.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    case h2.events.StreamEnded():
                        ended = True
                    case _:
                        pass
    assert ours.taken[0].heard == Heard([tuple(REQUEST)], upload, ended=True)
    assert (heads, got, ended) == ([HEAD, TRAILERS], download, True)
    assert not ours.over and not ours.streams
