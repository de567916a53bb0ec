"""A gRPC client of the mesh that calls without a pause and says who answered, until standard input ends."""

import json
import sys
import threading

from grpc_workload import join, say

own = json.loads(sys.argv[1])
join(own)

import grpc.experimental  # noqa: E402  it reads its bootstrap once

ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
with grpc.secure_channel(f"xds:///{own['target']}", credentials) as channel:
    call = channel.unary_unary("/test.Echo/Call")
    while not ended.is_set():
        try:
            say(**json.loads(call(b"", timeout=30)))
        except grpc.RpcError as error:
            say(error=error.code().name, details=error.details())
        ended.wait(0.005)
