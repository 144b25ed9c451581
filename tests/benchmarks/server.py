"""Rows about the server: enqueues over HTTP, reads meanwhile, and how soon a commit is with its subscribers.

The load comes from a process of its own that speaks HTTP with hardly a parser, so that it is the server that is
measured; both share the machine.
"""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

import uvloop

import ledger
from tests.benchmarks.databases import Database
from tests.benchmarks.measure import Line, at_least, at_most, percentile
from tests.benchmarks.session import Session
from tests.benchmarks.writers import processes_context

CONNECTIONS = 64
LOAD_S = 8.0
PACE = 1_500
READS_A_SECOND = 50
SUBSCRIBERS = 200
EVENTS = 300
EVENTS_A_SECOND = 50

BODY = b'{"kind":"test","project":"web","labels":{"branch":"main"},"input":{"commit":"0f3c","suite":"all"}}'


class Address(NamedTuple):
    """Where a server is, and what opens it."""

    host: str
    port: int
    token: str | None

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        bearer = "" if self.token is None else f"Authorization: Bearer {self.token}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Loaded(NamedTuple):
    """What a load reached: enqueues a second, and how long each enqueue and each read took."""

    rate: float
    writes_s: list[float]
    reads_s: list[float]


def server(session: Session) -> Iterator[Line]:
    """Enqueues as fast as they go, then 1,500 a second with reads meanwhile, then subscribers."""
    for database in session.databases:
        flat_out: list[Loaded] = []
        paced: list[Loaded] = []
        arrivals: list[list[float]] = []
        for _ in range(session.rounds):
            with running(database) as (address, url):
                flat_out.append(in_process(load, address, session.scale * LOAD_S, 0.0))
                paced.append(in_process(load, address, session.scale * LOAD_S, float(PACE)))
            with running(database) as (address, url):
                arrivals.append(subscribed(address, url, events=session.scaled(EVENTS)))
        rate, reached = median(each.rate for each in flat_out), median(each.rate for each in paced)
        yield Line(
            f"enqueues over HTTP, {CONNECTIONS} connections", database.name, f"{rate:,.0f}/s",
            f"p99 {p99_ms([each.writes_s for each in flat_out]):.0f} ms", rate, at_least(1_500),
        )  # fmt: skip
        reads = p99_ms([each.reads_s for each in paced])
        yield Line(
            f"GET of a run at {PACE:,} enqueues/s: p99", database.name, f"{reads:.1f} ms",
            f"{reached:,.0f} enqueues/s reached", reads, at_most(20, " ms"),
        )  # fmt: skip
        late = p99_ms(arrivals)
        p50 = median(percentile(each, 50) for each in arrivals) * 1_000
        yield Line(
            f"commit to {SUBSCRIBERS} SSE clients: p99", database.name, f"p50 {p50:.1f} ms, p99 {late:.1f} ms", "",
            late, at_most(50, " ms"),
        )  # fmt: skip


def p99_ms(rounds: list[list[float]]) -> float:
    return median(percentile(each, 99) for each in rounds) * 1_000


@contextmanager
def running(database: Database) -> Iterator[tuple[Address, str]]:
    """Run the server that users have, on a new ledger."""
    import sys

    url, runfold = database.new_ledger(), Path(sys.executable).with_name("runfold")
    with TemporaryDirectory() as folder:
        token = None
        if not url.startswith("sqlite"):
            made = [runfold, "token", "create", "load", "--scope", "admin", "--url", url]
            token = subprocess.run(made, cwd=folder, capture_output=True, text=True, check=True).stdout.split("\t")[0]
        command = [runfold, "serve", "--port", "0", "--rate", "0", "--url", url]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().rpartition(":")[2])
            yield Address("127.0.0.1", port, token), url
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


# --- the load ---------------------------------------------------------------------------------------------------


def in_process(work: Callable[..., Awaitable[Loaded]], *arguments: object) -> Loaded:
    """Do something in a process of its own."""
    context = processes_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, arguments, sender), daemon=True)
    process.start()
    sender.close()  # a load that fails ends the wait
    found: Loaded = receiver.recv()
    process.join(30)
    return found


