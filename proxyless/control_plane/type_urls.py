"""The xDS resource types: their URLs, the names people use for them, and the order in which changes are sent."""

from typing import Final

LISTENER: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

# Make before break (Envoy docs, "Eventual consistency considerations"): a route is sent after what it points to.
PUSH_ORDER: Final = (CLUSTER, ENDPOINT, LISTENER, ROUTE)

# Which types have to be sent, of the same world, before changes of a type are: what it refers to must be there.
SENT_AFTER: Final = {LISTENER: CLUSTER, ROUTE: CLUSTER}

# Removals come last, and in the opposite order: each type after those that refer to it.
REMOVAL_ORDER: Final = (ROUTE, CLUSTER, ENDPOINT)

# Which types must have settled before something of a type may be taken away.
USED_BY: Final = {ROUTE: (LISTENER,), CLUSTER: (LISTENER, ROUTE), ENDPOINT: (LISTENER, ROUTE, CLUSTER)}

# Types whose response is the whole state: what is absent from it does not exist (xDS protocol, "Deleting resources").
FULL_STATE: Final = frozenset({LISTENER, CLUSTER})

# A client that received the first asks for the second again, with nothing changed, and waits for an answer before it
# uses what it received (Envoy's cluster and listener warming).
WARMED_BY: Final = {CLUSTER: ENDPOINT, LISTENER: ROUTE}

SHORT_NAMES: Final = {LISTENER: "listeners", ROUTE: "routes", CLUSTER: "clusters", ENDPOINT: "endpoints"}


def short_name(type_url: str) -> str:
    """``clusters`` for the cluster type; for a type we do not serve, the last part of its URL."""
    return SHORT_NAMES.get(type_url) or type_url.rpartition(".")[2][:100]
