"""The demo's processes: a control plane and the bookstore's services, each a real one, ended whatever happens."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from proxyless.model.errors import ProxylessError

START_TIMEOUT = 40.0
STOP_TIMEOUT = 12.0

Found = TypeVar("Found")


class DemoError(ProxylessError):
    """A step of the demo did not come out as it must."""


def wait_for(what: str, condition: Callable[[], Found | None], timeout: float = START_TIMEOUT) -> Found:
    """Ask ``condition`` until it gives something; DemoError naming ``what`` after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while (found := condition()) is None:
        if time.monotonic() > end:
            raise DemoError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.05)
    return found


class Processes:
    """Starts ``proxyless ...`` commands against one state dir and ends them all; logs go to ``state_dir/logs``."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        (state_dir / "logs").mkdir(parents=True, exist_ok=True)
        # The demo is its own mesh: settings of the user's shell must not leak into it.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PROXYLESS_", "GRPC_XDS_"))}
        self.environment = {**kept, "PROXYLESS_STATE_DIR": str(state_dir)}

    def start(self, name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> None:
        """Start one; ``name`` is for logs and for ``kill``."""
        log = (self.state_dir / "logs" / f"{name}.log").open("wb")
        with log:
            self._running[name] = subprocess.Popen(  # noqa: S603  our own command
                [sys.executable, "-m", "proxyless", *arguments],
                cwd=cwd,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is ours to handle: the services end in order, not all at once
            )

    def command(self, *arguments: str) -> str:
        """Run ``proxyless ...`` to its end and return what it printed; DemoError with its message if it failed."""
        done = subprocess.run(  # noqa: S603  our own command
            [sys.executable, "-m", "proxyless", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise DemoError(f"proxyless {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def control_plane_addresses(self) -> dict[str, Any] | None:
        """What the control plane wrote about itself, once it is up."""
        self.check()
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found: dict[str, Any] = json.loads((self.state_dir / "control-plane.json").read_text())
            return found
        return None

    def check(self) -> None:
        """DemoError with the end of its log if a process has died."""
        for name, process in self._running.copy().items():  # other threads may be starting theirs
            if (status := process.poll()) is not None:
                log = (self.state_dir / "logs" / f"{name}.log").read_text(errors="replace")
                raise DemoError(f"{name} ended with status {status}:\n{log[-2000:]}")

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL, no goodbye."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop_all(self) -> None:
        """SIGTERM to the services, then to the control plane; SIGKILL to whatever is still there after a while."""
        names = sorted(self._running, key=lambda name: name == "control-plane")
        services = [self._running[name] for name in names if name != "control-plane"]
        for group in (services, [p for p in self._running.values() if p not in services]):
            for process in group:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            end = time.monotonic() + STOP_TIMEOUT
            for process in group:
                try:
                    process.wait(max(0.1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._running.clear()
