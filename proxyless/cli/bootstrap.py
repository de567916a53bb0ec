"""``proxyless bootstrap``: what an unmodified gRPC program needs to be in the mesh by ``xds:///``."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

from proxyless.cli import output
from proxyless.cli.identity import add_identity, mesh_of
from proxyless.cli.parsers import Subparsers, UsageError, add_command
from proxyless.cli.serve import parse_ports
from proxyless.mesh import Mesh

# Seconds that the control plane has to confirm our draining, and that clients have to hear of it.
DRAIN_TIMEOUT, DRAIN_DELAY = 1.0, 1.0


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "bootstrap",
        "bring an unmodified gRPC program (xds:///) into the mesh",
        "proxyless bootstrap --service shop --certificates ./identity -- ./shop-server",
    )
    add_identity(parser)
    parser.add_argument(
        "--certificates",
        required=True,
        type=Path,
        metavar="DIR",
        help="where the certificate, its key and the mesh's roots are written, for this user alone",
    )
    parser.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="[NAME=]P",
        help="a port that the program serves on, to register while it runs; may be repeated with names",
    )
    parser.add_argument(
        "--keep", action="store_true", help="without a program: stay, and keep the files fresh, until SIGTERM"
    )
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="-- PROGRAM ...",
        help="run with GRPC_XDS_BOOTSTRAP set, files fresh and ports registered; without it, the bootstrap is printed",
    )


def run(arguments: argparse.Namespace) -> int:
    """The program's own status; 0 without one."""
    program = arguments.program[1:] if arguments.program[:1] == ["--"] else arguments.program
    if program and arguments.keep:
        raise UsageError("--keep is for running without a program; beside one the files are kept fresh anyway")
    if arguments.port and not program:
        raise UsageError("--port registers what a program serves: name the program after --")
    ports = parse_ports(arguments.port) if arguments.port else {}
    if 0 in ports.values():
        raise UsageError("--port must be the number that the program serves on, not 0")
    with mesh_of(arguments) as mesh:
        if ports and not mesh.settings.service:
            raise UsageError("who is it that serves? Name it with --service or PROXYLESS_SERVICE")
        made = json.dumps(mesh.grpc_bootstrap(arguments.certificates), indent=2)
        if program:
            path = arguments.certificates.absolute() / "bootstrap.json"
            path.write_text(made + "\n")
            return asyncio.run(_run(mesh, program, path, {name or "grpc": number for name, number in ports.items()}))
        output.data(made)
        if arguments.keep:
            asyncio.run(_signalled())
    return 0


async def _signalled() -> None:
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await asked.wait()


async def _run(mesh: Mesh, program: list[str], bootstrap: Path, ports: dict[str, int]) -> int:
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(bootstrap)}
    environment.pop("GRPC_XDS_BOOTSTRAP_CONFIG", None)
    try:
        running = await asyncio.create_subprocess_exec(*program, env=environment)
    except OSError as error:
        raise UsageError(f"{program[0]} cannot be run: {error.strerror}") from None
    ending = asyncio.create_task(_end_when_asked(mesh, running, bool(ports)))
    try:
        async with contextlib.AsyncExitStack() as stack:
            if ports:
                # The program's gRPC ends TLS itself, by the certificates it was given.
                registration = mesh.register(ports, mutual_tls=True)
                await asyncio.to_thread(registration.__enter__)
                stack.callback(registration.__exit__, None, None, None)
            status = await running.wait()
    finally:
        ending.cancel()
        with contextlib.suppress(ProcessLookupError):
            running.kill()
    return status if status >= 0 else 128 - status


async def _end_when_asked(mesh: Mesh, running: asyncio.subprocess.Process, serving: bool) -> None:
    await _signalled()
    if serving:
        await asyncio.to_thread(mesh.runtime.drain, DRAIN_TIMEOUT)
        await asyncio.sleep(DRAIN_DELAY)
    with contextlib.suppress(ProcessLookupError):
        running.terminate()
