"""What the gRPC programs share: a certificate from the mesh in files, and gRPC's bootstrap that names them."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from proxyless.identity.enrol import enrol
from proxyless.identity.svid import Svid, TrustBundle

LISTENERS = "xds.istio.io/grpc/lds/inbound/%s"


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def join(own: dict[str, Any]) -> tuple[Svid, TrustBundle]:
    """Enrol and write GRPC_XDS_BOOTSTRAP_CONFIG; call it before grpc is imported."""
    svid, bundle = asyncio.run(enrol(own["xds_tls"], own["token"]))
    folder = Path(own["folder"])
    folder.mkdir(mode=0o700)
    files = {"certificate_file": svid.chain_pem, "private_key_file": svid.key_pem}
    files["ca_certificate_file"] = bundle.roots_pem
    paths = {name: str(folder / f"{name}.pem") for name in files}
    for name, content in files.items():
        Path(paths[name]).write_bytes(content)
    labels = {"app": own["service"], "version": own["version"], "security.istio.io/tlsMode": "istio"}
    me = {"NAMESPACE": "default", "SERVICE_ACCOUNT": own["account"], "LABELS": labels}
    server = {
        "server_uri": own["xds_tls"],
        "channel_creds": [{"type": "tls", "config": paths}],
        "server_features": ["xds_v3"],
    }
    bootstrap = {
        "xds_servers": [server],
        "node": {"id": own["name"], "cluster": f"{own['service']}.default", "metadata": me},
        "certificate_providers": {
            "default": {"plugin_name": "file_watcher", "config": {**paths, "refresh_interval": "1s"}}
        },
        "server_listener_resource_name_template": LISTENERS,
    }
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps(bootstrap)
    return svid, bundle
