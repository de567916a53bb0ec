"""The contexts an IdentitySource makes, on real connections."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from proxyless.identity import contexts
from proxyless.identity.control_plane import control_plane_context, control_plane_id, open_channel
from proxyless.identity.source import IdentitySource
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.identity.verify import peer_id, verify_upstream
from proxyless.model.cluster import UpstreamTls
from proxyless.model.errors import IdentityError, NotReadyError
from proxyless.model.inbound import MutualTls
from proxyless.model.matching import StringKind, StringMatcher

MUTUAL = UpstreamTls()
PLAIN_TLS = UpstreamTls(identity=False)


@contextlib.asynccontextmanager
async def server(context: ssl.SSLContext | Callable[[], ssl.SSLContext]) -> AsyncIterator[int]:
    """Answers each connection with the SPIFFE ID of its client (or ``anonymous``)."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            certificate = writer.get_extra_info("ssl_object").getpeercert(True)
            writer.write(str(peer_id(certificate) if certificate else "anonymous").encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)  # type: ignore[arg-type]
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def dial(port: int, source: IdentitySource, tls: UpstreamTls = MUTUAL) -> tuple[str, Any]:
    """What the server answered, and the client's TLS object."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=source.client_context(tls), server_hostname=tls.sni
    )
    try:
        tls_object = writer.get_extra_info("ssl_object")
        assert source.bundle is not None
        verify_upstream(tls_object.getpeercert(True), tls, source.bundle.trust_domain)
        async with asyncio.timeout(10):
            return (await reader.read()).decode(), tls_object
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def outcome(server_source: IdentitySource, client: IdentitySource, mode: MutualTls, tls: UpstreamTls = MUTUAL) -> str:
    async def main() -> str:
        async with server(server_source.server_context(mode)) as port:
            try:
                answer, _ = await dial(port, client, tls)
            except (OSError, IdentityError) as error:
                return f"refused: {error}"
            return answer or "refused: closed"

    return asyncio.run(main())


ONLY_REVIEWS = UpstreamTls(san=(StringMatcher(StringKind.EXACT, "spiffe://cluster.local/ns/default/sa/reviews"),))


@pytest.mark.parametrize("mode", [MutualTls.STRICT, MutualTls.PERMISSIVE])
def test_mutual_tls_between_workloads(mesh: Any, mode: MutualTls) -> None:
    answer = outcome(mesh.source("reviews"), mesh.source("web"), mode, ONLY_REVIEWS)
    assert answer == "spiffe://cluster.local/ns/default/sa/web"


def test_tls_1_3_and_http_1_1(mesh: Any) -> None:
    async def main() -> None:
        async with server(mesh.source("reviews").server_context(MutualTls.STRICT)) as port:
            _, tls = await dial(port, mesh.source("web"))
            assert tls.version() == "TLSv1.3"
            assert tls.selected_alpn_protocol() == "http/1.1"
            old = mesh.source("web").client_context(UpstreamTls(alpn=("x",)))
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=old)

    asyncio.run(main())


def test_without_a_certificate_strict_refuses_and_permissive_serves(mesh: Any) -> None:
    reviews = mesh.source("reviews")
    for client, tls in ((mesh.source(), UpstreamTls()), (mesh.source("web"), PLAIN_TLS)):
        assert outcome(reviews, client, MutualTls.STRICT, tls).startswith("refused")
        assert outcome(reviews, client, MutualTls.PERMISSIVE, tls) == "anonymous"


@pytest.mark.parametrize("mode", [MutualTls.STRICT, MutualTls.PERMISSIVE])
def test_a_client_of_another_root_is_refused(mesh: Any, foreign: Any, mode: MutualTls) -> None:
    impostor = IdentitySource()
    impostor.set(foreign.workload("web"), mesh.ca.bundle)
    assert outcome(mesh.source("reviews"), impostor, mode).startswith("refused")


def test_a_server_of_another_root_is_refused(mesh: Any, foreign: Any) -> None:
    assert "verify failed" in outcome(foreign.source("reviews"), mesh.source("web"), MutualTls.PERMISSIVE)


def test_a_server_with_another_identity_is_refused(mesh: Any) -> None:
    answer = outcome(mesh.source("ratings"), mesh.source("web"), MutualTls.STRICT, ONLY_REVIEWS)
    assert "sa/ratings, but this connection is only for spiffe://cluster.local/ns/default/sa/reviews" in answer


def test_expired_certificates_are_refused_on_both_sides(mesh: Any) -> None:
    assert "expired" in outcome(mesh.source("reviews", age=7200), mesh.source("web"), MutualTls.STRICT)
    for mode in (MutualTls.STRICT, MutualTls.PERMISSIVE):
        assert outcome(mesh.source("reviews"), mesh.source("web", age=7200), mode).startswith("refused")


def test_a_root_rollover_overlaps(mesh: Any, foreign: Any) -> None:
    """While both roots are trusted, workloads of the old and of the new one talk to each other."""
    both = TrustBundle("cluster.local", foreign.ca.bundle.roots_pem + mesh.ca.bundle.roots_pem)
    old, new = IdentitySource(), IdentitySource()
    old.set(mesh.workload("web"), both)
    new.set(foreign.workload("reviews"), both)
    assert outcome(new, old, MutualTls.STRICT, ONLY_REVIEWS).endswith("sa/web")
    assert outcome(old, new, MutualTls.STRICT).endswith("sa/reviews")


def test_rotation_reaches_new_connections_and_leaves_established_ones(mesh: Any) -> None:
    async def main() -> None:
        source, client = mesh.source("reviews"), mesh.source("web")
        first = source.server_context(MutualTls.STRICT)
        async with server(first) as port:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client.client_context(UpstreamTls()), server_hostname=""
            )
            source.set(mesh.workload("reviews"), mesh.ca.bundle)
            client.set(mesh.workload("web"), mesh.ca.bundle)
            assert (await reader.read()).endswith(b"sa/web")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        assert source.server_context(MutualTls.STRICT) is not first

    asyncio.run(main())


def test_contexts_are_cached_per_generation_and_bounded(mesh: Any) -> None:
    source = mesh.source("web")
    first = source.client_context(UpstreamTls())
    assert source.client_context(ONLY_REVIEWS) is first  # who may answer is checked per connection, not by the context
    assert source.client_context(PLAIN_TLS) is not first
    assert source.server_context(MutualTls.STRICT) is source.server_context(MutualTls.STRICT)
    assert source.server_context(MutualTls.STRICT) is not source.server_context(MutualTls.PERMISSIVE)
    for number in range(200):
        source.client_context(UpstreamTls(identity=False, alpn=(f"p{number}",)))
    assert len(source._current.contexts) <= 64
    generation = source.generation
    source.set(source.svid, mesh.ca.bundle)
    assert source.generation == generation + 1
    assert source.client_context(UpstreamTls()) is not first


def test_external_servers_are_verified_against_the_system_and_survive_rotation(mesh: Any) -> None:
    source = mesh.source("web")
    external = UpstreamTls(identity=False, mesh_trust=False, sni="example.com")
    context = source.client_context(external)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    source.set(source.svid, mesh.ca.bundle)
    assert source.client_context(external) is context
    assert context.options & ssl.OP_NO_RENEGOTIATION

    async def main() -> None:
        async with server(mesh.source("reviews").server_context(MutualTls.PERMISSIVE)) as port:
            with pytest.raises(ssl.SSLCertVerificationError):  # our own root is not the system's
                await dial(port, source, external)

    asyncio.run(main())


def test_before_the_first_certificate(mesh: Any) -> None:
    source = IdentitySource()
    with pytest.raises(NotReadyError):
        source.client_context(UpstreamTls())
    source.set(None, mesh.ca.bundle)
    with pytest.raises(NotReadyError):
        source.server_context(MutualTls.STRICT)
    with pytest.raises(ValueError, match="disabled"):
        source.server_context(MutualTls.DISABLE)


def test_a_certificate_of_another_trust_domain_is_not_set(mesh: Any, new_mesh: Any) -> None:
    with pytest.raises(IdentityError, match="trust domain"):
        IdentitySource().set(new_mesh("other.example").workload("web"), mesh.ca.bundle)


def test_bundles() -> None:
    with pytest.raises(IdentityError, match="no PEM certificate"):
        TrustBundle("cluster.local", b"")
    broken = TrustBundle("cluster.local", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(IdentityError, match="not usable"):
        contexts.trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), broken)


def test_the_key_is_on_no_disk_and_no_descriptor_stays_open(mesh: Any) -> None:
    svid: Svid = mesh.workload("web")
    before = len(list(Path("/proc/self/fd").iterdir()))
    contexts.present(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), svid)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_system_without_memory_files_says_so(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(IdentityError, match="needs Linux"):
        contexts.present(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), mesh.workload("web"))


def test_a_key_of_another_certificate_is_refused_without_showing_it(mesh: Any) -> None:
    one, other = mesh.workload("web"), mesh.workload("web")
    mixed = Svid(one.spiffe_id, one.chain_pem, other.key_pem)
    with pytest.raises(IdentityError, match="sa/web and its key: ") as refusal:
        contexts.present(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), mixed)
    assert other.key_pem.decode().splitlines()[1] not in str(refusal.value)


def test_the_control_planes_spiffe_id_is_checked_within_the_handshake(mesh: Any) -> None:
    """A workload whose certificate happens to carry the control plane's DNS name is still not the control plane."""
    svid = mesh.ca.server_svid()
    workload = mesh.workload("web")

    async def main() -> None:
        for served, expected in ((svid, None), (workload, ssl.SSLCertVerificationError)):
            source = IdentitySource()
            source.set(served, mesh.ca.bundle)
            async with server(source.server_context(MutualTls.PERMISSIVE)) as port:
                context = control_plane_context(mesh.ca.bundle, None)
                context.check_hostname = False
                context.set_alpn_protocols(["http/1.1"])
                if expected is None:
                    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
                else:
                    with pytest.raises(expected, match=r"sa/web, but this connection is only for .*sa/control-plane"):
                        await asyncio.open_connection("127.0.0.1", port, ssl=context)

    asyncio.run(main())


def test_a_channel_pins_the_control_planes_name(mesh: Any) -> None:
    async def main() -> None:
        channel = open_channel("127.0.0.1:15012", mesh.ca.bundle, None)
        assert channel._config.ssl_target_name_override == control_plane_id("cluster.local").dns_name
        channel.close()

    asyncio.run(main())
