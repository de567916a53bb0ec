"""An unmodified gRPC server that takes its configuration from xDS; nothing of the mesh is imported."""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc


def call(request: bytes, context: grpc.ServicerContext) -> bytes:
    return b",".join(context.auth_context().get("x509_subject_alternative_name", [])) or b"nobody"


server = grpc.server(ThreadPoolExecutor(4), xds=True)
method = grpc.unary_unary_rpc_method_handler(call)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Call": method}),))
server.add_secure_port(f"127.0.0.1:{sys.argv[1]}", grpc.xds_server_credentials(grpc.insecure_server_credentials()))
server.start()
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
server.stop(5).wait()
sys.exit(7)
