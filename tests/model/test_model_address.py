import pytest

from proxyless.model.address import join_address, split_address
from proxyless.model.errors import ConfigurationError


@pytest.mark.parametrize(
    ("address", "result"),
    [
        ("127.0.0.1:15012", ("127.0.0.1", 15012)),
        ("[::1]:15012", ("::1", 15012)),
        ("control-plane.example:1", ("control-plane.example", 1)),
    ],
)
def test_an_address_is_split_and_joined(address: str, result: tuple[str, int]) -> None:
    assert split_address(address) == result
    assert join_address(*result) == address


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("127.0.0.1", "write HOST:PORT"),
        (":15012", "write HOST:PORT"),
        ("[]:15012", "write HOST:PORT"),
        ("host:", "write HOST:PORT"),
        ("host:0", "write HOST:PORT"),
        ("host:65536", "write HOST:PORT"),
        ("host:999999999999", "write HOST:PORT"),
        ("host:１２", "write HOST:PORT"),
        ("host:-1", "write HOST:PORT"),
        ("http://host:80", "write HOST:PORT"),
        ("a host:80", "write HOST:PORT"),
        ("::1:15012", r"write an IPv6 address as \[ADDRESS\]:PORT"),
        ("[::1:15012", r"write an IPv6 address as \[ADDRESS\]:PORT"),
        ("[host]:15012", r"write an IPv6 address as \[ADDRESS\]:PORT"),
        ("[1::2::3]:15012", r"write an IPv6 address as \[ADDRESS\]:PORT"),
    ],
)
def test_what_is_no_address_is_refused_with_the_remedy(address: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^the setting is .*: {remedy}"):
        split_address(address, "the setting")


def test_port_0_where_any_port_will_do() -> None:
    assert split_address("127.0.0.1:0", any_port=True) == ("127.0.0.1", 0)
