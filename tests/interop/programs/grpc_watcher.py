"""gRPC's own xDS client and server, which stay subscribed to what they dial and serve until standard input ends."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.experimental

port, *targets = sys.argv[1:]
credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
channels = [grpc.secure_channel(f"xds:///{target}", credentials) for target in targets]
for channel in channels:
    channel.subscribe(lambda state: None, try_to_connect=True)
server = grpc.server(ThreadPoolExecutor(1), xds=True)
server.add_secure_port(f"127.0.0.1:{port}", grpc.xds_server_credentials(grpc.insecure_server_credentials()))
server.start()
sys.stdin.read()
