"""An explanation as lines for people."""

from collections.abc import Iterator

from proxyless.engine.explanation import (
    ClusterFact,
    EndpointFact,
    Explanation,
    FaultFact,
    HeaderFact,
    RateLimitFact,
    RetryFact,
)


def lines(told: Explanation) -> list[str]:
    return list(_lines(told))


def _lines(told: Explanation) -> Iterator[str]:
    yield f"{told.method} {told.path} to {told.target} (host {told.authority})"
    if told.outcome == "passthrough":
        yield told.reason
        return
    source = f"from the {told.config} (snapshot {told.generation})"
    yield f"listener {told.listener}, routes {told.route_configuration}, {source}"
    if told.virtual_host:
        yield f"virtual host {told.virtual_host} ({', '.join(told.domains)})"
    for check in told.routes:
        who = check.origin or check.name or "unnamed"
        mark = "->" if check.index == told.route else "  "
        verdict = "matches" if check.matched else "no"
        if check.matched and check.percent < 100:
            verdict = f"matches {check.percent:g}% of such requests"
        yield f"  {mark} [{check.index}] {who}: {verdict}: {check.why}"
        if check.index == told.route:
            break
    yield _outcome(told)
    if told.fault is not None:
        yield f"  {_fault(told.fault)}"
    if told.rate_limit is not None:
        yield f"  {_rate_limit(told.rate_limit)}"
    yield from _headers("response", told.response_headers)
    if told.outcome == "forward":
        yield from _forward(told)
    for field in told.ignored:
        yield f"  ignored: {field}"


def _outcome(told: Explanation) -> str:
    match told.outcome:
        case "forward" if told.status is None:
            return "forwarded to:"
        case "redirect":
            return f"answered {told.status}, redirect to {told.location}"
        case "direct_response":
            return f"answered {told.status} directly"
        case _:
            return f"answered {told.status}: {told.reason}"


def _forward(told: Explanation) -> Iterator[str]:
    for leg in told.clusters:
        yield from _leg(leg, told.authority)
    if told.sent_path != told.path:
        yield f"  path sent: {told.sent_path}"
    yield f"  timeout: {_seconds(told.timeout)}"
    yield f"  retries: {_retry(told.retry)}"
    for mirror in told.mirrors:
        problem = f" ({mirror.problem})" if mirror.problem else ""
        yield f"  mirrored: {mirror.percent:g}% to cluster {mirror.cluster}{problem}"


def _leg(leg: ClusterFact, authority: str) -> Iterator[str]:
    how = ", ".join(part for part in (leg.load_balancer, leg.protocol) if part)
    yield f"  {leg.share:g}% cluster {leg.cluster}" + (f" ({how})" if how else "")
    if leg.problem:
        yield f"      answers {leg.status}: {leg.problem}"
    for endpoint in leg.endpoints:
        yield f"      {_endpoint(endpoint)}"
    if leg.drop_percent:
        yield f"      drops {leg.drop_percent:g}% of requests (503)"
    if leg.fault is not None:
        yield f"      {_fault(leg.fault)}"
    if leg.rate_limit is not None:
        yield f"      {_rate_limit(leg.rate_limit)}"
    if leg.authority != authority:
        yield f"      host sent: {leg.authority}"
    for kind, facts in (("request", leg.request_headers), ("response", leg.response_headers)):
        for line in _headers(kind, facts):
            yield f"    {line}"
    for field in leg.ignored:
        yield f"      ignored: {field}"


def _endpoint(endpoint: EndpointFact) -> str:
    parts = ["ejected" if endpoint.ejected else endpoint.health.lower()]
    if not endpoint.usable:
        parts.append("not used")
    if endpoint.weight != 1:
        parts.append(f"weight {endpoint.weight}")
    if endpoint.priority:
        parts.append(f"priority {endpoint.priority}")
    if endpoint.locality:
        parts.append(endpoint.locality)
    if endpoint.tls:
        who = " or ".join(endpoint.san) or "any identity of the mesh"
        parts.append(f"{'mutual TLS' if endpoint.identity else 'TLS'}, peer {who}")
    else:
        parts.append("plaintext")
    return f"{endpoint.address} {', '.join(parts)}"


def _fault(fault: FaultFact) -> str:
    parts = []
    if fault.delay_seconds is not None:
        parts.append(f"delay {_seconds(fault.delay_seconds)} for {fault.delay_percent:g}%")
    if fault.abort_http_status is not None:
        parts.append(f"abort {fault.abort_http_status} for {fault.abort_percent:g}%")
    elif fault.abort_grpc_status is not None:
        parts.append(f"abort grpc-status {fault.abort_grpc_status} for {fault.abort_percent:g}%")
    condition = f" of requests with {', '.join(fault.headers)}" if fault.headers else " of requests"
    applies = "" if fault.applies else "; this request is not one of them"
    return f"fault ({fault.source}): {', '.join(parts) or 'none'}{condition}{applies}"


def _rate_limit(limit: RateLimitFact) -> str:
    share = f" for {limit.percent:g}% of requests" if limit.percent < 100 else ""
    who = f" ({limit.name})" if limit.name else ""
    return f"rate limit{who}: {limit.rate} in this process{share}"


def _headers(kind: str, facts: tuple[HeaderFact, ...]) -> Iterator[str]:
    for fact in facts:
        value = f": {fact.value}" if fact.action != "remove" else ""
        yield f"  {kind} header ({fact.source}): {fact.action} {fact.name}{value}"


def _retry(retry: RetryFact | None) -> str:
    if retry is None or not retry.num_retries:
        return "none"
    codes = f" ({', '.join(map(str, retry.retriable_status_codes))})" if retry.retriable_status_codes else ""
    where = ", on another endpoint" if retry.other_host else ""
    per_try = f", {_seconds(retry.per_try_timeout)} a try" if retry.per_try_timeout else ""
    if retry.hedge:
        per_try = f", hedged after {_seconds(retry.per_try_timeout)}"
    return f"{retry.num_retries} on {', '.join(retry.conditions)}{codes}{where}{per_try}"


def _seconds(seconds: float | None) -> str:
    return f"{seconds:g} s" if seconds else "none"
