"""What grpcio-tools would write for test.Greeter."""

from typing import Any

import grpc
from greeter_pb2 import HelloReply, HelloRequest


class GreeterServicer:
    def Hello(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")

    Slow = Many = Hello


def add_GreeterServicer_to_server(servicer: Any, server: Any) -> None:
    read, write = HelloRequest.FromString, HelloReply.SerializeToString
    handlers = {
        "Hello": grpc.unary_unary_rpc_method_handler(servicer.Hello, read, write),
        "Slow": grpc.unary_unary_rpc_method_handler(servicer.Slow, read, write),
        "Many": grpc.unary_stream_rpc_method_handler(servicer.Many, read, write),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", handlers),))
    server.add_registered_method_handlers("test.Greeter", handlers)
