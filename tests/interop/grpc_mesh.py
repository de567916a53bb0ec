"""gRPC servers and clients of a mesh, each a process of its own, and what they say."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from free_ports import free_port
from running_control_plane import RunningControlPlane

PROGRAMS = Path(__file__).parent / "programs"
DEADLINE = 60.0
Found = TypeVar("Found")


def until(what: str, condition: Callable[[], Found | None]) -> Found:
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def spiffe(account: str) -> str:
    return f"spiffe://cluster.local/ns/default/sa/{account}"


class Program:
    """A running program; said: its lines so far."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._log = log
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def wait_for(self, what: str, found: Callable[[dict[str, Any]], Any], after: int = 0) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            match = next((one for one in self.said[after:] if found(one)), None)
            assert match or self.process.poll() is None, self._log.read_text()[-3000:]
            return match

        try:
            return until(what, look)
        except AssertionError as error:
            raise AssertionError(f"{error}; last: {self.said[-3:]}; {self._log.read_text()[-3000:]}") from None

    def calls(self, count: int) -> None:
        """Wait for that many more answers."""
        before = len(self.said)
        self.wait_for(f"{count} calls", lambda one: len(self.said) >= before + count)

    @property
    def names(self) -> list[str]:
        """Who answered each call, or what else happened."""
        return [one.get("name") or str(one) for one in self.said]

    def end(self) -> int:
        """By SIGTERM."""
        self.process.terminate()
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class GrpcMesh:
    def __init__(self, running: RunningControlPlane, folder: Path) -> None:
        self.running = running
        self.folder = folder

    @contextlib.contextmanager
    def _started(self, program: str, name: str, service: str, account: str, **own: Any) -> Iterator[Program]:
        body = json.dumps({"namespace": "default", "serviceAccount": account}).encode()
        settings = {
            "name": name,
            "service": service,
            "account": account,
            "xds_tls": self.running.at["xds_tls"],
            "token": self.running.api("POST", "tokens", body)["token"],
            "folder": str(self.folder / name),
            "version": "",
            **own,
        }
        log = self.folder / f"{name}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, PROGRAMS / f"{program}.py", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        made = Program(process, log)
        try:
            yield made
        finally:
            made.close()

    @contextlib.contextmanager
    def server(
        self, name: str, service: str, version: str = "", account: str = "", load: float = 0.0
    ) -> Iterator[Program]:
        """load: that it tells with each answer, 0 for none."""
        port = free_port()
        account = account or service
        with self._started("grpc_server", name, service, account, version=version, port=port, load=load) as made:
            made.port = port  # type: ignore[attr-defined]
            made.wait_for("its registration", lambda one: "registered" in one)
            yield made

    @contextlib.contextmanager
    def client(self, name: str, target: str) -> Iterator[Program]:
        with self._started("grpc_client", name, "client", "client", target=target) as made:
            yield made
