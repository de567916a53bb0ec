"""SPIFFE IDs of workloads and the DNS name our certificates carry beside them.

Source: the SPIFFE ID standard (spiffe.io) and Istio's ``spiffe://TRUST-DOMAIN/ns/NS/sa/SA`` layout.
"""

import re
from dataclasses import dataclass

from proxyless.model.errors import IdentityError

# A SPIFFE path segment is [a-zA-Z0-9._-]; "." and ".." alone are forbidden by the standard.
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,253}\Z")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """Who a workload is: trust domain, namespace and service account."""

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.match(self.trust_domain):
            raise IdentityError(f"trust domain {self.trust_domain!r} is not a SPIFFE trust domain ([a-z0-9._-])")
        for name, segment in (("namespace", self.namespace), ("service account", self.service_account)):
            if not _SEGMENT.match(segment):
                raise IdentityError(f"{name} {segment!r} cannot be part of a SPIFFE ID ([a-zA-Z0-9._-])")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def dns_name(self) -> str:
        """``SA.NS.sa.TRUST-DOMAIN``: for TLS stacks that can verify a DNS name but no URI (gRPC in Python)."""
        return f"{self.service_account}.{self.namespace}.sa.{self.trust_domain}"

    @property
    def principal(self) -> str:
        """The ID without its scheme, as Istio's AuthorizationPolicy and telemetry labels write it."""
        return str(self).removeprefix("spiffe://")

    @classmethod
    def parse(cls, uri: str) -> "SpiffeId":
        """Parse ``spiffe://TRUST-DOMAIN/ns/NS/sa/SA``; raises IdentityError for anything else."""
        parts = uri.split("/")
        if len(parts) != 7 or parts[0] != "spiffe:" or parts[1] or parts[3] != "ns" or parts[5] != "sa":
            raise IdentityError(
                f"{uri[:300]!r} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
            )
        return cls(parts[2], parts[4], parts[6])
