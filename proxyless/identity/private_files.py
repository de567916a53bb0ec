"""Secrets on disk: written atomically for their owner alone, refused when others can read them."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from proxyless.model.errors import ConfigurationError


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write or replace a file as a whole, durably. Its directory is made with mode 0700 if it is missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself survives a power cut
    finally:
        os.close(directory)


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold a directory's lock, making it with mode 0700: two processes that start at once must agree on what they
    create.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"state directory {directory} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_private(path: Path, *, limit: int = 64 * 1024) -> bytes:
    """The content of a secret file. Raises ConfigurationError when it is missing, too long, or readable by others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigurationError(
                    f"{path} can be read by other users (mode {stat.S_IMODE(mode):04o}); it holds a secret. "
                    f"Make it private with: chmod 600 {path}"
                )
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise ConfigurationError(f"{path} has more than {limit} bytes")
    return content
