"""A real HTTP server that receives callbacks, and does what the test wants it to."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Call(NamedTuple):
    """One call that was received."""

    headers: dict[str, str]
    body: bytes

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Attributes:
    calls: What came, in order.
    answers: Statuses of the next answers; 200 when there are none left. A negative one is no answer at all.
    delay_s: Before each answer.
    location: Where redirects lead.
    said: The body of each answer.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: list[int] = []
        self.delay_s = 0.0
        self.location = ""
        self.said = b""
        self.changed = threading.Condition()
        self.url = ""

    def wait_for(self, count: int, *, timeout_s: float = 30.0) -> list[Call]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= count, timeout_s), f"{len(self.calls)} calls came"
            return list(self.calls)

    def receive(self, call: Call) -> int:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
            return self.answers.pop(0) if self.answers else 200


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver on the loopback."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = receiver.receive(Call({name.lower(): value for name, value in self.headers.items()}, body))
            time.sleep(receiver.delay_s)
            if status < 0:
                self.close_connection = True
                return
            try:
                self.send_response(status)
                if receiver.location:
                    self.send_header("location", receiver.location)
                self.send_header("content-length", str(len(receiver.said)))
                self.end_headers()
                self.wfile.write(receiver.said)
            except OSError:
                self.close_connection = True  # the caller did not wait so long

        log_message: Callable[..., None] = lambda *_: None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
