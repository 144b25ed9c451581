"""Hostile schedules on PostgreSQL: a reader that remembers a position skips, unless it stops at the settled one."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from postgres_server import PostgresServer

import ledger

INSERT = (
    "INSERT INTO runfold.events (run_id, version, event_id, type, envelope, payload, salt)"
    " VALUES (%s, 1, %s, 'annotated', %b, %b, %b) RETURNING position"
)
NAIVE = "SELECT position FROM runfold.events WHERE position > %s ORDER BY position"


class Writer:
    """A raw session that appends one event of a run of its own and decides when to commit."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url)

    def insert(self) -> int:
        run_id, event_id = str(uuid.uuid4()), str(uuid.uuid4())
        envelope = (
            f'{{"commitment":"0","event_id":"{event_id}","recorded_at":"2026-01-01T00:00:00.000000Z",'
            f'"run_id":"{run_id}","schema_version":1,"type":"annotated"}}'
        )
        row = self.connection.execute(
            INSERT, (run_id, event_id, envelope.encode(), b'{"note":"x","type":"annotated"}', b"salt")
        ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def log(postgres_url: str) -> Iterator[ledger.Ledger]:
    with ledger.open(postgres_url) as opened:
        yield opened


@pytest.fixture
def writers(postgres_url: str) -> Iterator[list[Writer]]:
    made = [Writer(postgres_url) for _ in range(3)]
    yield made
    for writer in made:
        writer.connection.close()


def naive(url: str, after: int) -> list[int]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [row[0] for row in connection.execute(NAIVE, (after,))]


def read(log: ledger.Ledger, after: int) -> list[int]:
    return [event.position for event in log.read_all(after=after)]


def test_read_all_when_commits_come_out_of_order(log: ledger.Ledger, writers: list[Writer], postgres_url: str) -> None:
    """The later position commits first: the naive reader skips the earlier one for ever, ours waits and sees both."""
    early = writers[0].insert()
    late = writers[1].insert()
    writers[1].connection.commit()
    naive_seen = naive(postgres_url, 0)
    seen = read(log, 0)
    writers[0].connection.commit()

    naive_seen += naive(postgres_url, max(naive_seen))
    seen += read(log, max(seen, default=0))

    assert [late] == naive_seen
    assert [early, late] == seen


def test_read_all_when_the_slow_writer_rolls_back(log: ledger.Ledger, writers: list[Writer]) -> None:
    """A rollback leaves a hole that nobody waits for."""
    writers[0].insert()
    late = writers[1].insert()
    writers[1].connection.commit()
    before = read(log, 0)

    writers[0].connection.rollback()

    assert [] == before
    assert [late] == read(log, 0)


def test_read_all_when_a_writer_idles_after_a_savepoint(log: ledger.Ledger, writers: list[Writer]) -> None:
    """An event rolled back to a savepoint holds nobody up although its transaction stays open."""
    writers[0].connection.execute("SAVEPOINT s")
    writers[0].insert()
    writers[0].connection.execute("ROLLBACK TO SAVEPOINT s")

    late = writers[1].insert()
    writers[1].connection.commit()

    assert [late] == read(log, 0)


def test_read_all_when_a_writer_wrote_elsewhere_first(
    log: ledger.Ledger, writers: list[Writer], postgres_server: PostgresServer
) -> None:
    """An old transaction id, here or in another database, neither reorders nor stalls the log."""
    elsewhere = postgres_server.create_database()
    try:
        with psycopg.connect(elsewhere) as other:
            other.execute("CREATE TABLE t (i integer)")
            writers[0].connection.execute("CREATE TEMPORARY TABLE t (i integer)")
            first = writers[1].insert()
            writers[1].connection.commit()
            assert [first] == read(log, 0)
            second = writers[0].insert()
            writers[0].connection.commit()
            assert [first, second] == read(log, 0)
            other.rollback()
    finally:
        postgres_server.drop_database(elsewhere)


def test_read_all_when_copy_writes(log: ledger.Ledger, writers: list[Writer]) -> None:
    """COPY is marked as a writer too."""
    run_id, event_id = uuid.uuid4(), uuid.uuid4()
    with (
        writers[0].connection.cursor() as cursor,
        cursor.copy("COPY runfold.events (run_id, version, event_id, type, envelope) FROM STDIN") as copy,
    ):
        copy.write_row((run_id, 1, event_id, "annotated", b"{}"))
    writers[1].insert()
    writers[1].connection.commit()

    assert [] == read(log, 0)


def test_subscribe_when_writers_are_hostile(log: ledger.Ledger, postgres_url: str) -> None:
    """Under random delays and rollbacks each subscriber sees each committed event once, in one order."""
    stop = threading.Event()
    committed: list[int] = []
    lock = threading.Lock()

    def write(seed: int) -> None:
        chance, writer = random.Random(seed), Writer(postgres_url)
        while not stop.is_set():
            positions = [writer.insert() for _ in range(chance.randint(1, 3))]
            if chance.random() < 0.1:
                time.sleep(chance.uniform(0, 0.03))
            if chance.random() < 0.2:
                writer.connection.rollback()
                continue
            writer.connection.commit()
            with lock:
                committed.extend(positions)
        writer.connection.close()

    seen: list[list[int]] = [[], [], []]
    subscriptions = [log.subscribe() for _ in seen]

    def follow(number: int) -> None:
        for event in subscriptions[number]:
            seen[number].append(event.position)

    writing = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    following = [threading.Thread(target=follow, args=(number,)) for number in range(len(seen))]
    for thread in [*writing, *following]:
        thread.start()
    time.sleep(4)
    stop.set()
    for thread in writing:
        thread.join()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(len(positions) < len(committed) for positions in seen):
        time.sleep(0.02)
    for subscription in subscriptions:
        subscription.close()
    for thread in following:
        thread.join(timeout=10)

    assert len(committed) > 300
    assert [sorted(committed)] * 3 == seen


def test_read_all_when_another_database_of_the_server_is_named(postgres_url: str, log: ledger.Ledger) -> None:
    """The URL that a ledger shows names the database and keeps the password out."""
    secret = urlunsplit(
        urlsplit(postgres_url)._replace(netloc="postgres:hidden@" + urlsplit(postgres_url).netloc.split("@")[1])
    )

    with ledger.open(secret) as opened:
        assert "hidden" not in opened.store.url
        assert opened.store.url.endswith(urlsplit(postgres_url).path)
