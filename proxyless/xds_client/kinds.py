"""The four resource types that a client of the mesh asks for (xDS transport protocol, "Resource Types")."""

import enum


class Kind(enum.Enum):
    """In the order in which one names the next: LDS -> RDS -> CDS -> EDS (gRFC A27)."""

    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

    @property
    def type_url(self) -> str:
        return self.value

    @property
    def short(self) -> str:
        """``LDS``, ``RDS``, ``CDS`` or ``EDS``: what people call it."""
        return f"{self.name[0] if self is not Kind.ENDPOINT else 'E'}DS"

    @property
    def full_state(self) -> bool:
        """Whether a response has every subscribed resource, so that an absent one does not exist (gRFC A53)."""
        return self in (Kind.LISTENER, Kind.CLUSTER)


BY_TYPE_URL = {kind.value: kind for kind in Kind}
