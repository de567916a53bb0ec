"""The envelope around every configuration resource: what kind it is, its name, and where it was written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

Spec_co = TypeVar("Spec_co", bound=BaseModel, covariant=True)


class Key(NamedTuple):
    """What identifies a resource. ``namespace`` is empty for cluster-wide kinds (Namespace)."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a resource was written: a file and the line its document starts at, or ``api`` for one applied over HTTP.

    lines: the line (1-based) of each field, by path such as ``spec.http[0].route[1].weight``.
    """

    file: str = ""
    line: int = 0
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def line_of(self, path: str) -> int:
        """The line of a field, or of the nearest parent that has one."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["))] if max(path.rfind("."), path.rfind("[")) > 0 else ""
        return self.line


@dataclass(frozen=True, slots=True)
class Resource(Generic[Spec_co]):
    """One resource. ``created`` orders resources of a kind where Istio asks for the older one first (Unix seconds)."""

    key: Key
    api_version: str
    spec: Spec_co
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0
    source: Source = Source()

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def namespace(self) -> str:
        return self.key.namespace

    @property
    def kind(self) -> str:
        return self.key.kind

    @property
    def age(self) -> tuple[float, str, str]:
        """To sort by where the older one counts: when it was made, then namespace and name."""
        return self.created, self.namespace, self.name
