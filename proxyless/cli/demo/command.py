"""The ``demo`` command: set up, walk the rollout, print the table, end everything."""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from proxyless.cli import output
from proxyless.cli.demo.bookstore import Bookstore
from proxyless.cli.demo.processes import Processes
from proxyless.cli.demo.report import Row, table
from proxyless.cli.demo.rollout import Rollout
from proxyless.cli.demo.traffic import PRODUCT
from proxyless.mesh import Mesh


def run(*, keep: bool) -> int:
    """Exit status 0 if every step came out as promised, else 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="proxyless-demo-"))
    processes = Processes(folder)
    try:
        store = Bookstore(processes)
        output.message("starting a control plane (proxyless control-plane --dev)")
        addresses = store.start_control_plane()
        processes.command("apply", "-f", str(store.mesh))
        output.message("starting productpage, details, reviews v1 v2 v3, ratings, ratings-grpc (proxyless serve ...)")
        store.start_services()
        output.message(f"seven services in the mesh after {time.monotonic() - started:.1f} s; walking the rollout")
        rows = asyncio.run(_rollout(store, addresses))
        output.data(table(rows))
        right = all(row.right for row in rows)
        output.data(f"\n{'all as promised' if right else 'NOT as promised'}, in {time.monotonic() - started:.0f} s")
        if keep:
            _keep(folder)
    finally:
        output.message("ending everything")
        processes.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if right else 1


async def _rollout(store: Bookstore, addresses: dict[str, str]) -> list[Row]:
    # Arguments, not the environment: whatever the user's shell is set up for, this mesh is the demo's own.
    async with Mesh(
        control_plane=addresses["xds_tls"],
        service="demo",
        namespace="default",
        service_account="demo",
        labels={},
        state_dir=store.processes.state_dir,
    ) as mesh:
        await mesh.ready(timeout=15)
        async with httpx2.AsyncClient(transport=mesh.async_transport(), timeout=30) as client:
            rollout = Rollout(store, client, output.message)
            await rollout.walk()
    return rollout.rows


def _keep(folder: Path) -> None:
    output.message(
        f"""
The mesh is still running. In another terminal:

  export PROXYLESS_STATE_DIR={folder}
  proxyless request GET {PRODUCT} -H 'end-user: jason'
  proxyless explain GET http://reviews/reviews/0 -H 'end-user: jason'
  proxyless proxy-status
  proxyless get virtualservices
  ls {folder}/logs

Ctrl-C ends it."""
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        output.message("")
