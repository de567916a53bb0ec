"""Enrolment tokens on the control plane's side: what is not exactly as issued is refused."""

import base64
import json
import stat
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from proxyless.control_plane.ca.authority import CertificateAuthority
from proxyless.control_plane.ca.token_issuer import TokenIssuer
from proxyless.identity.token import read, read_file
from proxyless.model.errors import ConfigurationError, IdentityError


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def tokens(state_dir: Path) -> TokenIssuer:
    return TokenIssuer(state_dir, CertificateAuthority(state_dir).bundle)


def test_a_token_is_read_by_the_workload_and_verified_by_the_issuer(tokens: TokenIssuer, state_dir: Path) -> None:
    token = tokens.issue("default", "web")
    claims = tokens.verify(token)
    assert claims == read(token)
    assert (claims.namespace, claims.service_account) == ("default", "web")
    assert claims.root_sha256 == tuple(CertificateAuthority(state_dir).bundle.fingerprints)
    assert claims.expires == pytest.approx(time.time() + 3600, abs=5)


def test_tokens_survive_a_restart(tokens: TokenIssuer, state_dir: Path) -> None:
    again = TokenIssuer(state_dir, CertificateAuthority(state_dir).bundle)
    assert again.verify(tokens.issue("default", "web")).service_account == "web"


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(tokens: TokenIssuer, how: str) -> str:
    token = tokens.issue("default", "web")
    header, payload, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    key = tokens._key
    match how:
        case "no signature":
            return f"{header}.{payload}."
        case "algorithm none":
            return f"{part({'alg': 'none', 'typ': 'JWT'})}.{payload}."
        case "algorithm none, signed":
            return f"{part({'alg': 'none', 'typ': 'JWT'})}.{payload}.{signature}"
        case "another algorithm":
            return jwt.encode(claims, key + b"\0" * 32, algorithm="HS512")
        case "HS384 with our key":
            return jwt.encode(claims, key + key, algorithm="HS384")
        case "another key":
            return jwt.encode(claims, b"x" * 32, algorithm="HS256")
        case "another subject":
            return f"{header}.{part(claims | {'sub': 'system:serviceaccount:default:admin'})}.{signature}"
        case "later expiry":
            return f"{header}.{part(claims | {'exp': claims['exp'] + 1})}.{signature}"
        case "damaged signature":
            return token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
        case "another audience":
            return jwt.encode(claims | {"aud": "other"}, key, algorithm="HS256")
        case "another issuer":
            return jwt.encode(claims | {"iss": "other"}, key, algorithm="HS256")
        case "another trust domain":
            return jwt.encode(claims | {"trust_domain": "other"}, key, algorithm="HS256")
        case "empty":
            return ""
        case "long":
            return token + "A" * 9_000
        case _:
            missing = how.removeprefix("without ")
            return jwt.encode({k: v for k, v in claims.items() if k != missing}, key, algorithm="HS256")


@pytest.mark.parametrize(
    "how",
    [
        "no signature",
        "algorithm none",
        "algorithm none, signed",
        "another algorithm",
        "HS384 with our key",
        "another key",
        "another subject",
        "later expiry",
        "damaged signature",
        "another audience",
        "another issuer",
        "another trust domain",
        "empty",
        "long",
        "without exp",
        "without aud",
        "without iss",
        "without sub",
        "without trust_domain",
        "without root_sha256",
    ],
)
def test_tampered_tokens_are_refused(tokens: TokenIssuer, how: str) -> None:
    with pytest.raises(IdentityError) as refusal:
        tokens.verify(forged(tokens, how), allow_any=True)
    assert len(str(refusal.value)) < 300


def test_an_expired_token_is_refused(state_dir: Path) -> None:
    now = time.time()
    tokens = TokenIssuer(state_dir, CertificateAuthority(state_dir).bundle, clock=lambda: now)
    token = tokens.issue("default", "web", 60)
    now += 59
    tokens.verify(token)
    now += 2
    with pytest.raises(IdentityError, match="expired"):
        tokens.verify(token)


@pytest.mark.parametrize(
    ("namespace", "service_account", "ttl"),
    [("*", "*", 60), ("default", "*", 60), ("a:b", "web", 60), ("", "web", 60), ("default", "web", 0),
     ("default", "web", -1), ("default", "web", float("nan"))],
)  # fmt: skip
def test_tokens_that_are_not_issued(tokens: TokenIssuer, namespace: str, service_account: str, ttl: float) -> None:
    with pytest.raises(IdentityError):
        tokens.issue(namespace, service_account, ttl)


def test_the_dev_token_is_private_and_only_for_dev(tokens: TokenIssuer, state_dir: Path) -> None:
    path = tokens.write_dev_token()
    assert path == state_dir / "dev-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = read_file(path)
    assert tokens.verify(token, allow_any=True).any_identity
    with pytest.raises(IdentityError, match="without --dev"):
        tokens.verify(token)
    tokens.remove_dev_token()
    tokens.remove_dev_token()
    assert not path.exists()


def test_the_key_is_private_and_checked(tmp_path: Path, tokens: TokenIssuer, state_dir: Path) -> None:
    key = state_dir / "ca" / "token-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes().hex() not in repr(tokens)
    assert repr(key.read_bytes()) not in repr(tokens)
    bundle = CertificateAuthority(tmp_path).bundle
    short = tmp_path / "ca" / "token-key"
    short.touch(0o600)
    with pytest.raises(ConfigurationError, match="too short"):
        TokenIssuer(tmp_path, bundle)
    short.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        TokenIssuer(tmp_path, bundle)
