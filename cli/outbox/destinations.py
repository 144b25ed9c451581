"""Where callbacks may go: to public addresses, and to networks that the operator named.

A URL says a name, and a name can lead anywhere: to the loopback of this machine, to a cloud's metadata, to another
address a second later. So it is the address that is judged, after every form of writing it was resolved, and the
connection goes to that address and to no other.
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ledger.run.values import check_callback_url

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: Final = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's own services, behind a public address
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata is in it
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # translation to local addresses
    ipaddress.IPv6Network("fec0::/10"),  # site-local: given up long ago, and routed inside all the same
)
"""What is not public beside what the library knows."""
_PORTS: Final = {"http": 80, "https": 443}


class Forbidden(Exception):
    """A callback leads to where none may go."""


class Unresolved(Exception):
    """The name of a callback's host leads nowhere now."""


class Destination(NamedTuple):
    """Where one call goes.

    Attributes:
        address: To connect to, whatever the name resolves to by then.
        target: Path and query.
    """

    scheme: str
    host: str
    port: int
    address: str
    target: str


def destination_of(url: str, *, allowed: Sequence[Network] = ()) -> Destination:
    """Resolve a URL and judge where it leads.

    Args:
        url: With http or https.
        allowed: Networks beside the public ones.

    Raises:
        InvalidInput: when it is no URL of a callback.
        Forbidden: when one of its addresses is neither public nor allowed: which one is used is not ours to choose.
        Unresolved: when it has none.
    """
    parts = urlsplit(check_callback_url(url, field="url"))
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise Unresolved(f"{host} cannot be resolved: {exc}.") from exc
    addresses = [str(address[0]) for *_, address in found]
    for address in addresses:
        if not is_allowed(ipaddress.ip_address(address.partition("%")[0]), allowed):
            raise Forbidden(
                f"{host} leads to {address}, which is not public. If it is meant, start the daemon with"
                " --allow-network and its network, and retry the delivery."
            )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(parts.scheme, host, port, addresses[0], target)


def is_allowed(address: _Address, allowed: Sequence[Network] = ()) -> bool:
    """Tell whether a callback may go to an address; one inside another's notation is judged as what it is."""
    inner = _embedded(address)
    return any(inner in network for network in allowed) or _is_public(inner)


def _is_public(address: _Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NOT_PUBLIC)
    )


def _embedded(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    teredo = address.teredo
    if teredo is not None:
        return teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
