"""Reading an enrolment token on the workload's side."""

from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.identity.token import read, read_file
from proxyless.model.errors import IdentityError

CLAIMS: dict[str, Any] = {
    "iss": "proxyless",
    "aud": "proxyless-ca",
    "sub": "system:serviceaccount:default:web",
    "exp": 2_000,
    "trust_domain": "cluster.local",
    "root_sha256": ["a" * 64],
}


def token(**changes: Any) -> str:
    claims = {key: value for key, value in (CLAIMS | changes).items() if value is not None}
    return jwt.encode(claims, b"k" * 32, algorithm="HS256")


def test_a_token_says_who_where_and_until_when() -> None:
    claims = read(token(), now=1_999)
    assert (claims.namespace, claims.service_account, claims.expires) == ("default", "web", 2_000)
    assert claims.root_sha256 == ("a" * 64,)
    assert str(claims.identity()) == "spiffe://cluster.local/ns/default/sa/web"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "audience"),
        ({"sub": None}, "subject"),
        ({"sub": "default/web"}, "subject"),
        ({"sub": "system:serviceaccount:default:*"}, "subject"),
        ({"sub": "system:serviceaccount:*:web"}, "subject"),
        ({"sub": "system:serviceaccount:a/b:web"}, "cannot be part"),
        ({"sub": "system:serviceaccount:default:web:x"}, "subject"),
        ({"exp": None}, "no expiry"),
        ({"exp": 1_000}, "expired at 1970-01-01 00:16:40 UTC"),
        ({"exp": 1_500}, "expired at 1970-01-01 00:25:00 UTC"),
        ({"trust_domain": None}, "no trust domain"),
        ({"trust_domain": "Cluster Local"}, "trust domain"),
        ({"root_sha256": None}, "root_sha256"),
        ({"root_sha256": []}, "root_sha256"),
        ({"root_sha256": ["A" * 64]}, "root_sha256"),
        ({"root_sha256": ["a" * 63]}, "root_sha256"),
        ({"root_sha256": "a" * 64}, "root_sha256"),
        ({"root_sha256": [1]}, "root_sha256"),
        ({"root_sha256": ["a" * 64] * 17}, "root_sha256"),
    ],
)
def test_a_wrong_claim_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(IdentityError, match=complaint):
        read(token(**changes), now=1_500)


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "....", "e30.e30.e30", "x" * 9_000, "\0", "ä.ö.ü"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        read(text, now=0)


@given(text=st.text(max_size=100))
@settings(max_examples=100, deadline=None)
def test_garbage_never_raises_anything_else(text: str) -> None:
    with pytest.raises(IdentityError):
        read(text, now=0)


@pytest.mark.parametrize(
    ("subject", "wish", "result"),
    [
        ("default:web", ("", ""), "default/sa/web"),
        ("default:web", ("default", "web"), "default/sa/web"),
        ("default:web", ("other", ""), "token is for service account default/web"),
        ("default:web", ("", "admin"), "--service-account default/admin"),
        ("*:*", ("shop", "cart"), "shop/sa/cart"),
        ("*:*", ("", "cart"), "for any identity"),
        ("*:*", ("", ""), "for any identity"),
    ],
)
def test_which_identity_to_ask_for(subject: str, wish: tuple[str, str], result: str) -> None:
    claims = read(token(sub=f"system:serviceaccount:{subject}"), now=0)
    if "/sa/" in result:
        assert str(claims.identity(*wish)).endswith(result)
    else:
        with pytest.raises(IdentityError, match=result):
            claims.identity(*wish)


def test_token_files(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(IdentityError, match="does not exist"):
        read_file(path)
    for content, complaint in [(b" \n", "is empty"), (b"x" * 9_000, "more than")]:
        path.write_bytes(content)
        with pytest.raises(IdentityError, match=complaint) as refusal:
            read_file(path)
        assert str(path) in str(refusal.value)
    path.write_text(f"\n  {token()}\n")
    assert read_file(path) == token()
    with pytest.raises(IdentityError, match="cannot be read"):
        read_file(tmp_path)
