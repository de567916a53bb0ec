"""The two things every TLS context of the mesh is made of: a certificate to present and roots to trust."""

import os
import ssl

from proxyless.identity.pem import certificates_der
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.errors import IdentityError


def present(context: ssl.SSLContext, svid: Svid) -> None:
    """Make ``context`` present the SVID. Its key never touches a disk; IdentityError where that is impossible."""
    memfd_create = getattr(os, "memfd_create", None)
    if memfd_create is None:
        raise IdentityError(
            "this system has no anonymous memory files (memfd_create), which keep private keys off the disk; "
            "proxyless needs Linux for mutual TLS"
        )
    # Python's ssl takes certificates and keys only by path: an anonymous memory file has one while it is open.
    try:
        descriptor = memfd_create("svid", os.MFD_CLOEXEC)
    except OSError as error:
        raise IdentityError(f"cannot create an anonymous memory file for the private key: {error.strerror}") from None
    try:
        pending = memoryview(svid.key_pem + b"\n" + svid.chain_pem)
        while pending:
            pending = pending[os.write(descriptor, pending) :]
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "reason", None) or error.strerror
        raise IdentityError(f"cannot load the certificate of {svid.spiffe_id} and its key: {why}") from None
    finally:
        os.close(descriptor)


def trust(context: ssl.SSLContext, bundle: TrustBundle) -> None:
    """Make ``context`` accept chains that end in one of the bundle's roots. It must have no other roots."""
    try:
        context.load_verify_locations(cadata=b"".join(certificates_der(bundle.roots_pem)))
    except (ssl.SSLError, ValueError) as error:
        raise IdentityError(f"the trust bundle of {bundle.trust_domain!r} is not usable: {error}") from None
