"""A workload's certificate and key (an X.509-SVID in SPIFFE's words), and the roots it trusts."""

from dataclasses import dataclass, field

from proxyless.identity.pem import certificates_der, fingerprint
from proxyless.model.errors import IdentityError
from proxyless.model.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Svid:
    """chain_pem: the leaf, then intermediates, without the root. not_before, not_after: Unix seconds of the leaf.

    The key is in memory only, and in no ``repr``.
    """

    spiffe_id: SpiffeId
    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    not_before: float = 0.0
    not_after: float = 0.0


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The root certificates that vouch for one trust domain. More than one while a root is being replaced.

    Raises IdentityError when ``roots_pem`` holds no certificate: an empty bundle must never come to mean "any".
    """

    trust_domain: str
    roots_pem: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not certificates_der(self.roots_pem):
            raise IdentityError(f"the trust bundle of {self.trust_domain!r} holds no PEM certificate")

    @property
    def fingerprints(self) -> frozenset[str]:
        """SHA-256 of each root's DER."""
        return frozenset(fingerprint(der) for der in certificates_der(self.roots_pem))

    def same_roots(self, other: "TrustBundle") -> bool:
        """Whether both trust the same roots; neither order nor repetition nor PEM layout counts."""
        return self.trust_domain == other.trust_domain and self.fingerprints == other.fingerprints
