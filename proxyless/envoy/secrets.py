"""What Envoy asks for by name: the workload's certificate and key, the mesh's roots, files that a rule names.

The names are Istio's (``default``, ``ROOTCA``, ``file-cert:CERTIFICATE~KEY``, ``file-root:PATH``): the control plane
puts them into TLS contexts, and the launcher answers for them.
"""

import ssl
from pathlib import Path

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from proxyless.envoy.bootstrap import IDENTITY, ROOTS
from proxyless.identity.source import IdentitySource
from proxyless.model.errors import ConfigurationError

_FILE_CERTIFICATE, _FILE_ROOTS, _SYSTEM = "file-cert:", "file-root:", "system"
_MAX_FILE = 1 << 20
# What Envoy is given it also shows, keys apart: nothing but what such a file is for.
_CERTIFICATES, _KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"
_NAMED = "which the tls of a DestinationRule or Sidecar names"
# Where distributions keep the system's roots, beside what Python's OpenSSL was built with.
_SYSTEM_ROOTS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def secret(name: str, identity: IdentitySource) -> secret_pb2.Secret | None:
    """None for a name that nobody here knows, and while there is no certificate yet.

    Raises ConfigurationError for a file that cannot be used.
    """
    made = secret_pb2.Secret(name=name)
    if name == IDENTITY:
        if (svid := identity.svid) is None:
            return None
        made.tls_certificate.certificate_chain.inline_bytes = svid.chain_pem
        made.tls_certificate.private_key.inline_bytes = svid.key_pem
    elif name == ROOTS:
        if (bundle := identity.bundle) is None:
            return None
        made.validation_context.trusted_ca.inline_bytes = bundle.roots_pem
    elif name.startswith(_FILE_CERTIFICATE):
        certificate, _, key = name.removeprefix(_FILE_CERTIFICATE).partition("~")
        made.tls_certificate.certificate_chain.inline_bytes = _read(Path(certificate), _CERTIFICATES)
        made.tls_certificate.private_key.inline_bytes = _read(Path(key), _KEY)
    elif name.startswith(_FILE_ROOTS):
        path = name.removeprefix(_FILE_ROOTS)
        roots = _system_roots() if path == _SYSTEM else Path(path)
        made.validation_context.trusted_ca.inline_bytes = _read(roots, _CERTIFICATES)
    else:
        return None
    return made


def _system_roots() -> Path:
    paths = ssl.get_default_verify_paths()
    for candidate in (paths.cafile, paths.openssl_cafile, *_SYSTEM_ROOTS):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise ConfigurationError("this machine has no file of root certificates: install ca-certificates")


def _read(path: Path, kind: bytes) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"{path}, {_NAMED}, is no regular file")  # opening a pipe would wait for ever
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{path}, {_NAMED}, cannot be read: {why}") from None
    if len(content) > _MAX_FILE:
        raise ConfigurationError(f"{path}, {_NAMED}, is larger than {_MAX_FILE} bytes")
    if kind not in content:
        raise ConfigurationError(f"{path}, {_NAMED}, has no {kind.decode().strip('-').lower()} in PEM form")
    return content
