"""The private folder of one Envoy: its bootstrap, the socket of its secrets and the socket of its admin interface."""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from proxyless.model.errors import ConfigurationError

# sockaddr_un.sun_path, with its terminating NUL.
_LONGEST_SOCKET_PATH = 108


class PrivateFolder:
    """``with`` one: made with mode 0700 (``mkdtemp``), removed on exit. No key is ever written into it."""

    def __init__(self) -> None:
        self.path = Path()

    def __enter__(self) -> "PrivateFolder":
        self.path = Path(tempfile.mkdtemp(prefix="proxyless-envoy-"))
        if len(str(self.admin_socket)) >= _LONGEST_SOCKET_PATH:
            self._remove()
            raise ConfigurationError(
                f"the temporary folder {self.path} is too long for a socket: set TMPDIR to a shorter"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def bootstrap(self) -> Path:
        return self.path / "bootstrap.json"

    @property
    def secrets_socket(self) -> Path:
        return self.path / "sds.sock"

    @property
    def admin_socket(self) -> Path:
        return self.path / "admin.sock"

    def _remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
