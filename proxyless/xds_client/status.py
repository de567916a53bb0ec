"""The state of the client, as data."""

from typing import Any

from proxyless.model.snapshot import Snapshot
from proxyless.xds_client.entry import Entry
from proxyless.xds_client.protocol import Protocol


def report(protocol: Protocol, snapshot: Snapshot, last_error: str) -> dict[str, Any]:
    """types: by ``LDS``, ``RDS``, ``CDS``, ``EDS``. ignored: fields that are not acted on, by target and cluster."""
    ignored = {
        **{f"listener {name}": list(one.ignored) for name, one in snapshot.listeners.items() if one and one.ignored},
        **{f"cluster {name}": list(one.ignored) for name, one in snapshot.clusters.items() if one.ignored},
        **{f"inbound {port}": list(one.ignored) for port, one in snapshot.inbound.items() if one.ignored},
    }
    return {
        "connected": protocol.connected,
        "answered": protocol.answered,
        "lastError": last_error,
        "origin": snapshot.origin.value,
        "generation": snapshot.generation,
        "receivedAt": snapshot.received_at,
        "wipesHeld": protocol.wipes_held,
        "wipesConfirmed": protocol.wipes_confirmed,
        "types": {
            kind.short: {
                "version": state.version,
                "nacks": state.nacks,
                "error": state.error,
                "resources": {name: _state(entry) for name, entry in sorted(protocol.entries[kind].items())},
            }
            for kind, state in protocol.types.items()
        },
        "ignored": ignored,
    }


def _state(entry: Entry) -> dict[str, Any]:
    if entry.held is not None:
        state = "HELD"
    elif entry.refused:
        state = "NACKED"
    elif entry.absent:
        state = "DOES_NOT_EXIST"
    elif entry.value is None:
        state = "REQUESTED"
    else:
        state = "ACKED" if entry.live else "LAST_KNOWN_GOOD"
    return {"state": state, "version": entry.version, **({"error": entry.refused} if entry.refused else {})}
