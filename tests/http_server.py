"""Runs `runfold serve` as its users do, and talks to it with no more than the standard library."""

import http.client
import json
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from command_line import RUNFOLD, environment, runfold

PATIENCE_S = 30.0


class Answer(NamedTuple):
    """What the server answered; `json` is None for what is no JSON."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content) if "json" in self.headers.get("content-type", "") else None


class Frame(NamedTuple):
    """One server-sent event; a comment or a bare id has no name."""

    id: int | None
    name: str | None
    data: Any


class Stream:
    """An open stream of server-sent events."""

    def __init__(self, address: tuple[str, int], path: str, headers: Mapping[str, str], *, buffer: int = 0) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE_S)
        try:
            self._ask(address, path, headers)
        except BaseException:
            self.socket.close()
            raise
        self.status = self.response.status
        self.last_id: int | None = None

    def _ask(self, address: tuple[str, int], path: str, headers: Mapping[str, str]) -> None:
        self.socket.connect(address)
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{address[1]}", *[f"{k}: {v}" for k, v in headers.items()]]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.response = http.client.HTTPResponse(self.socket)
        self.response.begin()

    def frames(self) -> Iterator[Frame]:
        """Give frames until the server ends the stream, or the connection breaks."""
        number, name, data = None, None, None
        while True:
            try:
                line = self.response.readline()
            except (OSError, http.client.HTTPException, ValueError):
                return
            if not line:
                return
            text = line.decode().rstrip("\n")
            if not text:
                if number is not None:
                    self.last_id = number
                yield Frame(number, name, data)
                number, name, data = None, None, None
            elif text.startswith("id: "):
                number = int(text[4:])
            elif text.startswith("event: "):
                name = text[7:]
            elif text.startswith("data: "):
                data = json.loads(text[6:])

    def events(self) -> Iterator[Frame]:
        """Give the frames that carry something."""
        return (frame for frame in self.frames() if frame.name is not None)

    def close(self) -> None:
        self.response.close()
        self.socket.close()


class Server:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[str]", said: str, log: Path, *, ledger_url: str) -> None:
        self.ledger_url = ledger_url
        self.process = process
        self.said = said
        self.log = log
        found = re.search(r"on (https?://\S+)", said)
        assert found is not None, said
        self.url = found[1]
        parts = urlsplit(self.url)
        self.address = (parts.hostname or "", parts.port or 0)
        self.token: str | None = None

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        bearer = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return {name: value for name, value in {**bearer, **given}.items() if value}

    def ask(self, method: str, path: str, body: object = None, *, raw: bytes | None = None, **headers: str) -> Answer:
        """Ask once; `X_Y` among the headers is sent as `X-Y`, and an empty one is not sent."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            given = {"Content-Type": "application/json", **given}
        try:
            connection.request(method, path, content, self.headers(given))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def enqueue(self, kind: str = "test", **facts: Any) -> str:
        answer = self.post("/v1/runs", {"kind": kind, **facts})
        assert 201 == answer.status, answer
        return str(answer.json["run_id"])

    def stream(self, path: str, *, buffer: int = 0, **headers: str) -> Stream:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return Stream(self.address, path, self.headers(given), buffer=buffer)

    def stop(self) -> int:
        """Tell it to stop, and wait."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


def start(url: str, folder: Path, *options: str, port: int = 0, env: Mapping[str, str] | None = None) -> Server:
    """Start a server and wait until it answers."""
    log = folder / f"server-{time.monotonic_ns()}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [RUNFOLD, "serve", "--url", url, "--port", str(port), *options],
            cwd=folder,
            env=environment(folder, **(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
    said = process.stdout.readline() if ready else ""
    if "Serving" not in said:
        process.kill()
        process.wait(PATIENCE_S)
        raise AssertionError(f"the server did not start: {said}{log.read_text()}")
    return Server(process, said, log, ledger_url=url)


@contextmanager
def serving(url: str, folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server for the block; where it asks for tokens, its `ask` and `stream` send an admin's."""
    needs_token = "--auth" in options or not url.startswith("sqlite:")
    token = new_token(url, folder, "--scope", "admin") if needs_token else None
    server = start(url, folder, *options, env=env)
    server.token = token
    try:
        yield server
    finally:
        server.kill()


def new_token(url: str, folder: Path, *options: str, name: str = "tester") -> str:
    """Make a token with the command that users have."""
    done = runfold("token", "create", name, *options, "--url", url, folder=folder)
    assert 0 == done.code, done.err
    return done.rows[0][0]
