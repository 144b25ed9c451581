"""Makes one call: to a checked address, within a time, following nothing."""

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from cli.outbox.destinations import Destination, Forbidden, Network, Unresolved, destination_of
from ledger.clock import monotonic
from ledger.errors import InvalidInput

ANSWER_BYTES_MAX: Final = 1_024
"""Of an answer, only its beginning is read, to tell why it was no success."""


class NotDelivered(Exception):
    """A call did not succeed.

    Attributes:
        is_final: Whether another attempt would be pointless.
    """

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, allowed: Sequence[Network] = ()
) -> None:
    """Post a body, and return when the receiver said that it has it.

    Args:
        url: Where to.
        body: What.
        headers: Beside those of HTTP itself.
        timeout_s: For all of it; an answer that comes drop by drop is cut off.
        allowed: Networks beside the public ones that it may go to.

    Raises:
        NotDelivered: when no success was heard of. The receiver may have got it all the same.
    """
    try:
        destination = destination_of(url, allowed=allowed)
    except (Forbidden, InvalidInput) as exc:
        raise NotDelivered(str(exc), is_final=True) from exc
    except Unresolved as exc:
        raise NotDelivered(str(exc)) from exc
    try:
        status, said = _exchange(destination, body, headers, timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as exc:  # http.client lets ValueErrors of bad answers out
        raise NotDelivered(f"{destination.host}: {type(exc).__name__}: {exc}") from exc
    if not 200 <= status <= 299:
        why = " Redirects are not followed." if 300 <= status <= 399 else ""
        raise NotDelivered(f"{destination.host} answered {status}.{why} {said}".rstrip(), is_final=status == 410)


def _exchange(destination: Destination, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    give_up_at = monotonic() + timeout_s
    connected = socket.create_connection((destination.address, destination.port), timeout=timeout_s)
    connection = http.client.HTTPConnection(destination.host, destination.port)
    try:
        if destination.scheme == "https":  # wrapping takes the descriptor away, so the time runs on what comes of it
            connected = ssl.create_default_context().wrap_socket(
                connected, server_hostname=destination.host, do_handshake_on_connect=False
            )
        with _cutting(connected, at=give_up_at, timeout_s=timeout_s):
            if isinstance(connected, ssl.SSLSocket):
                connected.do_handshake()
            connection.sock = connected
            given = {"connection": "close", **_host(destination), **headers}
            connection.request("POST", destination.target, body, given)
            answer = connection.getresponse()
            said = "" if 200 <= answer.status <= 299 else answer.read(ANSWER_BYTES_MAX).decode(errors="replace")
            return answer.status, said
    finally:
        connection.close()
        connected.close()


@contextmanager
def _cutting(connected: socket.socket, *, at: float, timeout_s: float) -> Iterator[None]:
    """Cut a connection when its time is over: a timeout of a socket begins anew with every byte, this one does not.

    Raises:
        TimeoutError: when it was cut, whatever had come by then: the end of a head that is cut looks like its end.
    """
    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        with suppress(OSError):  # not SSLSocket's own shutdown: after it, what is still there is read as plain text
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    watch = threading.Timer(max(0.0, at - monotonic()), cut)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        if is_over.is_set():
            raise TimeoutError(f"there was no whole answer within {timeout_s:g} s")


def _host(destination: Destination) -> dict[str, str]:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    is_usual = destination.port == (443 if destination.scheme == "https" else 80)
    return {"host": host if is_usual else f"{host}:{destination.port}"}
