"""An unmodified gRPC client with an ``xds:///`` target; prints what its one call was answered."""

import sys

import grpc.experimental

credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
with grpc.secure_channel(f"xds:///{sys.argv[1]}", credentials) as channel:
    answer = channel.unary_unary("/test.Echo/Call")(b"", timeout=60, wait_for_ready=True)
sys.stdout.write(answer.decode())
