"""What rows are made of: rules in the form most of them have, and what backends answer."""

from table_case import Answer, Expected

V1 = "route: [{destination: {host: reviews, subset: v1}}]"
V2 = "route: [{destination: {host: reviews, subset: v2}}]"
RESET = Answer(reset=True)
HANG = Answer(hang=True)
ANYWHERE = ("reviews-v1", "reviews-v2")


def rule(http: str, hosts: str = "[HOST]", extra: str = "", name: str = "HOST") -> str:
    lines = "\n".join("    " + line for line in http.strip().splitlines())
    return (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, namespace: NAMESPACE}}\n"
        f"spec:\n  hosts: {hosts}\n{extra}  http:\n{lines}\n"
    )


def matching(match: str) -> str:
    """v2 for what matches, v1 for the rest."""
    return rule(f"- match: [{match}]\n  {V2}\n- {V1}")


def split(first: int, second: int) -> str:
    return rule(
        f"- route:\n  - {{destination: {{host: reviews, subset: v1}}, weight: {first}}}\n"
        f"  - {{destination: {{host: reviews, subset: v2}}, weight: {second}}}"
    )


def answering(status: int, *headers: tuple[str, str]) -> Answer:
    return Answer(status, headers)


def grpc_status(number: int) -> Answer:
    """As an HTTP answer that carries it, and to a gRPC client the status itself."""
    return Answer(200, (("grpc-status", str(number)),))


FIRST, SECOND = Expected(by="reviews-v1"), Expected(by="reviews-v2")


def retrying(retries: str, to: str = V1) -> str:
    return rule(f"- retries: {{{retries}}}\n  {to}")
