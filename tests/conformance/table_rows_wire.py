"""Paths as they are written, and what HTTP/1.1 has beside requests and answers."""

from table_case import Answer, Case, Differs, Expected, Lacks
from table_rows import answering, matching
from table_rows_matches import EXACT, QUERY


def at(name: str, rules: str, raw: str, path: str, by: str = "reviews-v1") -> Case:
    return Case(name, rules, Expected(by=by, path=path), "http://HOST/", raw_path=raw, grpc=Lacks.URL)


ADMIN = matching("{uri: {prefix: /admin}}")
LONG = "/" + "x" * 6000

PATHS = [
    at("dot segments", ADMIN, "/a/../admin/./x", "/admin/x", "reviews-v2"),
    at("dot segments above the root", ADMIN, "/../../admin", "/admin", "reviews-v2"),
    at("escaped dot segments", ADMIN, "/a/%2e%2E/admin", "/admin", "reviews-v2"),
    at("a backslash", ADMIN, "/a\\..\\admin", "/admin", "reviews-v2"),
    at("double slashes", ADMIN, "//admin//x", "//admin//x"),
    at("an escaped slash", ADMIN, "/a%2F..%2fadmin", "/a%2F..%2fadmin"),
    at("an escaped letter", ADMIN, "/%61dmin", "/admin", "reviews-v2"),
    at("escapes that stay", ADMIN, "/a%20b%3f%23%25%41", "/a%20b%3f%23%25A"),
    at("dots in a query", ADMIN, "/a?x=/../admin", "/a?x=/../admin"),
    at("a trailing dot segment", ADMIN, "/admin/x/..", "/admin/", "reviews-v2"),
    at("every character", ADMIN, "/!\"$&'()*+,-.:;<=>@[]^_`{|}~", "/!%22$&'()*+,-.:;%3C=%3E@[]%5E_%60%7B%7C%7D~"),
    at("broken escapes", ADMIN, "/%zz%4%", "/%zz%4%"),
    Case("an escaped nul", ADMIN, Expected(400, attempts=0), raw_path="/a%00b", grpc=Lacks.URL),
    Case(
        "an escaped nul in a query", ADMIN, Expected(by="reviews-v1", path="/a?%00"), raw_path="/a?%00", grpc=Lacks.URL
    ),
    at("escaped unreserved characters", ADMIN, "/a%2Eb%2D%5F%7E/%2Eb%2e./%01", "/a.b-_~/.b../%01"),
    at("dots and slashes", ADMIN, "/a//../b/.././/./..", "/a/"),
    at("an escaped backslash", ADMIN, "/a%5c..%5Cadmin", "/a%5c..%5Cadmin"),
    at("a triple dot", ADMIN, "/a/.../b/..c/.d", "/a/.../b/..c/.d"),
    at("a path parameter", ADMIN, "/admin;x=1/y", "/admin;x=1/y", "reviews-v2"),
    at("a long path", matching(f"{{uri: {{exact: {LONG[:200]}}}}}"), LONG, LONG),
    at("a question mark without query", EXACT, "/Api/Get?", "/Api/Get?", "reviews-v2"),
    Case(
        "an empty path with a query",
        QUERY,
        Expected(by="reviews-v2", path="/?version=2"),
        "http://HOST?version=2",
        grpc=Lacks.QUERY,
    ),
    Case(
        "options of everything",
        "",
        Expected(404, flags="NR", attempts=0),
        method="OPTIONS",
        raw_path="*",
        grpc=Lacks.PSEUDO,
    ),
]

HTTP = [
    Case(
        "head",
        "",
        Expected(200, method="HEAD", body="", received={"content-length": "5"}),
        method="HEAD",
        answers=(Answer(body="12345"),),
        grpc=Lacks.HTTP,
        wire=True,
    ),
    Case("options", "", Expected(200, method="OPTIONS"), method="OPTIONS", grpc=Lacks.PSEUDO),
    Case(
        "a method of ones own",
        matching("{method: {exact: PURGE}}"),
        Expected(by="reviews-v2", method="PURGE"),
        method="PURGE",
        grpc=Lacks.PSEUDO,
    ),
    Case("a body", "", Expected(text="x" * 70000), method="POST", body="x" * 70000, grpc=Lacks.HTTP),
    Case(
        "a chunked body",
        "",
        Expected(text="hello", sent={"transfer-encoding": "chunked", "content-length": None}),
        method="POST",
        body="hello",
        chunked=True,
        grpc=Lacks.HTTP,
    ),
    Case(
        "a chunked answer",
        "",
        Expected(body="y" * 9000),
        answers=(Answer(body="y" * 9000, chunked=True),),
        grpc=Lacks.HTTP,
    ),
    Case("an answer of 204", "", Expected(204, body=""), answers=(Answer(204, body=""),), grpc=Lacks.STATUS),
    Case("an answer of 304", "", Expected(304, body=""), answers=(Answer(304, body=""),), grpc=Lacks.STATUS),
    Case("early hints", "", Expected(200), answers=(Answer(interim=True),), grpc=Lacks.HTTP),
    Case(
        "large headers",
        matching("{headers: {big: {prefix: xxx}}}"),
        Expected(by="reviews-v2", sent={"big": "x" * 20000}),
        headers=(("big", "x" * 20000),),
        grpc=Lacks.HTTP,
    ),
    Case(
        "repeated headers",
        "",
        Expected(sent={"k": "1, 2"}, received={"set-cookie": "a=1, b=2"}),
        headers=(("k", "1"), ("k", "2")),
        answers=(answering(200, ("set-cookie", "a=1"), ("set-cookie", "b=2")),),
        grpc=Lacks.HTTP,
    ),
    Case("host with its port", "", Expected(host="host-with-its-port:8081"), "http://HOST:8081/", grpc=Lacks.AUTHORITY),
    Case(
        "host without the default port",
        "",
        Expected(host="host-without-the-default-port"),
        "http://HOST:80/",
        grpc=Lacks.TARGET,
    ),
    Case(
        "hop by hop headers",
        "",
        Expected(sent={"x-hop": None, "keep-alive": None, "te": None}),
        headers=(("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "3"), ("te", "gzip")),
        grpc=Lacks.HTTP,
        wire=True,
    ),
    Case(
        "server header",
        "",
        Expected(received={"server": "own"}),
        answers=(answering(200, ("server", "own")),),
        grpc=Lacks.HTTP,
        envoy=Differs.SERVER,
    ),
]
