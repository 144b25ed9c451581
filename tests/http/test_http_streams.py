"""Live streams give each event once, in order, and none is missing: whatever breaks off in between."""

import asyncio
import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from http_server import Frame, Server, Stream, new_token, serving, start
from postgres_server import running_server

import ledger
from cli.http.app import Options, Service
from cli.http.limits import IDENTITY_FRESH_S
from cli.http.stream import Stretch, Subscriber
from ledger.filters import Filter


@pytest.fixture
def server(shared_url: str, tmp_path: Path) -> Iterator[Server]:
    with serving(shared_url, tmp_path) as running:
        yield running


class Follower(threading.Thread):
    """Follows the log as a careless client does: it hangs up at random, and always comes back with its last id.

    Args:
        server: Gives the server to ask now.
        until: Positions that it has to see before it stops.
    """

    def __init__(self, server: Callable[[], Server], *, seed: int, path: str = "/v1/events/stream?after=0") -> None:
        super().__init__(daemon=True)
        self.seen: list[int] = []
        self.reconnections = 0
        self.until: int | None = None
        self._server = server
        self._path = path
        self._random = random.Random(seed)

    def run(self) -> None:
        last: int | None = None
        while not self._is_done():
            self.reconnections += 1
            try:
                given = {} if last is None else {"Last_Event_ID": str(last)}
                stream = self._server().stream(self._path, **given)
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
                continue
            if stream.status != 200:
                stream.close()
                time.sleep(0.05)
                continue
            stream.socket.settimeout(3)
            last = self._read(stream, self._random.randint(1, 60), last)

    def _read(self, stream: Stream, patience: int, last: int | None) -> int | None:
        for frame in stream.frames():
            if frame.name is not None:
                assert frame.id is not None
                self.seen.append(frame.id)
                patience -= 1
            last = frame.id if frame.id is not None else last
            if not patience or self._is_done():
                break
        stream.close()
        return last

    def _is_done(self) -> bool:
        return self.until is not None and bool(self.seen) and self.seen[-1] >= self.until

    def finish(self, until: int) -> list[int]:
        self.until = until
        self.join(60)
        return self.seen


def positions(url: str) -> list[int]:
    with ledger.open(url) as log:
        return [event.position for event in log.read_all()]


def write(url: str, count: int, *, pause_s: float = 0.0, stop: threading.Event | None = None) -> None:
    """Write from another process's point of view: past the server."""
    with ledger.open(url) as log:
        for number in range(count):
            run = log.enqueue("test", project=f"p{number % 3}", labels={"n": str(number % 2)})
            log.append_log(run.id, [f"line {number}"])
            if stop is not None and stop.is_set():
                return
            time.sleep(pause_s)


def types(frames: Sequence[Frame]) -> list[str | None]:
    return [frame.name for frame in frames]


# --- one run ----------------------------------------------------------------------------------------------------


def test_run_stream_when_the_run_goes_on_and_ends(server: Server) -> None:
    """History comes first, then what happens, then the end; whoever comes back after that has nothing more to get."""
    run_id = server.enqueue(project="web")
    stream = server.stream(f"/v1/runs/{run_id}/stream")
    frames = stream.events()

    got = [next(frames)]
    server.post(f"/v1/runs/{run_id}:start", {"worker": "w1"})
    got.append(next(frames))
    server.post(f"/v1/runs/{run_id}:complete", {})
    got += list(frames)
    stream.close()

    assert ["enqueued", "started", "completed", "end"] == types(got)
    assert ("completed", "none", 3) == tuple(got[-1].data[name] for name in ("status", "verdict", "version"))
    first = got[0].data
    assert ("1.0", "io.runfold.run.enqueued.v1", "/ledger/web", run_id, f"{got[0].id:020d}") == tuple(
        first[name] for name in ("specversion", "type", "source", "subject", "sequence")
    )
    again = server.stream(f"/v1/runs/{run_id}/stream", Last_Event_ID=str(got[1].id))
    assert ["completed", "end"] == types(list(again.events()))
    again.close()
    over = server.stream(f"/v1/runs/{run_id}/stream", Last_Event_ID=str(got[2].id))
    assert 204 == over.status
    over.close()


