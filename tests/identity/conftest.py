"""A certificate authority per test module, and workloads with certificates of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.identity.request import CertificateRequest
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid
from proxyless.model.spiffe import SpiffeId


class Mesh:
    """One trust domain. ``workload`` gives a certificate, as if its machine's clock were at ``now``."""

    def __init__(self, state_dir: Path, trust_domain: str = "cluster.local") -> None:
        self.now = 0.0
        self.trust_domain = trust_domain
        self.ca = CertificateAuthority(state_dir, trust_domain, clock=self._clock)

    def _clock(self) -> float:
        import time

        return time.time() + self.now

    def workload(self, service_account: str, namespace: str = "default", *, ttl: float = 3600, age: float = 0) -> Svid:
        spiffe_id = SpiffeId(self.trust_domain, namespace, service_account)
        request = CertificateRequest.new(spiffe_id)
        self.now = -age
        try:
            svid, _ = request.accept(self.ca.sign(request.csr_pem, spiffe_id, ttl), now=self._clock())
        finally:
            self.now = 0.0
        return svid

    def source(self, service_account: str = "", **options: float) -> IdentitySource:
        source = IdentitySource()
        source.set(self.workload(service_account, **options) if service_account else None, self.ca.bundle)  # type: ignore[arg-type]
        return source


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    """Another certificate authority, of the same trust domain name: only its root differs."""
    return Mesh(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def new_mesh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mesh]:
    return lambda trust_domain: Mesh(tmp_path_factory.mktemp("other"), trust_domain)
