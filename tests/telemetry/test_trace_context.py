"""W3C and B3 on the wire: what is taken, what is ignored, what goes out."""

import os
import threading

import pytest

from proxyless.telemetry import trace_context
from proxyless.telemetry.request_id import new_request_id
from proxyless.telemetry.trace_context import Formats, TraceContext, extract, inject

T, S = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HALF = "8448eb211c80319c"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": f"00-{T}-{S}-01"}, (T, S, True)),
        ({"traceparent": f"00-{T}-{S}-00"}, (T, S, False)),
        ({"traceparent": f" 00-{T}-{S}-03\t"}, (T, S, True)),
        ({"traceparent": f"cc-{T}-{S}-01-what-the-future-brings"}, (T, S, True)),
        ({"b3": f"{T}-{S}-1"}, (T, S, True)),
        ({"b3": f"{T}-{S}-0-{S}"}, (T, S, False)),
        ({"b3": f"{HALF}-{S}-d"}, ("0" * 16 + HALF, S, True)),
        ({"b3": f"{T.upper()}-{S.upper()}"}, (T, S, False)),
        ({"x-b3-traceid": T, "x-b3-spanid": S, "x-b3-sampled": "1"}, (T, S, True)),
        ({"x-b3-traceid": HALF, "x-b3-spanid": S, "x-b3-sampled": "true"}, ("0" * 16 + HALF, S, True)),
        ({"x-b3-traceid": T, "x-b3-spanid": S, "x-b3-flags": "1"}, (T, S, True)),
        ({"x-b3-traceid": T, "x-b3-spanid": S, "x-b3-sampled": "0"}, (T, S, False)),
        # W3C wins, and a broken one does not hide B3.
        ({"traceparent": f"00-{T}-{S}-00", "b3": f"{'1' * 32}-{S}-1"}, (T, S, False)),
        ({"traceparent": "nonsense", "b3": f"{T}-{S}-1"}, (T, S, True)),
    ],
)
def test_context_is_read(headers: dict[str, str], expected: tuple[str, str, bool]) -> None:
    context = extract(headers.items()).context
    assert context is not None
    assert (context.trace_id, context.span_id, context.sampled) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "")],
        [("traceparent", f"00-{T}-{S}-01-more")],
        [("traceparent", f"ff-{T}-{S}-01")],
        [("traceparent", f"00-{T.upper()}-{S}-01")],
        [("traceparent", f"00-{'0' * 32}-{S}-01")],
        [("traceparent", f"00-{T}-{'0' * 16}-01")],
        [("traceparent", f"00-{T}-{S}-1")],
        [("traceparent", f"00-{T}-{S}-01\n")],
        [("traceparent", f"00-{T}-{S}-01"), ("traceparent", f"00-{T}-{S}-01")],
        [("traceparent", f"01-{T}-{S}-01-{'x' * 10_000}")],
        [("b3", "x" * 100_000)],
        [("b3", f"{T}-{S}-x")],
        [("b3", f"{'0' * 32}-{S}-1")],
        [("b3", f"{T}")],
        [("x-b3-traceid", T)],
        [("x-b3-traceid", T[:20]), ("x-b3-spanid", S)],
        [("x-b3-traceid", T), ("x-b3-spanid", "é" * 16)],
    ],
)
def test_malformed_is_as_if_absent(headers: list[tuple[str, str]]) -> None:
    assert extract(headers).context is None


@pytest.mark.parametrize(
    ("headers", "sampled"),
    [
        ({}, None),
        ({"b3": "0"}, False),
        ({"b3": "1"}, True),
        ({"b3": "d"}, True),
        ({"x-b3-sampled": "0"}, False),
        ({"x-b3-sampled": "false"}, False),
        ({"x-b3-flags": "1"}, True),
        ({"b3": f"{T}-{S}"}, None),
        ({"x-b3-traceid": T, "x-b3-spanid": S}, None),
        ({"traceparent": f"00-{T}-{S}-00"}, False),
    ],
)
def test_the_decision_that_came(headers: dict[str, str], sampled: bool | None) -> None:
    assert extract(headers.items()).sampled is sampled


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        (["a=1,b=2"], "a=1,b=2"),
        (["a=1", " b@c=2 ,, "], "a=1,b@c=2"),
        (["A=1"], ""),
        (["a"], ""),
        (["a=1\x00"], ""),
        (["a=" + "x" * 600], ""),
        ([",".join(f"k{number}=v" for number in range(33))], ""),
        (["a=é"], ""),
    ],
)
def test_tracestate_is_bounded_and_checked(lines: list[str], state: str) -> None:
    context = extract([("traceparent", f"00-{T}-{S}-01"), *(("tracestate", line) for line in lines)]).context
    assert context is not None
    assert context.state == state


@pytest.mark.parametrize(
    ("context", "lines"),
    [
        (TraceContext(T, S), {"traceparent": f"00-{T}-{S}-00"}),
        (TraceContext(T, S, True, "a=b"), {"traceparent": f"00-{T}-{S}-01", "tracestate": "a=b"}),
        (
            TraceContext(T, S, True, "", Formats.B3_SINGLE),
            {"traceparent": f"00-{T}-{S}-01", "b3": f"{T}-{S}-1"},
        ),
        (
            TraceContext(T, S, False, "", Formats.B3_MULTI),
            {"traceparent": f"00-{T}-{S}-00", "x-b3-traceid": T, "x-b3-spanid": S, "x-b3-sampled": "0"},
        ),
        (
            TraceContext(T, S, True, "", Formats.B3_MULTI | Formats.B3_SINGLE, debug=True),
            {
                "traceparent": f"00-{T}-{S}-01",
                "b3": f"{T}-{S}-d",
                "x-b3-traceid": T,
                "x-b3-spanid": S,
                "x-b3-flags": "1",
            },
        ),
    ],
)
def test_what_goes_out(context: TraceContext, lines: dict[str, str]) -> None:
    assert dict(inject(context)) == lines
    assert extract(lines.items()).context == context


def test_a_span_id_of_zeros_is_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = ["0" * 32, "1" * 32, "2" * 64]
    monkeypatch.setattr(trace_context, "digits", lambda count: drawn.pop(0)[:count])
    assert trace_context._traces(2) == [TraceContext("2" * 32, "1" * 16)] * 2
    assert not drawn


def test_ids_are_nobody_elses() -> None:
    """Not another thread's and not a forked child's, though they are made many at a time."""
    taken: list[str] = []

    def take() -> None:
        taken.extend(new_request_id() for _ in range(1000))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    new_request_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, ",".join(new_request_id() for _ in range(50)).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = pipe.read().split(",")
    ours = [new_request_id() for _ in range(200)]
    assert len(theirs) == 50
    assert len({*taken, *theirs, *ours}) == 4000 + 50 + 200