def _run(work: Callable[..., Awaitable[object]], arguments: tuple[object, ...], pipe: Connection) -> None:
    async def main() -> None:
        async with asyncio.timeout(120):
            pipe.send(await work(*arguments))

    uvloop.run(main())


class _Client(asyncio.Protocol):
    """One connection: sends a request, waits for its answer, sends the next when it is due."""

    def __init__(self, request: bytes, *, until: float, pause_s: float, first_at: float) -> None:
        self.took_s: list[float] = []
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._pause_s = pause_s
        self._due = first_at
        self._received = b""

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the server hung up"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of uvloop, whose transports are no asyncio ones
        asyncio.get_running_loop().call_later(max(0.0, self._due - time.monotonic()), self._send)

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        if head[9:10] != b"2":
            self.done.set_exception(AssertionError(head))
            return
        self._received = body[length:]
        now = time.monotonic()
        self.took_s.append(now - self._sent_at)
        self._due += self._pause_s
        if now >= self._until:
            self.done.set_result(None)
            self._transport.close()
        elif self._pause_s and self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self._send)
        else:
            self._send()


async def load(address: Address, seconds: float, per_s: float) -> Loaded:
    """Enqueue over many connections, and read a run now and then.

    Args:
        address: The server.
        seconds: How long.
        per_s: Enqueues a second; 0 is as fast as they go.
    """
    began = time.monotonic()
    until = began + seconds
    pause_s = CONNECTIONS / per_s if per_s else 0.0
    run_id = await first_run(address)
    enqueue = address.request("POST", "/v1/runs", BODY)
    read = address.request("GET", f"/v1/runs/{run_id}")
    writers = [
        await connected(address, enqueue, until=until, pause_s=pause_s, first_at=began + pause_s * at / CONNECTIONS)
        for at in range(CONNECTIONS)
    ]
    reader = await connected(address, read, until=until, pause_s=1 / READS_A_SECOND, first_at=began)
    await asyncio.gather(*[each.done for each in writers], reader.done)
    writes = [took for each in writers for took in each.took_s]
    return Loaded(len(writes) / (time.monotonic() - began), writes, reader.took_s)


async def connected(address: Address, request: bytes, **timing: float) -> _Client:
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: _Client(request, **timing), address.host, address.port
    )
    return client


async def first_run(address: Address) -> str:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(address.request("POST", "/v1/runs", BODY))
    await reader.readuntil(b'"run_id":"')
    run_id = (await reader.readexactly(36)).decode()
    writer.close()
    return run_id


# --- subscribers ------------------------------------------------------------------------------------------------


def subscribed(address: Address, url: str, *, events: int) -> list[float]:
    """Commit events and give how much later than its commit each arrived at each subscriber."""
    context = processes_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(follow, (address, events, theirs), theirs), daemon=True)
    process.start()
    assert "ready" == ours.recv()
    committed: dict[int, float] = {}
    with ledger.open(url) as log:
        run = log.enqueue("test")
        time.sleep(0.5)
        for number in range(events):
            time.sleep(1 / EVENTS_A_SECOND)
            log.increment_stats(run.id, passed=1)
            committed[number + 2] = time.monotonic()
    arrivals: list[tuple[int, float]] = ours.recv()
    process.join(30)
    assert SUBSCRIBERS * events == len(arrivals)
    return [arrived - committed[version] for version, arrived in arrivals]


async def follow(address: Address, events: int, pipe: Connection) -> list[tuple[int, float]]:
    """Read many streams: the version of each event, and when it came."""
    connections = [await asyncio.open_connection(address.host, address.port) for _ in range(SUBSCRIBERS)]
    for reader, writer in connections:
        writer.write(address.request("GET", "/v1/events/stream?type=stats_incremented"))
        await reader.readuntil(b"retry: ")
    pipe.send("ready")
    followed = await asyncio.gather(*[_arrivals(reader, events) for reader, _ in connections])
    for _, writer in connections:
        writer.close()
    return [arrival for arrivals in followed for arrival in arrivals]


async def _arrivals(reader: asyncio.StreamReader, events: int) -> list[tuple[int, float]]:
    arrivals = []
    while len(arrivals) < events:
        found = await reader.readuntil(b'"runversion":')
        assert found
        version = (await reader.readuntil(b",")).rstrip(b",")
        arrivals.append((int(version), time.monotonic()))
    return arrivals
