"""Compile resources that no stream brought: for ``explain`` from files."""

from collections.abc import Iterable, Mapping

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from proxyless.model.inbound import InboundListener
from proxyless.model.snapshot import EMPTY, Origin, Snapshot
from proxyless.xds_client.assemble import Assembler
from proxyless.xds_client.compile.decode import InvalidResource
from proxyless.xds_client.compile.resource import compile_decoded, decode
from proxyless.xds_client.entry import Entry, empty
from proxyless.xds_client.kinds import BY_TYPE_URL, Kind


def compile_snapshot(
    resources: Mapping[str, Mapping[str, bytes]], targets: Iterable[str], origin: Origin = Origin.CONTROL_PLANE
) -> Snapshot:
    """What a client would make of ``resources``: serialized google.protobuf.Any by type URL and name. origin: of these.

    A resource that is not among them does not exist. One that cannot be used shows as a client that never had another
    version sees it: the target or cluster answers with the reason.
    """
    entries = load_entries(
        {BY_TYPE_URL[url]: named for url, named in resources.items() if url in BY_TYPE_URL}, live=True
    )
    targets = list(targets)
    assembler = Assembler(EMPTY)
    # Each round knows one link more of LDS -> RDS -> CDS -> EDS.
    for _ in Kind:
        needed = {Kind.LISTENER: set(targets), **assembler.wanted(entries, targets)}
        for kind, names in needed.items():
            for name in names:
                entries[kind].setdefault(name, Entry(absent=True))
    assembly = assembler.build(entries, targets, {})
    return Snapshot(1, origin, assembly.listeners, assembly.clusters, assembly.inbound)


def compile_inbound(resources: Mapping[str, Mapping[str, bytes]], name: str, port: int) -> InboundListener:
    """What a server would make of its listener ``name``. Raises InvalidResource where it would refuse it."""
    entries = load_entries({Kind.LISTENER: resources.get(Kind.LISTENER.type_url, {})}, live=True)
    found = entries[Kind.LISTENER].get(name, Entry(absent=True))
    if found.refused:
        raise InvalidResource(name, found.refused)
    return Assembler(EMPTY).build(entries, (), {name: port}).inbound.get(port, InboundListener(port))


def load_entries(resources: Mapping[Kind, Mapping[str, bytes]], *, live: bool) -> dict[Kind, dict[str, Entry]]:
    """Entries of resources as they are stored; what cannot be compiled is an entry that says why."""
    entries = empty()
    for kind, named in resources.items():
        for name, data in named.items():
            try:
                decoded = decode(kind, AnyMessage.FromString(data))
                value = compile_decoded(decoded)
            except (InvalidResource, DecodeError) as error:
                refused = (
                    error.message if isinstance(error, InvalidResource) else f"is not a google.protobuf.Any: {error}"
                )
                entries[kind][name] = Entry(refused=refused, live=live)
                continue
            entries[kind][decoded.name] = Entry(value, decoded.data, live=live)
    return entries
