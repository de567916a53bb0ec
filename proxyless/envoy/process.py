"""The Envoy process: started so that it cannot outlive its launcher, ended within a time."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from proxyless.model.errors import ConfigurationError

# Istio's: connections of a listener that changes are closed as their requests end, at the latest after this.
_DRAIN_SECONDS = 45
_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT = 2.0


def arguments(envoy: Path, bootstrap: Path, *, concurrency: int, log_level: str) -> list[str]:
    return [
        str(envoy),
        *("--config-path", str(bootstrap)),
        *("--concurrency", str(concurrency)),
        *("--log-level", log_level),
        *("--drain-time-s", str(_DRAIN_SECONDS)),
        *("--drain-strategy", "immediate"),
        # It needs shared memory with a number of its own for every Envoy of the machine; there is nothing to hand over.
        "--disable-hot-restart",
    ]


async def start(command: Sequence[str]) -> asyncio.subprocess.Process:
    """Raises ConfigurationError when the program cannot be run. Its output goes to our stderr."""
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=sys.stderr,
            # A Ctrl-C on the terminal is for the launcher, which drains before it ends Envoy.
            process_group=0,
            # One thread is running here, so nothing can be locked in the child.
            preexec_fn=_dies_with(os.getpid()),
        )
    except OSError as error:
        raise ConfigurationError(f"cannot run {command[0]}: {error.strerror or error}") from None


async def stop(process: asyncio.subprocess.Process) -> None:
    """End it: SIGTERM, and SIGKILL if it is still there after two seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)


def _dies_with(parent: int) -> Callable[[], None]:
    """For the child before it becomes Envoy: the kernel ends it when its launcher dies, however that happens."""
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None) if sys.platform == "linux" else None

    def apply() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return apply