def test_run_stream_when_only_some_types_are_wanted(server: Server) -> None:
    """A filter on types passes over the rest, and the end comes all the same."""
    run_id = server.enqueue()
    stream = server.stream(f"/v1/runs/{run_id}/stream?type=log_appended")

    server.post(f"/v1/runs/{run_id}/logs", {"lines": ["one"]})
    server.post(f"/v1/runs/{run_id}:abort")

    assert ["log_appended", "end"] == types(list(stream.events()))
    stream.close()


def test_run_stream_when_the_run_is_not_there(server: Server) -> None:
    """A stream of a run that does not exist is refused as any read of it."""
    stream = server.stream("/v1/runs/01a1fd75-100e-7000-98e1-7a01c6c8d887/stream")

    assert 404 == stream.status
    stream.close()


# --- the log ----------------------------------------------------------------------------------------------------


def test_log_stream_when_filtered(server: Server) -> None:
    """Type, kind, project and label each narrow a stream, alike for what was and for what comes."""
    wanted = "type=enqueued&kind=build&project=web&label=env%3Dci"
    facts = [("build", "web", "ci"), ("test", "web", "ci"), ("build", "api", "ci"), ("build", "web", "prod")]

    def enqueue_all() -> str:
        made = [server.enqueue(kind, project=project, labels={"env": env}) for kind, project, env in facts]
        server.post(f"/v1/runs/{made[0]}/logs", {"lines": ["not wanted"]})
        return made[0]

    before = enqueue_all()
    stream = server.stream(f"/v1/events/stream?after=0&{wanted}")
    frames = stream.events()
    got = [next(frames).data["subject"]]
    after = enqueue_all()
    got.append(next(frames).data["subject"])
    stream.close()

    assert [before, after] == got
    feed = server.get(f"/v1/events?{wanted}").json
    assert ([before, after], False) == ([event["run_id"] for event in feed["events"]], feed["more"])


@pytest.mark.erases
def test_log_stream_when_a_run_of_its_labels_was_purged(server: Server) -> None:
    """A server that remembers the labels gives of a purged run what one would that does not: `purged`, once."""
    path = "/v1/events/stream?after=0&label=env%3Dci"
    run = server.enqueue("build", labels={"env": "ci"})
    first = server.stream(path)
    assert run == next(first.events()).data["subject"]
    first.close()
    with ledger.open(server.ledger_url) as log:
        log.abort(run)
        log.purge(run, from_bin=False)

    again = server.stream(path)
    frame = next(again.events())
    again.close()
    assert (run, "purged") == (frame.data["subject"], frame.name)
    assert ["purged"] == [event["type"] for event in server.get("/v1/events?label=env%3Dci").json["events"]]


def test_log_stream_when_nothing_is_said_of_where(server: Server) -> None:
    """Without a position a stream begins now, and says where that is, so that its first event cannot be missed."""
    server.enqueue()
    stream = server.stream("/v1/events/stream")
    opening = next(stream.frames())

    made = server.enqueue()
    first = next(stream.events())
    stream.close()

    assert opening.name is None
    assert (opening.id or 0) < (first.id or 0)
    assert made == first.data["subject"]


def test_log_stream_when_the_token_is_bound_to_a_project(shared_url: str, tmp_path: Path) -> None:
    """A token sees its own project's events and no others, in the feed and in the stream."""
    with serving(shared_url, tmp_path, "--auth") as server:
        token = new_token(shared_url, tmp_path, "--scope", "events:read", "--project", "web")
        server.enqueue(project="api")
        server.enqueue()
        mine = server.enqueue(project="web")
        stream = server.stream("/v1/events/stream?after=0", Authorization=f"Bearer {token}")
        frames = stream.events()

        assert mine == next(frames).data["subject"]
        server.enqueue(project="api")
        live = server.enqueue(project="web")
        assert live == next(frames).data["subject"]
        stream.close()
        feed = server.get("/v1/events", Authorization=f"Bearer {token}").json
        assert [mine, live] == [event["run_id"] for event in feed["events"]]


