"""`/metrics` of a process of its own: whoever connects holds up neither others for long nor the end."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cli.telemetry import endpoint
from cli.telemetry.endpoint import serving_metrics

HEAD = b"GET /metrics HTTP/1.0\r\n"


@pytest.fixture
def silent() -> Iterator[list[socket.socket]]:
    """Connections that are closed with the test."""
    connections: list[socket.socket] = []
    yield connections
    for each in connections:
        each.close()


def connect(port: int) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port), timeout=20)
    connected.sendall(HEAD)
    return connected


def test_endpoint_when_many_say_nothing(silent: list[socket.socket]) -> None:
    """As many as are served at once may stay silent: one more is hung up on, and the end waits for nobody."""
    with serving_metrics(lambda: "figures\n", host="127.0.0.1", port=0) as port:
        silent += [connect(port) for _ in range(8)]
        one_more = connect(port)
        silent.append(one_more)
        one_more.settimeout(5)
        with suppress(ConnectionResetError):  # which tells that what it had said was not read
            assert b"" == one_more.recv(1)
        began_at = time.monotonic()

    assert time.monotonic() - began_at < 5


def test_endpoint_when_a_head_drips(silent: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that goes on for ever is cut off in time, and others are served then."""
    monkeypatch.setattr(endpoint, "_TIMEOUT_S", 1.0)
    with serving_metrics(lambda: "figures\n", host="127.0.0.1", port=0) as port:
        silent += [connect(port) for _ in range(8)]
        give_up_at = time.monotonic() + 8
        open_ones = list(silent)
        while open_ones:
            assert time.monotonic() < give_up_at, f"{len(open_ones)} drip on"
            open_ones = [each for each in open_ones if drips(each)]
            time.sleep(0.2)
        time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"figures\n" == answer.read()


def test_endpoint_when_figures_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a head is over with the head: figures may take longer."""
    monkeypatch.setattr(endpoint, "_TIMEOUT_S", 0.3)

    def figures() -> str:
        time.sleep(1.0)
        return "figures\n"

    with (
        serving_metrics(figures, host="127.0.0.1", port=0) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        assert b"figures\n" == answer.read()


def drips(connected: socket.socket) -> bool:
    try:
        connected.sendall(b"X: y\r\n")
    except OSError:
        return False
    return True
