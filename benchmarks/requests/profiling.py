"""Where the client's time goes: cProfile over requests through the mesh, per request.

python -m benchmarks.requests.profiling STATE_DIR
"""

import asyncio
import cProfile
import pstats
import subprocess
import sys
from pathlib import Path

import httpx2

import proxyless
from benchmarks.requests.world import ROOT, World

_WARM_UP, _REQUESTS, _ROWS = 500, 3000, 40


def profile(world: World) -> str:
    """In a process of its own, which nothing else disturbs."""
    command = [sys.executable, "-m", "benchmarks.requests.profiling", str(world.state_dir)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


async def _requests(client: httpx2.AsyncClient, count: int) -> None:
    for _ in range(count):
        (await client.get("http://hello/")).raise_for_status()


async def _run(mesh: proxyless.Mesh, profiler: cProfile.Profile) -> None:
    async with httpx2.AsyncClient(transport=mesh.async_transport(), trust_env=False) as client:
        await _requests(client, _WARM_UP)
        profiler.enable()
        await _requests(client, _REQUESTS)
        profiler.disable()


def main() -> None:
    profiler = cProfile.Profile()
    with proxyless.Mesh(state_dir=sys.argv[1], service="bench") as mesh:
        mesh.wait_ready(timeout=30)
        asyncio.run(_run(mesh, profiler))
    stats = pstats.Stats(profiler)
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])  # type: ignore[attr-defined]
    print("| own us/request | with callees | calls/request | function |\n|---|---|---|---|")
    for (file, line, name), (_, calls, own, cumulative, _) in rows[:_ROWS]:
        if name.startswith("<method 'poll'"):
            continue  # waiting
        where = name if file == "~" else f"{_short(file)}:{line} {name}"
        scale = 1e6 / _REQUESTS
        print(f"| {own * scale:.1f} | {cumulative * scale:.1f} | {calls / _REQUESTS:.2f} | `{where}` |")


def _short(file: str) -> str:
    path = Path(file)
    for known in ("proxyless", "httpx2", "httpx", "asyncio", "httptools", "benchmarks"):
        if known in path.parts:
            return "/".join(path.parts[len(path.parts) - 1 - path.parts[::-1].index(known) :])
    return path.name


if __name__ == "__main__":
    main()
