"""Istio's cluster names: ``outbound|80|v1|reviews.default.svc.cluster.local``."""

from dataclasses import dataclass

PASSTHROUGH = "PassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"


@dataclass(frozen=True, slots=True)
class ClusterName:
    """subset: "" for all of the service."""

    port: int
    subset: str
    host: str

    def __str__(self) -> str:
        return f"outbound|{self.port}|{self.subset}|{self.host}"

    @property
    def sni(self) -> str:
        """The same as a server name: what Istio's sidecars put in the TLS handshake."""
        return f"outbound_.{self.port}_.{self.subset}_.{self.host}"

    @classmethod
    def parse(cls, name: str) -> "ClusterName | None":
        """None for what is not the name of an outbound cluster."""
        parts = name.split("|")
        if len(parts) != 4 or parts[0] != "outbound" or not parts[3]:
            return None
        if not parts[1].isascii() or not parts[1].isdigit() or len(parts[1]) > 5 or not 0 < int(parts[1]) < 65536:
            return None
        return cls(int(parts[1]), parts[2], parts[3])
