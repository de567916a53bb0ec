"""One behaviour, every client: what a rule means, row by row. ``test_conformance`` sends each row by every client."""

from table_rows_changes import HEADER_CHANGES, REDIRECTS, REWRITES
from table_rows_failures import FAULTS, LIMITS, TIMEOUTS
from table_rows_gateway_api import GRPC_ROUTES, HTTP_ROUTES, ROUTES
from table_rows_hedging import HEDGES
from table_rows_matches import DESTINATIONS, MATCHES
from table_rows_mesh import BESIDE, IDENTITY, SPLITS, STRANGERS
from table_rows_retries import RETRIES
from table_rows_wire import HTTP, PATHS

CASES = [
    *MATCHES,
    *DESTINATIONS,
    *HEADER_CHANGES,
    *REWRITES,
    *REDIRECTS,
    *FAULTS,
    *RETRIES,
    *HEDGES,
    *TIMEOUTS,
    *LIMITS,
    *ROUTES,
    *HTTP_ROUTES,
    *GRPC_ROUTES,
    *PATHS,
    *HTTP,
    *BESIDE,
    *IDENTITY,
    *SPLITS,
    *STRANGERS,
]