def test_log_stream_when_subscribers_come_and_go(server: Server) -> None:
    """Twelve subscribers hang up at random while three writers go on: each sees every event once, in order."""
    followers = [Follower(lambda: server, seed=seed) for seed in range(12)]
    writers = [threading.Thread(target=write, args=(server.ledger_url, 120)) for _ in range(3)]
    for thread in (*followers, *writers):
        thread.start()
    for writer in writers:
        writer.join()
    expected = positions(server.ledger_url)

    for follower in followers:
        assert expected == follower.finish(expected[-1])
        assert follower.reconnections > 2


def test_log_stream_when_a_reader_is_slow(server: Server) -> None:
    """A reader that takes nothing is cut off, the others go on, and it resumes without loss."""
    lines = ["x" * 900] * 10
    run_id = server.enqueue()
    slow = server.stream("/v1/events/stream?after=0", buffer=4_096)
    first = next(slow.events())
    quick = Follower(lambda: server, seed=1)
    quick.start()

    with ledger.open(server.ledger_url) as log:
        for _ in range(2_500):
            log.append_log(run_id, lines)
    expected = positions(server.ledger_url)
    assert expected == quick.finish(expected[-1])
    deadline = time.monotonic() + 30
    while "runfold_subscribers_cut_total 1" not in server.get("/metrics").content.decode():
        assert time.monotonic() < deadline
        time.sleep(0.2)

    seen = [first.id, *[frame.id for frame in slow.events()]]
    slow.close()
    assert seen == expected[: len(seen)]
    assert len(seen) < len(expected)
    rest = Follower(lambda: server, seed=2, path=f"/v1/events/stream?after={seen[-1]}")
    rest.start()
    assert expected == [*seen, *rest.finish(expected[-1])]


def test_log_stream_when_the_server_is_killed(shared_url: str, tmp_path: Path) -> None:
    """Servers are killed and started again while writers go on: subscribers miss nothing and see nothing twice."""
    with serving(shared_url, tmp_path) as first:
        servers = [first]
        stop = threading.Event()
        writer = threading.Thread(target=write, args=(shared_url, 10_000), kwargs={"pause_s": 0.005, "stop": stop})
        followers = [Follower(lambda: servers[-1], seed=seed) for seed in range(6)]
        for thread in (writer, *followers):
            thread.start()
        try:
            for _ in range(3):
                time.sleep(1)
                servers[-1].kill()
                again = start(shared_url, tmp_path, port=first.address[1])
                again.token = first.token
                servers.append(again)
            time.sleep(0.5)
            stop.set()
            writer.join()
            expected = positions(shared_url)
            for follower in followers:
                assert expected == follower.finish(expected[-1])
        finally:
            stop.set()
            for server in servers[1:]:
                server.kill()


def test_log_stream_when_postgres_is_restarted(tmp_path: Path) -> None:
    """The database goes away and comes back: the server stays, and subscribers miss nothing and see nothing twice."""
    with running_server() as database:
        if not database.is_ours:
            pytest.skip("the named server is not ours to restart")
        url = database.create_database()
        ledger.open(url, migrate=True).close()
        with serving(url, tmp_path) as server:
            followers = [Follower(lambda: server, seed=seed) for seed in range(4)]
            for follower in followers:
                follower.start()
            for _ in range(2):
                write(url, 40)
                database.restart("immediate")
            write(url, 40)
            expected = positions(url)

            for follower in followers:
                assert expected == follower.finish(expected[-1])
            assert 200 == server.get("/readyz").status


def test_log_stream_when_a_thousand_listen(sqlite_url: str, tmp_path: Path) -> None:
    """A thousand open streams are served by one tail: each gets every event, and no thread is added for them."""
    with serving(sqlite_url, tmp_path) as server:
        streams = [server.stream("/v1/events/stream") for _ in range(1_000)]
        openings = [next(stream.frames()) for stream in streams]
        threads = thread_count(server)
        made = [server.enqueue() for _ in range(5)]

        for stream in streams:
            frames = stream.events()
            assert made == [next(frames).data["subject"] for _ in made]
        assert {0} == {opening.id for opening in openings}
        assert "runfold_subscribers 1000" in server.get("/metrics").content.decode()
        for stream in streams:
            stream.close()
        assert thread_count(server) - threads <= 32  # the writers' own, for the runs that were made meanwhile


