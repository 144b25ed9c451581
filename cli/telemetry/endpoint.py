"""`/metrics` of a process that serves nothing else."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from cli.telemetry.figures import CONTENT_TYPE

_TIMEOUT_S: Final = 10.0
"""For all of a request's head, and for taking the answer: who connects and says little holds a thread no longer."""
_AT_ONCE_MAX: Final = 8
"""Requests; one more is hung up on, since the thread that takes them must be there to end as well."""

logger = logging.getLogger("runfold.metrics")


@contextmanager
def serving_metrics(figures: Callable[[], str], *, host: str, port: int) -> Iterator[int]:
    """Answer `GET /metrics` in the background, until the block ends.

    Args:
        figures: Gives the text; called in a thread of its own.
        host: Address to listen on.
        port: 0 takes a free one.

    Yields:
        The port.

    Raises:
        OSError: when the address cannot be had.
    """
    server = _Server((host, port), figures)
    thread = threading.Thread(target=server.serve_forever, name="runfold metrics", daemon=True)
    thread.start()
    logger.info("figures are at http://%s:%d/metrics", host, server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _AT_ONCE_MAX

    def __init__(self, address: tuple[str, int], figures: Callable[[], str]) -> None:
        self.address_family = _family(address[0])
        self.figures = figures
        self.free = threading.BoundedSemaphore(_AT_ONCE_MAX)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a reader of figures went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    server: _Server

    def setup(self) -> None:
        super().setup()
        # the timeout of a socket begins anew with every byte; this one does not
        self._cut_head = threading.Timer(_TIMEOUT_S, _cut, [self.connection])
        self._cut_head.daemon = True
        self._cut_head.start()

    def finish(self) -> None:
        self._cut_head.cancel()
        super().finish()

    def do_GET(self) -> None:
        self._cut_head.cancel()
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "There is nothing but /metrics here.\n")
            return
        try:
            figures = self.server.figures()
        except Exception as error:
            logger.warning("could not read the figures: %s", error)
            self._answer(503, "The figures cannot be read now.\n")
            return
        self._answer(200, figures)

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _family(host: str) -> Any:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
