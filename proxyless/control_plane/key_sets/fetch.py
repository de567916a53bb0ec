"""One download of a JSON Web Key Set, which trusts nothing of what comes: bounded in time and size, and read first.

Source: Istio's pilot/pkg/model/jwks_resolver.go. Unlike there a redirect is not followed, and where a name leads is
looked at once connected: link-local addresses, where clouds keep credentials, are not asked.
"""

import asyncio
import json
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import httpx2

from proxyless.control_plane.resources import key_sets
from proxyless.model.authentication import MAX_JWKS
from proxyless.model.errors import ProxylessError

_DIRECT = {"accept": "application/json", "accept-encoding": "identity"}


class FetchError(ProxylessError):
    """Why there is no key set; nothing of an answer is in it."""


async def fetch(url: str, within: float) -> str:
    """The key set at ``url``, or at the one that a discovery document there names, within ``within`` seconds.

    Proxies are taken from the environment. Raises FetchError.
    """
    try:
        async with asyncio.timeout(within), httpx2.AsyncClient(timeout=None, headers=_DIRECT) as client:
            text = await _get(client, url)
            if url.endswith(key_sets.DISCOVERY):
                text = await _get(client, _named(text, url))
    except TimeoutError:
        raise FetchError(f"no answer within {within:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise FetchError(str(error) or type(error).__name__) from error
    if fault := key_sets.fault(text):
        raise FetchError(f"what came {fault}")
    return text


async def _get(client: httpx2.AsyncClient, url: str) -> str:
    body = bytearray()
    async with client.stream("GET", url, extensions={"trace": _connected}) as response:
        if response.status_code != 200:
            aside = "; redirects are not followed" if response.is_redirect else ""
            raise FetchError(f"{url} answered {response.status_code}{aside}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise FetchError(f"{url} answered in an encoding that was not asked for")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_JWKS:
                raise FetchError(f"{url} answered with more than {MAX_JWKS} bytes")
    return body.decode()


def _named(document: str, url: str) -> str:
    """The key set's URL in a discovery document."""
    try:
        found = json.loads(document)
    except RecursionError as error:
        raise FetchError(f"{url} is nested too deeply") from error
    named = found.get("jwks_uri") if isinstance(found, dict) else None
    if not isinstance(named, str) or not key_sets.is_url(named):
        raise FetchError(f"{url} names no jwks_uri")
    if url.startswith("https:") and not named.startswith("https:"):
        raise FetchError(f"{url} names a jwks_uri that is not https")
    return named


async def _connected(event: str, info: Mapping[str, Any]) -> None:
    """Called by the HTTP client; before anything is sent."""
    if event != "connection.connect_tcp.complete":
        return
    stream = info["return_value"]
    address = ip_address(str(stream.get_extra_info("server_addr")[0]).partition("%")[0])
    if (getattr(address, "ipv4_mapped", None) or address).is_link_local:
        await stream.aclose()
        raise FetchError(f"{address} is a link-local address, which is not asked for keys")
