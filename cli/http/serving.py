"""Runs the server in this process: the socket, the web server, and an orderly end."""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cli.http import limits
from cli.http.app import Service, make_app
from cli.worker_logs import TextFormatter

_BACKLOG: Final = 2_048


class _Protocol(HttpToolsProtocol):
    """Lets a stream end its connection at once; nothing in ASGI does."""

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """Ends open streams when it is told to stop, which would otherwise outlast everything."""

    def __init__(self, config: uvicorn.Config, *, service: Service, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.hub.close()
        await super().shutdown(sockets=sockets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen.

    Attributes:
        port: 0 takes any that is free.
        certificate: File of the TLS certificate; None is plain HTTP.
    """

    host: str
    port: int
    certificate: str | None = None
    key: str | None = None


def listen(address: Address) -> socket.socket:
    """Take the address, before anything is promised.

    Raises:
        OSError: when it cannot be had.
    """
    family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(where)
    except OSError:
        listening.close()
        raise
    return listening


def serve(service: Service, *, listening: socket.socket, address: Address, started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are finished.

    Args:
        service: What is served.
        listening: From `listen`.
        address: Where, and with which certificate.
        started: Called once requests are answered.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("runfold").setLevel(logging.INFO)
    config = uvicorn.Config(
        make_app(service),
        http=_Protocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=limits.SHUTDOWN_S,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
    server = _Server(config, service=service, started=started)

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)  # uvicorn raises the signal again when it is done; a stop on request is no failure
    server.run(sockets=[listening])
