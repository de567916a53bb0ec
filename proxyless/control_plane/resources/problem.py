"""What is wrong, or worth knowing, about a piece of configuration: one line for people, one record for programs."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from proxyless.control_plane.resources.resource import Key

# Messages quote what somebody wrote, which may be a megabyte.
MAX_MESSAGE = 1000


class Level(StrEnum):
    ERROR = "Error"
    WARNING = "Warning"
    INFO = "Info"


@dataclass(frozen=True, slots=True)
class Problem:
    """Codes are Istio's analysis message names where Istio has one, else ours.

    line: 1-based, 0 when there is none. field: path such as ``spec.http[0].timeout``, empty for the whole resource.
    """

    code: str
    level: Level
    message: str
    kind: str = ""
    namespace: str = ""
    name: str = ""
    file: str = ""
    line: int = 0
    field: str = ""

    @property
    def key(self) -> Key:
        return Key(self.kind, self.namespace, self.name)

    def to_dict(self) -> dict[str, Any]:
        """The stable JSON form of ``analyze -o json`` and of the HTTP API."""
        return {
            "code": self.code,
            "level": self.level.value,
            "message": self.message,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "file": self.file,
            "line": self.line,
        }

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        what = f"{self.key}: " if self.kind and self.name else ""
        return f"{where}{self.level.value}: {what}{self.message} [{self.code}]"


def has_error(problems: Iterable[Problem]) -> bool:
    return any(problem.level is Level.ERROR for problem in problems)
