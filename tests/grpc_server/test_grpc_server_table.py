"""What callers see of a servicer's behaviour: of grpcio's own server and of ours the same, by the same client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_support import GrpcTestRuntime
from inbound_support import SERVER, Authority

from proxyless.transport.grpc_server.server import MeshGrpcServer

SERVICE = "test.Table"
PATIENCE = 60.0
LIMITS = [("grpc.max_receive_message_length", 70_000), ("grpc.max_send_message_length", 90_000)]
RICH = (("grpc-status-details-bin", b"\x08\x05\xff"), ("many-bin", b"\x00"), ("many-bin", b""), ("plain", "a text"))
# Of the transport or of the mesh.
OWN = {"grpc-accept-encoding", "content-type", "x-proxyless-reason", "date", "server"}


class Rich(NamedTuple):
    code: Any
    details: str
    trailing_metadata: Any


def text(data: bytes) -> str:
    return data.decode()


def raw(message: Any) -> bytes:
    """grpcio's asyncio makes bytes of a str before it asks."""
    if not isinstance(message, str | bytes):
        raise TypeError(f"{message!r} is no text")
    return message if isinstance(message, bytes) else message.encode()


class Servicer:
    """unary, listed: by the request's text. What is told of the inside is appended to ``told``."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def unary(self, request: str, context: Any) -> Any:
        match request:
            case "raise":
                raise RuntimeError("it is ü broken")
            case "raise coded":
                context.set_code(grpc.StatusCode.DATA_LOSS)
                context.set_details("unsaid")
                context.set_trailing_metadata((("a", "b"),))
                raise ValueError("lost")
            case "abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no 100% such thïng\n", RICH)
            case "abort bare":
                await context.abort(grpc.StatusCode.ABORTED)
            case "abort after":
                context.set_details("details before")
                context.set_trailing_metadata((("before", "1"),))
                await context.abort(grpc.StatusCode.ABORTED)
            case "abort with status":
                await context.abort_with_status(Rich(grpc.StatusCode.OUT_OF_RANGE, "rich", RICH))
            case "abort twice":
                with contextlib.suppress(grpc.aio.AbortError):
                    await context.abort(grpc.StatusCode.ABORTED, "first")
                await context.abort(grpc.StatusCode.NOT_FOUND, "second")
            case "abort suppressed":
                with contextlib.suppress(BaseException):
                    await context.abort(grpc.StatusCode.ABORTED, "suppressed")
            case "code":
                context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
                context.set_details("set")
                context.set_trailing_metadata(RICH)
                self.told.append(f"{context.code()} {context.details()} {context.trailing_metadata()}")
            case "code number":
                context.set_code(9)
                return None
            case "code none":
                context.set_code(grpc.StatusCode.NOT_FOUND)
                return None
            case "details":
                context.set_details("all is well")
            case "none":
                return None
            case "unserializable":
                return 5
            case "head":
                await context.send_initial_metadata((("first", "1"), ("first-bin", b"\x00\x01")))
                context.set_trailing_metadata((("last", "2"),))
            case "head twice":
                await context.send_initial_metadata((("first", "1"),))
                await context.send_initial_metadata((("first", "2"),))
            case "head then raise":
                await context.send_initial_metadata((("first", "1"),))
                raise RuntimeError("late")
            case "large":
                return "x" * 80_000
            case "larger":
                return "x" * 100_000
            case "gzip":
                context.set_compression(grpc.Compression.Gzip)
                return "x" * 20_000
            case "gzip late":
                await context.send_initial_metadata(())
                context.set_compression(grpc.Compression.Gzip)
            case "remaining":
                # How much, grpcio reads from the machine's clock, which may be set meanwhile.
                return f"{context.time_remaining() is not None}"
            case "shown":
                shown = [(key, value) for key, value in context.invocation_metadata() if key in dict(SENT)]
                return f"{sorted(shown, key=str)}"
            case "callback":
                context.add_done_callback(lambda given: self.told.append(f"{given is context} {given.done()}"))
            case "state":
                return f"{context.code()} {context.details()!r} {context.done()} {context.cancelled()}"
        return f"<{request}>"

    async def listed(self, request: str, context: Any) -> AsyncIterator[Any]:
        if request == "abort first":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing to list")
        if request == "nothing":
            return
        if request == "head":
            await context.send_initial_metadata((("first", "1"),))
        for number in range(3):
            if number == 2 and request == "raise":
                raise RuntimeError("in the middle")
            if number == 2 and request == "abort":
                await context.abort(grpc.StatusCode.ABORTED, "in the middle", (("a", "b"),))
            if number == 1 and request == "unserializable":
                yield 5
            if request == "flat":
                context.set_compression(grpc.Compression.Deflate) if not number else None
                context.disable_next_message_compression()
            yield f"{request} {number}" if request != "large" else "x" * 60_000
        if request == "code":
            context.set_code(grpc.StatusCode.CANCELLED)
            context.set_details("by the servicer")
            context.set_trailing_metadata((("a", "b"),))

    async def written(self, request: str, context: Any) -> None:
        for number in range(3):
            await context.write(f"{request} {number}")
        if request == "head":
            await context.send_initial_metadata(())
        if request == "abort":
            await context.abort(grpc.StatusCode.INTERNAL, "written")
        if request == "after":
            with contextlib.suppress(grpc.aio.AbortError):
                await context.abort(grpc.StatusCode.INTERNAL, "written")
            await context.write("more")

    async def summed(self, requests: AsyncIterator[str], context: Any) -> str:
        # Not before its end: a client of grpcio's whose stream ends while it writes may say one thing or another.
        found = [request async for request in requests]
        if "raise" in found:
            raise RuntimeError("read it")
        if "abort" in found:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        return "+".join(found)

    async def read(self, requests: Any, context: Any) -> str:
        found = []
        while (request := await context.read()) is not grpc.aio.EOF:
            found.append(request)
        return f"{'+'.join(found)} {await context.read() is grpc.aio.EOF}"

    async def chat(self, requests: AsyncIterator[str], context: Any) -> AsyncIterator[str]:
        async for request in requests:
            yield f"<{request}>"
        yield "end"

    async def talk(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(f"<{request}>")
        context.set_trailing_metadata((("a", "b"),))


class Functions:
    def unary(self, request: str, context: Any) -> Any:
        match request:
            case "raise":
                raise RuntimeError("broken")
            case "abort":
                context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
            case "abort after":
                context.set_trailing_metadata((("a", "b"),))
                context.abort(grpc.StatusCode.ABORTED, "after")
            case "code":
                context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
                context.set_details("set")
            case "head":
                context.send_initial_metadata((("first", "1"),))
                context.set_trailing_metadata((("last", "2"),))
            case "none":
                return None
        return f"<{request}>"

    def listed(self, request: str, context: Any) -> Any:
        for number in range(3):
            if number == 2 and request == "raise":
                raise RuntimeError("in the middle")
            if number == 2 and request == "abort":
                context.abort(grpc.StatusCode.ABORTED, "in the middle")
            yield f"{request} {number}"

    def summed(self, requests: Any, context: Any) -> str:
        return "+".join(requests)

    def chat(self, requests: Any, context: Any) -> Any:
        for request in requests:
            yield f"<{request}>"


CODERS: Any = {"request_deserializer": text, "response_serializer": raw}
SENT = (("sent-bin", b"\x00\xff"), ("sent-bin", b""), ("sent", "text"), ("cookie", "a=b"), ("x-y.z_0", "1"))


def handlers(servicer: Any, functions: Any) -> Any:
    methods = {}
    for prefix, one in (("", servicer), ("Sync", functions)):
        methods[f"{prefix}Unary"] = grpc.unary_unary_rpc_method_handler(one.unary, **CODERS)
        methods[f"{prefix}Listed"] = grpc.unary_stream_rpc_method_handler(one.listed, **CODERS)
        methods[f"{prefix}Summed"] = grpc.stream_unary_rpc_method_handler(one.summed, **CODERS)
        methods[f"{prefix}Chat"] = grpc.stream_stream_rpc_method_handler(one.chat, **CODERS)
    methods["Written"] = grpc.unary_stream_rpc_method_handler(servicer.written, **CODERS)
    methods["Read"] = grpc.stream_unary_rpc_method_handler(servicer.read, **CODERS)
    methods["Talk"] = grpc.stream_stream_rpc_method_handler(servicer.talk, **CODERS)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


UNARY = (
    *("well", "", "raise", "raise coded", "abort", "abort bare", "abort after", "abort with status", "abort twice"),
    *(
        "abort suppressed",
        "code",
        "code number",
        "code none",
        "details",
        "none",
        "unserializable",
        "head",
        "head twice",
    ),
    *("head then raise", "large", "larger", "gzip", "gzip late", "remaining", "shown", "callback", "state"),
)
LISTED = ("well", "abort first", "nothing", "head", "raise", "abort", "unserializable", "flat", "large", "code")
STREAMED = (("a", "b"), (), ("raise",), ("abort", "b"))
ROWS: list[tuple[str, Any]] = [
    *[("Unary", one) for one in UNARY],
    *[("Listed", one) for one in LISTED],
    *[("Written", one) for one in ("well", "head", "abort", "after")],
    *[("Summed", one) for one in STREAMED],
    *[("Read", one) for one in STREAMED[:2]],
    *[("Chat", one) for one in STREAMED[:2]],
    *[("Talk", one) for one in STREAMED[:2]],
    *[("SyncUnary", one) for one in ("well", "raise", "abort", "abort after", "code", "head", "none")],
    *[("SyncSummed", one) for one in STREAMED[:2]],
    *[("SyncChat", one) for one in STREAMED[:2]],
    ("Unary", "x" * 75_000),
    ("Nothing", "a"),
]
# What grpcio's does otherwise: it gives parsing errors as the servicer's, as its blocking server does not, and does not
# stop any more after a function that streamed.
OURS: list[tuple[tuple[str, Any], tuple[list[str], str, str]]] = [
    (("Unary", b"\xff"), ([], "INTERNAL", "Exception deserializing request!")),
    (("SyncListed", "well"), (["well 0", "well 1", "well 2"], "OK", "")),
    (("SyncListed", "abort"), (["abort 0", "abort 1"], "ABORTED", "in the middle")),
    (
        ("SyncListed", "raise"),
        (["raise 0", "raise 1"], "UNKNOWN", "Unexpected <class 'RuntimeError'>: in the middle"),
    ),
]


def id_of(row: tuple[str, Any]) -> str:
    return f"{row[0]}-{str(row[1])[:20]}"


def plain(metadata: Any) -> list[tuple[str, Any]]:
    return sorted([(key, value) for key, value in metadata or () if key not in OWN], key=str)


async def observed(channel: grpc.aio.Channel, method: str, request: Any) -> dict[str, Any]:
    path, requests, answers = f"/{SERVICE}/{method}", request, []

    def sent(message: Any) -> bytes:
        return message if isinstance(message, bytes) else str(message).encode()

    if isinstance(request, tuple):

        async def generate() -> AsyncIterator[Any]:
            for one in request:
                yield one

        requests = generate()
    kind = ("stream" if isinstance(request, tuple) else "unary") + (
        "_unary" if method.removeprefix("Sync") in ("Unary", "Summed", "Read", "Nothing") else "_stream"
    )
    made: Any = getattr(channel, kind)(path, sent, text)
    call = made(requests, timeout=PATIENCE, metadata=SENT)
    try:
        if kind.endswith("unary"):
            answers.append(await call)
        else:
            async for answer in call:
                answers.append(answer)
    except grpc.aio.AioRpcError as error:
        assert error.code() is await call.code()
    return {
        "answers": answers,
        "code": (await call.code()).name,
        "details": await call.details(),
        "initial": plain(await call.initial_metadata()),
        "trailing": plain(await call.trailing_metadata()),
    }


async def all_rows(
    rows: list[tuple[str, Any]], make: Callable[[Any, ThreadPoolExecutor], Any]
) -> tuple[dict[str, Any], list[str]]:
    servicer = Servicer()
    with ThreadPoolExecutor(4) as pool:
        server = make(handlers(servicer, Functions()), pool)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return {id_of(row): await observed(channel, *row) for row in rows}, servicer.told
        finally:
            await server.stop(None)


@pytest.fixture(scope="module")
def tables() -> tuple[Any, Any]:
    """Of grpcio's and of ours."""
    runtime = GrpcTestRuntime(Authority().source(SERVER))

    async def main() -> tuple[Any, Any]:
        return (
            await all_rows(ROWS, lambda added, pool: grpc.aio.server(pool, (added,), None, LIMITS)),
            await all_rows(
                ROWS + [row for row, _ in OURS],
                lambda added, pool: MeshGrpcServer(runtime, pool, (added,), None, LIMITS),
            ),
        )

    return asyncio.run(main())


@pytest.mark.parametrize("row", ROWS, ids=id_of)
def test_callers_see_the_same(tables: tuple[Any, Any], row: tuple[str, Any]) -> None:
    name = id_of(row)
    assert tables[1][0][name] == tables[0][0][name]


@pytest.mark.parametrize(("row", "expected"), OURS, ids=lambda value: id_of(value) if isinstance(value[0], str) else "")
def test_callers_see_what_ours_does(tables: tuple[Any, Any], row: tuple[str, Any], expected: Any) -> None:
    seen = tables[1][0][id_of(row)]
    assert (seen["answers"], seen["code"], seen["details"]) == expected


def test_servicers_see_the_same(tables: tuple[Any, Any]) -> None:
    assert tables[1][1] == tables[0][1] != []
