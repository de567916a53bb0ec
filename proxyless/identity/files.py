"""A certificate, its key and the mesh's roots as files, for programs that take them in no other way.

gRPC's ``file_watcher`` certificate provider (gRFC A29) reads them anew; it takes no pair that does not match, so each
file may be replaced by itself.
"""

from pathlib import Path

from proxyless.identity.private_files import write_private
from proxyless.identity.svid import Svid, TrustBundle
from proxyless.model.errors import ConfigurationError


class IdentityFiles:
    """In ``folder``, made with mode 0700 if it is missing; the files are for their owner alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.certificate = self.folder / "cert-chain.pem"
        self.key = self.folder / "key.pem"
        self.roots = self.folder / "root-cert.pem"

    def write(self, svid: Svid, bundle: TrustBundle) -> None:
        """Replace them. Raises ConfigurationError if the folder cannot be written to."""
        try:
            for path, content in ((self.roots, bundle.roots_pem), (self.key, svid.key_pem)):
                write_private(path, content)
            write_private(self.certificate, svid.chain_pem)
        except OSError as error:
            raise ConfigurationError(f"{self.folder} cannot hold the certificate: {error.strerror}") from None
