"""Where connections get their TLS context. Rotation swaps what is in it; established connections are untouched."""

import ssl
import threading
from dataclasses import dataclass, field

from proxyless.identity.contexts import present, trust
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.cluster import UpstreamTls
from proxyless.model.errors import IdentityError, NotReadyError
from proxyless.model.inbound import MutualTls

# Attribute of an accepted connection's TLS object: the name that the client asked for (SNI), "" if for none.
REQUESTED_NAME = "proxyless_requested_name"
_MAX_CONTEXTS = 64
_Key = tuple[str, bool, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Generation:
    """One certificate and bundle, and the contexts made from them; a swap drops them together."""

    number: int = 0
    same_since: int = 0  # the first generation with this identity and this bundle: only certificates came since
    svid: Svid | None = None
    bundle: TrustBundle | None = None
    contexts: dict[_Key, ssl.SSLContext] = field(default_factory=dict, repr=False)


class IdentitySource:
    """The process's current certificate and trust bundle. Thread-safe: readers take one reference, ``set`` swaps it."""

    def __init__(self) -> None:
        self._current = _Generation()
        self._external: dict[_Key, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        current = self._current
        return f"IdentitySource(generation={current.number}, svid={current.svid!r})"

    @property
    def svid(self) -> Svid | None:
        return self._current.svid

    @property
    def bundle(self) -> TrustBundle | None:
        return self._current.bundle

    @property
    def generation(self) -> int:
        """Grows by one with each ``set``; 0 before the first."""
        return self._current.number

    def still_good(self, generation: int) -> bool:
        """Whether a connection made in ``generation`` may serve until another has taken its place.

        Not when who we are or whom we trust has changed since: such a connection must not be used once more.
        """
        current = self._current
        return current.same_since <= generation <= current.number

    def set(self, svid: Svid | None, bundle: TrustBundle) -> None:
        """Swap certificate and bundle together. Raises IdentityError if they are of different trust domains."""
        if svid is not None and svid.spiffe_id.trust_domain != bundle.trust_domain:
            raise IdentityError(f"{svid.spiffe_id} does not belong to the trust domain {bundle.trust_domain!r}")
        with self._lock:
            old = self._current
            renewed = (
                old.svid is not None
                and svid is not None
                and (old.svid.spiffe_id, old.bundle) == (svid.spiffe_id, bundle)
            )
            number = old.number + 1
            self._current = _Generation(number, old.same_since if renewed else number, svid, bundle)

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def client_context(self, tls: UpstreamTls) -> ssl.SSLContext:
        """The context for a connection to an endpoint.

        Mesh peers: TLS 1.3, chains must end in the mesh's bundle, and no host name is checked: endpoints are addresses,
        and the name that counts is a URI. So the caller must pass ``getpeercert(True)`` of every connection to
        ``verify.verify_upstream``. A process without an SVID (started from its last known good) verifies servers all
        the same.
        Others (``mesh_trust`` False): TLS 1.2 or newer, the system's roots, and ``server_hostname`` (``tls.sni`` or the
        endpoint's host name) is checked by the TLS stack.
        Raises NotReadyError before the first trust bundle.
        """
        current = self._current
        key: _Key = ("mesh" if tls.mesh_trust else "external", tls.identity, tls.alpn)
        contexts = current.contexts if tls.mesh_trust or tls.identity else self._external
        if (context := contexts.get(key)) is not None:
            return context
        with self._lock:
            if (context := contexts.get(key)) is None:
                context = _mesh_client(current, tls) if tls.mesh_trust else _external_client(current, tls)
                _remember(contexts, key, context)
            return context

    def server_context(self, mode: MutualTls, alpn: str = "http/1.1") -> ssl.SSLContext:
        """The context for a connection that a server of the mesh accepted: TLS 1.3, and the protocol it speaks.

        STRICT requires a client certificate, PERMISSIVE verifies one if it is presented. The caller must pass a
        presented certificate to ``verify.verify_peer``. Take the context anew for every connection: that is how
        rotation reaches servers. Raises NotReadyError without an SVID, ValueError for DISABLE (which has no TLS).
        """
        if mode is MutualTls.DISABLE:
            raise ValueError("a port with mutual TLS disabled has no TLS context")
        current = self._current
        key: _Key = (mode.value, True, (alpn,))
        if (context := current.contexts.get(key)) is not None:
            return context
        with self._lock:
            if (context := current.contexts.get(key)) is None:
                context = _server(current, mode, alpn)
                _remember(current.contexts, key, context)
            return context


def _remember(contexts: dict[_Key, ssl.SSLContext], key: _Key, context: ssl.SSLContext) -> None:
    if len(contexts) >= _MAX_CONTEXTS:  # ALPN lists come from the control plane: bounded, whatever it sends
        contexts.clear()
    contexts[key] = context


def _mesh_client(current: _Generation, tls: UpstreamTls) -> ssl.SSLContext:
    if current.bundle is None:
        raise NotReadyError("no trust bundle yet: the control plane has not been reached since this process started")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # SPIFFE IDs are URIs: verify_upstream checks them on every connection
    context.verify_mode = ssl.CERT_REQUIRED
    trust(context, current.bundle)
    if tls.identity and current.svid is not None:
        present(context, current.svid)
    context.set_alpn_protocols(list(tls.alpn) or ["http/1.1"])
    return context


def _external_client(current: _Generation, tls: UpstreamTls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # as Envoy: a peer does not become another one half-way
    if tls.identity and current.svid is not None:
        present(context, current.svid)
    context.set_alpn_protocols(list(tls.alpn) or ["http/1.1"])
    return context


def _server(current: _Generation, mode: MutualTls, alpn: str) -> ssl.SSLContext:
    if current.svid is None or current.bundle is None:
        raise NotReadyError("no certificate yet: the control plane has not signed one since this process started")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED if mode is MutualTls.STRICT else ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a resumed session would skip the verification of the client's certificate
    trust(context, current.bundle)
    present(context, current.svid)
    context.set_alpn_protocols([alpn])
    context.sni_callback = _remember_name
    return context


def _remember_name(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    # A server's own attribute server_hostname stays None. Envoy keeps the name in lower case.
    setattr(tls, REQUESTED_NAME, (name or "").lower())
