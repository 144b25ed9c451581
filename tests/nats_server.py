"""A real NATS server with JetStream, from the binary of a wheel, that tests may kill and start again."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nats

NATS_SERVER = str(Path(sys.executable).with_name("nats-server"))


class Stored(NamedTuple):
    """One message as the stream has it."""

    sequence: int
    subject: str
    headers: dict[str, str]
    body: bytes


class NatsServer:
    """A server on a port of its own, which it keeps."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "nats.log").open("ab") as said:
            self._process = subprocess.Popen(
                [NATS_SERVER, "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self._folder), *self._options],
                stdout=said,
                stderr=said,
            )
        give_up_at = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < give_up_at, (self._folder / "nats.log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def add_stream(self, name: str, **facts: Any) -> None:
        asyncio.run(self._add_stream(name, facts))

    async def _add_stream(self, name: str, facts: dict[str, Any]) -> None:
        async with await nats.connect(self.url) as client:
            await client.jetstream().add_stream(name=name, **facts)

    def publish(self, subject: str, body: bytes) -> None:
        """Publish as somebody else."""
        asyncio.run(self._publish(subject, body))

    async def _publish(self, subject: str, body: bytes) -> None:
        async with await nats.connect(self.url) as client:
            await client.jetstream().publish(subject, body)

    def stored(self, stream: str) -> list[Stored]:
        """Read a whole stream."""
        return asyncio.run(self._stored(stream))

    async def _stored(self, stream: str) -> list[Stored]:
        async with await nats.connect(self.url) as client:
            context = client.jetstream()
            try:
                state = (await context.stream_info(stream)).state
            except nats.js.errors.NotFoundError:
                return []
            found = []
            for sequence in range(max(1, state.first_seq), state.last_seq + 1):
                message = await context.get_msg(stream, sequence)
                found.append(Stored(sequence, message.subject, message.headers or {}, message.data or b""))
            return found


@contextmanager
def running_nats(folder: Path, *options: str) -> Iterator[NatsServer]:
    """Run a server for the block; what it stores outlives being killed."""
    folder.mkdir(exist_ok=True)
    server = NatsServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
