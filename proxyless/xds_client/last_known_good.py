"""What the control plane last said, on disk, so that a process can start while the control plane is away.

The file is bound to its reader by an HMAC (SHA-256) with a key that only the same user can read, and ages. Whatever is
wrong with it, it is as if it were not there, and the log says so.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless.model.errors import ProxylessError
from proxyless.xds_client.kinds import BY_TYPE_URL, Kind

logger = logging.getLogger("proxyless.xds")

MAX_AGE = 7 * 86_400.0
MAX_SIZE = 64 << 20
# A clock that was set back a little is no attack; a file from the future has no age to check.
_MAX_SKEW = 300.0
_MAGIC = b"proxyless-last-known-good/1\n"
_KEY_FILE = "last-known-good.key"
_KEY_SIZE = 32

Resources = Mapping[Kind, Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class LastKnownGood:
    """resources: serialized google.protobuf.Any by kind and name. written_at: Unix seconds, set when it is saved."""

    resources: Resources
    trust_domain: str = ""
    roots_pem: bytes = b""
    node_id: str = ""
    written_at: float = 0.0


class _Unusable(ProxylessError):
    """Why a file is not believed."""


class LastKnownGoodFile:
    """One identity's file in the state dir. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        state_dir: Path,
        *,
        namespace: str,
        service: str,
        service_account: str,
        max_age: float = MAX_AGE,
        max_size: int = MAX_SIZE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        identity = "\0".join((namespace, service, service_account))
        readable = re.sub(r"[^a-zA-Z0-9-]", "-", f"{namespace}-{service or service_account}")[:80]
        # Names may contain what a file name may not, and two may become one by replacing it: the hash tells them apart.
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._directory = state_dir / "last-known-good"
        self.path = self._directory / f"{readable}-{digest}.json"
        self._identity = identity
        self._max_age, self._max_size, self._clock = max_age, max_size, clock

    def load(self) -> LastKnownGood | None:
        """None when there is no file, or none that can be believed."""
        try:
            return self._load()
        except FileNotFoundError:
            return None
        except (_Unusable, OSError) as error:
            logger.warning("the last known good configuration %s is not used: %s", self.path, error)
            return None

    def save(self, known: LastKnownGood) -> bool:
        """Write it atomically; False, with a log line, when that is impossible: it must not stop a working mesh."""
        try:
            self._save(known)
        except (_Unusable, OSError) as error:
            logger.warning("the last known good configuration %s cannot be written: %s", self.path, error)
            return False
        return True

    def _load(self) -> LastKnownGood:
        data = _read_private(self.path, self._max_size)
        key = _read_private(self._directory / _KEY_FILE, _KEY_SIZE)
        if not data.startswith(_MAGIC):
            raise _Unusable("it has another format")
        seal, payload = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
        if len(key) != _KEY_SIZE or not hmac.compare_digest(seal, self._seal(key, payload)):
            raise _Unusable("its seal does not fit: it was changed, or written for another identity")
        # From here on the content is our own.
        content = json.loads(payload)
        age = self._clock() - content["written_at"]
        if age > self._max_age:
            raise _Unusable(f"it is {age / 86_400:.1f} days old, at most {self._max_age / 86_400:.1f} are accepted")
        if age < -_MAX_SKEW:
            raise _Unusable("it is from the future: check this machine's clock")
        return LastKnownGood(
            resources={
                BY_TYPE_URL[url]: {name: base64.b64decode(text) for name, text in named.items()}
                for url, named in content["resources"].items()
                if url in BY_TYPE_URL
            },
            trust_domain=content["trust_domain"],
            roots_pem=content["roots_pem"].encode("ascii"),
            node_id=content["node_id"],
            written_at=content["written_at"],
        )

    def _save(self, known: LastKnownGood) -> None:
        content: dict[str, Any] = {
            "written_at": self._clock(),
            "node_id": known.node_id,
            "trust_domain": known.trust_domain,
            "roots_pem": known.roots_pem.decode("ascii", "replace"),
            "resources": {
                kind.type_url: {name: base64.b64encode(data).decode("ascii") for name, data in named.items()}
                for kind, named in known.resources.items()
            },
        }
        payload = json.dumps(content, separators=(",", ":")).encode()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(payload) + len(_MAGIC) + 32 > self._max_size:
            raise _Unusable(f"it would have {len(payload)} bytes, at most {self._max_size} are accepted")
        _replace(self.path, _MAGIC + self._seal(self._key(), payload) + payload)

    def _seal(self, key: bytes, payload: bytes) -> bytes:
        # The identity is under the seal: a file that was renamed to another identity's name does not fit.
        return hmac.digest(key, self._identity.encode() + b"\0" + payload, "sha256")

    def _key(self) -> bytes:
        path = self._directory / _KEY_FILE
        with contextlib.suppress(FileNotFoundError, _Unusable):
            key = _read_private(path, _KEY_SIZE)
            if len(key) == _KEY_SIZE:
                return key
        _replace(path, secrets.token_bytes(_KEY_SIZE))
        # Another process may have been first; what is there now is what counts.
        return _read_private(path, _KEY_SIZE)


def _read_private(path: Path, limit: int) -> bytes:
    """The content of a regular file that only this user can read or change. Raises OSError or _Unusable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable(f"{path.name} is not a regular file")
        if status.st_uid != os.geteuid():
            raise _Unusable(f"{path.name} belongs to another user")
        if status.st_mode & 0o077:
            raise _Unusable(f"{path.name} is open to other users (mode {status.st_mode & 0o777:o}, wanted 600)")
        if status.st_size > limit:
            raise _Unusable(f"{path.name} has {status.st_size} bytes, at most {limit} are accepted")
        data = stream.read(limit + 1)
        if len(data) > limit:
            raise _Unusable(f"{path.name} has more than {limit} bytes")
        return data


def _replace(path: Path, data: bytes) -> None:
    """Write a file that only this user can read, as a whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp: mode 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
