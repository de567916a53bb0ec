"""The server as a process: what a signal does to it."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
    import asyncio, sys
    sys.path.insert(0, {support!r})
    from inbound_support import SERVER, Authority, TestRuntime, echo
    from proxyless.transport.inbound.application import Loaded
    from proxyless.transport.inbound.serve import serve

    async def on_listening(where):
        print(where.ports["http"], flush=True)
        if {hangs}:
            await asyncio.Event().wait()

    async def on_draining():
        print("draining", flush=True)
        if {hangs_draining}:
            await asyncio.Event().wait()

    runtime = TestRuntime(Authority().source(SERVER))
    asyncio.run(serve(Loaded("a:b", echo, True), runtime, ports={{"http": 0}}, on_listening=on_listening,
                      on_draining=on_draining, drain_delay=0.1))
    print("ended", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "hangs", "hangs_draining", "says"),
    [
        pytest.param(signal.SIGTERM, False, False, ["draining", "ended"], id="SIGTERM"),
        pytest.param(signal.SIGINT, False, False, ["draining", "ended"], id="SIGINT"),
        pytest.param(signal.SIGTERM, True, False, ["ended"], id="while it waits to join the mesh"),
        pytest.param(signal.SIGTERM, False, True, ["draining", "ended"], id="with nobody to announce it to"),
    ],
)
def test_signal_ends_the_server_well(number: int, hangs: bool, hangs_draining: bool, says: list[str]) -> None:
    program = textwrap.dedent(PROGRAM).format(
        support=str(Path(__file__).parent), hangs=hangs, hangs_draining=hangs_draining
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert int(process.stdout.readline()) > 0
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
            assert output.split() == says
            assert process.returncode == 0
        finally:
            process.kill()
