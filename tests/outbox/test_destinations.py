"""Where callbacks may go: judged by the address, however it is written."""

import ipaddress
import socket

import pytest

from cli.outbox import destinations
from cli.outbox.destinations import Forbidden, Unresolved, destination_of, is_allowed
from cli.outbox.sending import NotDelivered, post

FORBIDDEN = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:7f00:1:0:0:80ff:fffe",
    "fe80::1",
    "fec0::1",
    "feff:ffff::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_address_when_it_is_not_public(address: str) -> None:
    """No address of a private, local or special kind is allowed, in whichever notation."""
    assert not is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_address_when_it_is_public(address: str) -> None:
    """Public addresses are allowed."""
    assert is_allowed(ipaddress.ip_address(address))


def test_address_when_its_network_is_allowed() -> None:
    """A named network is allowed, and no other with it."""
    allowed = (ipaddress.ip_network("10.20.0.0/16"),)

    assert is_allowed(ipaddress.ip_address("10.20.3.4"), allowed)
    assert is_allowed(ipaddress.ip_address("::ffff:10.20.3.4"), allowed)
    assert not is_allowed(ipaddress.ip_address("10.21.3.4"), allowed)


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:7f00:1]/",
        "http://localhost/",
        "http://LOCALHOST:8080/",
    ],
)
def test_url_when_it_writes_the_loopback_otherwise(url: str) -> None:
    """Decimal, hexadecimal, octal and short forms are resolved before they are judged; a form that this system does not
    resolve leads nowhere either."""
    with pytest.raises((Forbidden, Unresolved)):
        destination_of(url)


def answers(monkeypatch: pytest.MonkeyPatch, *replies: list[str]) -> list[str]:
    """Let the name service give these addresses, one list a question; the last for ever."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        given = replies[min(len(asked), len(replies) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in given]

    monkeypatch.setattr(destinations.socket, "getaddrinfo", getaddrinfo)
    return asked


def test_name_when_one_of_its_addresses_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """One private address among public ones is enough to refuse a name."""
    answers(monkeypatch, ["93.184.216.34", "10.0.0.1"])

    with pytest.raises(Forbidden, match=r"10\.0\.0\.1"):
        destination_of("https://mixed.example/")


def test_name_when_it_is_rebound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere when it is asked again is asked once: the connection goes to what was judged."""
    asked = answers(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    connected: list[tuple[str, int]] = []

    def create_connection(address: tuple[str, int], **_: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", create_connection)

    with pytest.raises(NotDelivered):
        post("http://rebound.example/hook", b"{}", {}, timeout_s=1.0)

    assert ([("93.184.216.34", 80)], ["rebound.example"]) == (connected, asked)
