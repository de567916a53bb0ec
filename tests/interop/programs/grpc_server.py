"""A gRPC server of the mesh: configured by xDS, in the registry for as long as it lives, drained by SIGTERM."""

import asyncio
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grpc_workload import join, say

from proxyless.agent.registration import Registration
from proxyless.identity.control_plane import open_channel
from proxyless.model.load_report import BINARY, LoadReport
from proxyless.model.workload import Workload

own = json.loads(sys.argv[1])
svid, bundle = join(own)

import grpc  # noqa: E402  it reads its bootstrap once

from proxyless.transport.grpc_server.load_reports import message  # noqa: E402


def call(request: bytes, context: grpc.ServicerContext) -> bytes:
    if own["load"]:
        report = message(LoadReport(application_utilization=own["load"], qps=10))
        context.set_trailing_metadata(((BINARY, report.SerializeToString()),))
    names = context.auth_context().get("x509_subject_alternative_name", [])
    return json.dumps({"name": own["name"], "peer": [name.decode() for name in names]}).encode()


server = grpc.server(ThreadPoolExecutor(4), xds=True)
method = grpc.unary_unary_rpc_method_handler(call)
methods = {"Call": method, "Other": method}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
credentials = grpc.xds_server_credentials(grpc.insecure_server_credentials())
server.add_secure_port(f"127.0.0.1:{own['port']}", credentials)
server.start()


async def channel() -> Any:
    return open_channel(own["xds_tls"], bundle, svid)


async def live() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    registration = Registration(channel)
    registration.add(
        Workload(
            id=own["name"],
            namespace="default",
            service=own["service"],
            service_account=own["account"],
            address="127.0.0.1",
            ports={"grpc": own["port"]},
            labels={"app": own["service"], "version": own["version"]},
        )
    )
    running = asyncio.create_task(registration.run())
    await registration.settled()
    say(registered=own["name"])
    await ended.wait()
    registration.drain()
    await registration.settled()
    # As ``proxyless serve``: callers hear of it before it ends.
    await asyncio.sleep(1)
    running.cancel()


asyncio.run(live())
server.stop(10).wait()
say(ended=time.time())