def thread_count(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def test_stream_when_silent_and_then_revoked(shared_url: str, tmp_path: Path) -> None:
    """A silent stream says that it lives, with the position that its filter came to; a revoked token sees no more."""
    from command_line import runfold

    with serving(shared_url, tmp_path, "--auth") as server:
        token = new_token(shared_url, tmp_path, "--scope", "events:read")
        stream = server.stream("/v1/events/stream?type=deleted", Authorization=f"Bearer {token}")
        frames = stream.frames()
        opening = next(frames)
        run = server.enqueue()
        server.post(f"/v1/runs/{run}:abort", {})
        heartbeat = next(frames)
        listed = runfold("token", "list", "--url", shared_url, folder=tmp_path).rows
        done = runfold("token", "revoke", listed[-1][0], "--url", shared_url, folder=tmp_path)
        time.sleep(IDENTITY_FRESH_S)

        assert 200 == server.post(f"/v1/runs/{run}:delete", {}).status
        rest = list(frames)
        stream.close()

        assert 0 == done.code
        assert (None, True) == (heartbeat.name, (heartbeat.id or 0) > (opening.id or 0))
        assert [] == rest
        assert 401 == server.get("/v1/events", Authorization=f"Bearer {token}").status


def test_log_stream_when_the_log_ends_in_positions_that_nobody_got(postgres_url: str, tmp_path: Path) -> None:
    """A stream that has seen all there is waits, and asks the database for nothing, whatever numbers were left out."""
    with ledger.open(postgres_url, migrate=True) as log, psycopg.connect(postgres_url, autocommit=True) as database:
        log.enqueue("test")
        database.execute(
            "SELECT nextval(pg_get_serial_sequence('runfold.events', 'position')) FROM generate_series(1, 3)"
        )

        def transactions() -> int:
            database.execute("SELECT pg_stat_force_next_flush()")
            row = database.execute(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
            assert row is not None
            return int(row[0])

        with serving(postgres_url, tmp_path) as server:
            followed = server.stream("/v1/events/stream?after=0")
            frames = followed.frames()
            next(frames)
            first = next(frames)
            time.sleep(0.5)
            before = transactions()
            time.sleep(2)
            spent = transactions() - before
            log.enqueue("test")
            second = next(frames)
            followed.close()

        assert [1, 5] == [first.id, second.id]
        assert spent < 150  # the tail itself looks 20 times a second


def test_run_stream_when_the_tail_overtakes_its_reading(shared_url: str) -> None:
    """An event that was handed out before the stream joined the tail is not lost by one that comes just after."""

    async def followed(log: ledger.Ledger, run_id: str) -> bytes:
        service = Service(log, tokens=None, options=Options())
        hub = service.hub
        await hub.start()
        subscriber = Subscriber(Filter(types=frozenset({"annotated"})), 0, run_id=ledger.RunId(run_id))
        read, reads = hub._read_run, 0

        def read_slowly(subscriber: Subscriber) -> Stretch:
            nonlocal reads
            reads += 1
            if reads == 1:
                stretch = read(subscriber)
                wait_for_tail(log.annotate(run_id, note="wanted").position)
                return stretch
            if reads == 2:
                log.append_log(run_id, ["not wanted"])
                wait_for_tail(log.state(run_id).position)
            return read(subscriber)

        def wait_for_tail(position: int) -> None:
            until = time.monotonic() + 10
            while hub.position < position and time.monotonic() < until:
                time.sleep(0.005)
            time.sleep(0.05)

        hub._read_run = read_slowly  # type: ignore[method-assign]
        chunks = hub.chunks(subscriber)
        async with asyncio.timeout(20):
            seen = await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        await asyncio.to_thread(service.close)
        return seen

    with ledger.open(shared_url, migrate=True) as log:
        run_id = log.enqueue("test").id
        log.start(run_id, worker="w1")

        assert b"wanted" in asyncio.run(followed(log, run_id))
