"""Stands between a client and a server, and loses answers on demand: the request is done, its answer never comes."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

PATIENCE_S = 30.0

Loss = Literal["cut", "unknown", "moved"]
"""How an answer is lost: the connection is cut; the server says that it does not know; a web page comes instead."""


class LossyProxy:
    """A proxy in front of one server.

    Attributes:
        url: Its own.
        asked: Method and path of what was asked through it, in order.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.asked: list[tuple[str, str]] = []
        self._losses: list[tuple[str, Loss]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                proxy._pass_on(self, address)

            do_POST = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def lose(self, part: str, how: Loss) -> None:
        """Lose the answer to the next request whose path holds this."""
        self._losses.append((part, how))

    def _pass_on(self, handler: BaseHTTPRequestHandler, address: tuple[str, int]) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or None
        self.asked.append((handler.command, handler.path))
        upstream = http.client.HTTPConnection(*address, timeout=PATIENCE_S)
        headers = {name: value for name, value in handler.headers.items() if name.lower() != "host"}
        upstream.request(handler.command, handler.path, body, headers)
        answer = upstream.getresponse()
        status, content, kind = answer.status, answer.read(), answer.headers.get("Content-Type", "")
        upstream.close()
        loss = next((loss for loss in self._losses if loss[0] in handler.path), None)
        if loss is not None:
            self._losses.remove(loss)
            if loss[1] == "cut":
                handler.close_connection = True
                return
            status, content, kind = _INSTEAD[loss[1]]
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


_UNKNOWN = {
    "type": "urn:runfold:problem:outcome-unknown",
    "title": "Outcome unknown",
    "status": 503,
    "detail": "the connection was lost during the commit of 1 event(s): they may be in the log or not.",
    "code": "outcome-unknown",
    "event_ids": ["01a1fd75-100e-7000-98e1-7a01c6c8d887"],
}
_INSTEAD = {
    "unknown": (503, json.dumps(_UNKNOWN).encode(), "application/problem+json"),
    "moved": (301, b"<html>moved</html>", "text/html"),
}


@contextmanager
def losing(address: tuple[str, int]) -> Iterator[LossyProxy]:
    """Run a proxy for the block."""
    proxy = LossyProxy(address)
    thread = threading.Thread(target=proxy._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy._server.shutdown()
        proxy._server.server_close()
        thread.join(PATIENCE_S)
