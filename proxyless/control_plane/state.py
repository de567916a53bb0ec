"""The control plane's state directory: private, locked by one process at a time, and where others find it."""

import fcntl
import json
import os
import secrets
from pathlib import Path

from proxyless.identity.private_files import read_private, write_private
from proxyless.model.errors import ConfigurationError


class StateDirectory:
    """Made with mode 0700 if missing. ``acquire`` it before use, ``release`` it after.

    Raises ConfigurationError when it cannot be used, or another control plane uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def acquire(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Sockets, keys and tokens live here; a directory that others can enter is made private, not refused.
            self.path.chmod(0o700)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the state directory {self.path} cannot be used: {error.strerror}; choose another with --state-dir"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise ConfigurationError(
                f"another control plane{self._other()} uses the state directory {self.path}; "
                "stop it, or choose another directory with --state-dir"
            ) from None
        self._lock = lock

    def admin_token(self) -> str:
        """The text that the HTTP API asks for; made on first start (``admin-token``, 0600)."""
        path = self.path / "admin-token"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32).encode() + b"\n")
        token = read_private(path).decode("ascii", "replace").strip()
        if len(token) < 20:
            raise ConfigurationError(f"{path} holds no admin token; delete it, and the next start makes a new one")
        return token

    def announce(self, addresses: dict[str, str]) -> None:
        """Write ``control-plane.json``: where this process is reached, for the command line and local workloads."""
        content = json.dumps({**addresses, "pid": os.getpid()}, indent=2)
        write_private(self._announcement, content.encode() + b"\n")

    def release(self) -> None:
        """Let another control plane in. Safe to call twice."""
        if self._lock is not None:
            self._announcement.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    @property
    def _announcement(self) -> Path:
        return self.path / "control-plane.json"

    def _other(self) -> str:
        try:
            return f" (process {int(json.loads(self._announcement.read_bytes())['pid'])})"
        except (OSError, ValueError, KeyError, TypeError):
            return ""
