"""Who may see a rule or a service: Istio's ``exportTo``."""

from collections.abc import Iterable
from dataclasses import dataclass

# Istio's annotation for what has no exportTo field: a Kubernetes Service.
EXPORT_TO_ANNOTATION = "networking.istio.io/exportTo"


@dataclass(frozen=True, slots=True)
class Visibility:
    """everywhere: every namespace; else only ``namespaces``."""

    everywhere: bool = True
    namespaces: frozenset[str] = frozenset()

    def allows(self, namespace: str) -> bool:
        return self.everywhere or namespace in self.namespaces

    def rank(self, owner: str, namespace: str) -> int:
        """For clients of ``namespace``: its own rules that not all see, then those exported to it by name, then those
        exported to all (the order of Istio's virtual services).
        """
        if self.everywhere:
            return 2
        return 0 if owner == namespace else 1


EVERYWHERE = Visibility()


def visibility(export_to: Iterable[str], namespace: str) -> Visibility:
    """``.`` is the resource's own namespace, ``*`` all, ``~`` none; absent means all (Istio's default)."""
    names = [name.strip() for name in export_to if name.strip()]
    if not names or "*" in names:
        return EVERYWHERE
    return Visibility(False, frozenset(namespace if name == "." else name for name in names if name != "~"))
