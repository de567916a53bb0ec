"""A service as its user writes it."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from greeter_pb2 import HelloReply
from greeter_pb2_grpc import GreeterServicer, add_GreeterServicer_to_server


class Greeter(GreeterServicer):
    async def Hello(self, request: Any, context: Any) -> Any:
        peer = ",".join(name.decode() for name in context.peer_identities() or ())
        return HelloReply(message=f"hello {request.name}", peer=peer, pid=str(os.getpid()))

    async def Slow(self, request: Any, context: Any) -> Any:
        """Answers when the file that ``name`` names is there, and says that it waits by another beside it."""
        Path(f"{request.name}.waiting").touch()
        while not await asyncio.to_thread(Path(request.name).exists):
            await asyncio.sleep(0.02)
        return HelloReply(message="slow")

    async def Many(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(3):
            yield HelloReply(message=f"{request.name} {number}")


class Needy(Greeter):
    def __init__(self, database: str) -> None:
        self.database = database


instance = Needy("db")


def both(server: Any) -> None:
    add_GreeterServicer_to_server(Greeter(), server)
    echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Raw", {"Echo": echo}),))


class Nothing:
    pass
