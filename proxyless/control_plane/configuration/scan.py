"""Which configuration files there are, and reading those that changed."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxyless.control_plane.configuration.files import File, read_file, unreadable_file
from proxyless.control_plane.resources.yaml_tree import MAX_TEXT
from proxyless.model.errors import ConfigurationError

SUFFIXES = (".yaml", ".yml", ".json")
# A file changed this recently may change again within the file system's clock tick without showing it.
_SETTLED_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was read. fingerprint: None when it must be read again at the next look."""

    fingerprint: tuple[int, int, int, int] | None
    content: bytes | None
    file: File


def is_configuration(name: str) -> bool:
    """By its name. Hidden ones are editors' (``.x.yaml.swp``, ``.#x.yaml``) or Kubernetes' (``..data``)."""
    return name.endswith(SUFFIXES) and not name.startswith((".", "#"))


def check_paths(paths: Sequence[Path]) -> None:
    """Raises ConfigurationError for a path that is not there: at start a misspelled one must not look like "empty"."""
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"the configuration path {path} does not exist")
        if not (path.is_dir() or path.is_file()):
            raise ConfigurationError(f"the configuration path {path} is neither a file nor a directory")
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise ConfigurationError(f"the configuration path {path} may not be read; change its permissions")


def find(paths: Sequence[Path]) -> Iterator[Path]:
    """Every configuration file, once. Links are followed; a file named directly may have any name."""
    seen: set[tuple[int, int]] = set()
    yielded: set[Path] = set()
    for path in paths:
        for file in _walk(path, seen) if path.is_dir() else [path]:
            if file.absolute() not in yielded:
                yielded.add(file.absolute())
                yield file


def _walk(directory: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    for root, folders, names in os.walk(directory, followlinks=True):
        try:
            status = Path(root).stat()
        except OSError:
            folders.clear()
            continue
        # A link to a parent would go round for ever.
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (Path(root) / name for name in sorted(names) if is_configuration(name))


def scan(paths: Sequence[Path], previous: Mapping[str, Seen]) -> dict[str, Seen]:
    """Every file as it is now; files that did not change keep their earlier reading."""
    found: dict[str, Seen] = {}
    for path in find(paths):
        seen = _look(path, previous.get(str(path)))
        if seen is not None:
            found[str(path)] = seen
    return found


def _look(path: Path, before: Seen | None) -> Seen | None:
    name = str(path)
    try:
        status = path.stat()
        fingerprint = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
        if before is not None and before.fingerprint == fingerprint:
            return before
        # The bound holds for what is read, whatever the file grew to meanwhile.
        with path.open("rb") as stream:
            content = stream.read(MAX_TEXT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Seen(None, None, unreadable_file(name, error.strerror or "input/output error"))
    settled = fingerprint if time.time_ns() - status.st_mtime_ns > _SETTLED_NS else None
    if before is not None and before.content == content:
        return Seen(settled, content, before.file)
    try:
        return Seen(settled, content, read_file(content.decode("utf-8-sig"), name))
    except UnicodeDecodeError:
        return Seen(settled, content, unreadable_file(name, "it is not UTF-8 text"))
