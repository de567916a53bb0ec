"""``proxyless control-plane``: runs one until SIGTERM or Ctrl-C."""

import argparse
from pathlib import Path

from proxyless.cli.logs import OneLine
from proxyless.cli.parsers import Subparsers, add_command, add_state_dir, address

_FILES = 65536


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "control-plane",
        "run the control plane",
        "proxyless control-plane --dev --config mesh/",
    )
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="YAML or JSON files or directories, watched",
    )
    add_state_dir(parser)
    parser.add_argument("--store", default="", metavar="URL", help="memory: or sqlite:PATH (default: in the state dir)")
    parser.add_argument(
        "--xds-address",
        type=address,
        default="127.0.0.1:15010",
        metavar="H:P",
        help="plaintext xDS, loopback only (default: %(default)s)",
    )
    parser.add_argument(
        "--xds-tls-address",
        type=address,
        default="127.0.0.1:15012",
        metavar="H:P",
        help="xDS, registration and certificates over TLS (default: %(default)s)",
    )
    parser.add_argument(
        "--http-address",
        type=address,
        default="127.0.0.1:15014",
        metavar="H:P",
        help="API, health and metrics (default: %(default)s)",
    )
    parser.add_argument(
        "--dev",
        action="store_true",
        help="on loopback only: processes of the same user enrol without a token of their own",
    )
    parser.add_argument("--trust-domain", default="cluster.local", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--root-cert", type=Path, metavar="FILE", help="sign with this CA (PEM) instead of an own root")
    parser.add_argument("--root-key", type=Path, metavar="FILE", help="the key of --root-cert")
    parser.add_argument("--verbose", action="store_true", help="log each connection, push and certificate")


def run(arguments: argparse.Namespace) -> int:
    import logging

    from proxyless.control_plane.server import ControlPlane, Options, serve

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, handlers=[handler])
    options = Options(
        config_paths=tuple(arguments.config),
        state_dir=arguments.state_dir,
        store_url=arguments.store,
        xds_address=arguments.xds_address,
        xds_tls_address=arguments.xds_tls_address,
        http_address=arguments.http_address,
        dev=arguments.dev,
        trust_domain=arguments.trust_domain,
        root_cert=arguments.root_cert,
        root_key=arguments.root_key,
    )
    _raise_file_limit()
    return serve(ControlPlane(options))


def _raise_file_limit() -> None:
    """A client costs three descriptors: the usual soft limit of 1024 would be reached by some 300 of them."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
