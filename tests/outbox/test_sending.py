"""The time of one call: all of it, over plain TCP and over TLS, however slowly the other side goes on."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from cli.outbox.sending import NotDelivered, post

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
PATIENCE_S = 8.0
"""For how long the other side drips; far longer than any call here may take."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who certifies, and is trusted by nobody but the test."""
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Gives what makes the authority trusted."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return lambda: monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@contextmanager
def answering(answer: Callable[[socket.socket], None], tls: ssl.SSLContext | None) -> Iterator[int]:
    """Take one connection, and let a function answer it; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            with suppress(OSError):
                connected, _ = listening.accept()
                if tls is not None:
                    connected = tls.wrap_socket(connected, server_side=True)
                with connected:
                    answer(connected)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(2 * PATIENCE_S)


def drip(connected: socket.socket, beginning: bytes, drop: bytes) -> None:
    connected.recv(65_536)
    connected.sendall(beginning)
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        connected.sendall(drop)
        time.sleep(0.1)


def in_the_head(connected: socket.socket) -> None:
    drip(connected, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")


def in_the_body(connected: socket.socket) -> None:
    drip(connected, b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n", b"x")


def in_the_handshake(connected: socket.socket) -> None:
    drip(connected, b"\x16\x03\x03\x40\x00", b"\0")  # a record of 16 KiB


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        ("http", in_the_head),
        ("http", in_the_body),
        ("https", in_the_head),
        ("https", in_the_body),
        ("https", in_the_handshake),
    ],
)
def test_call_when_the_answer_drips(
    authority: trustme.CA,
    trust: Callable[[], None],
    scheme: str,
    answer: Callable[[socket.socket], None],
) -> None:
    """A call ends when its time is over, wherever the other side drips, and is no success."""
    trust()
    tls = server_side(authority) if scheme == "https" and answer is not in_the_handshake else None
    with answering(answer, tls) as port:
        began_at = time.monotonic()

        with pytest.raises(NotDelivered, match=r"within 1 s"):
            post(f"{scheme}://127.0.0.1:{port}/", b"{}", {}, timeout_s=1.0, allowed=LOOPBACK)

        assert 0.9 < time.monotonic() - began_at < PATIENCE_S / 2


def test_call_when_its_certificate_is_trusted(authority: trustme.CA, trust: Callable[[], None]) -> None:
    """Over TLS a body arrives as it was; where nobody trusts the certificate, nothing does."""
    came: list[bytes] = []

    def answer(connected: socket.socket) -> None:
        while not came or not came[0].endswith(b"{}"):
            came[:] = [b"".join(came) + connected.recv(65_536)]
        connected.sendall(b"HTTP/1.1 204 Fine\r\n\r\n")

    with (
        answering(answer, server_side(authority)) as port,
        pytest.raises(NotDelivered, match=r"certificate verify failed"),
    ):
        post(f"https://127.0.0.1:{port}/hook", b"{}", {}, timeout_s=5.0, allowed=LOOPBACK)
    assert [] == came

    trust()
    with answering(answer, server_side(authority)) as port:
        post(f"https://127.0.0.1:{port}/hook", b"{}", {}, timeout_s=5.0, allowed=LOOPBACK)

    assert came[0].startswith(b"POST /hook HTTP/1.1\r\n")


def server_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context
