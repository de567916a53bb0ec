"""The control plane's own certificate, renewed in process at half of its life."""

from collections.abc import Iterable

from proxyless.control_plane.ca.authority import DEFAULT_TTL, CertificateAuthority
from proxyless.identity.rotation import CertificateRotation
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle


class ServerCertificate:
    """Keeps ``source`` supplied, which the TLS front serves from. The first certificate is there at once; ``run``
    renews it.

    hosts: names and addresses to be reachable by, beside the control plane's own DNS name, localhost and loopback.
    """

    def __init__(self, authority: CertificateAuthority, hosts: Iterable[str] = (), *, ttl: float = DEFAULT_TTL) -> None:
        self.source = IdentitySource()
        self._authority = authority
        self._hosts = tuple(hosts)
        self._ttl = ttl
        self.source.set(*self._issue())
        self._rotation = CertificateRotation(self.source, self._request)

    async def run(self) -> None:
        """Renew until cancelled."""
        await self._rotation.run()

    async def _request(self) -> tuple[Svid, TrustBundle]:
        return self._issue()

    def _issue(self) -> tuple[Svid, TrustBundle]:
        return self._authority.server_svid(self._hosts, self._ttl), self._authority.bundle
